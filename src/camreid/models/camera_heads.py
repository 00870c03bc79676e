"""One head per camera: identities that are labelled within each camera only."""

from collections.abc import Iterable, Mapping
from typing import Any, Literal

import torch
from torch import Tensor

from camreid.errors import InputError
from camreid.labels import LabelMap, rows_of
from camreid.models.head import Classifier, RemapHead


class CameraHead(RemapHead):
    """The classifier of one camera, over the people of all, of whom it trains that camera's own.

    As in intra-camera supervision (Zhu et al. 2019; Qi et al. 2020): who is who is known within a
    camera, not across cameras. The rows of people whom the camera does not have are never used.

    Args:
        camera: 1-based.
        dim: see `RemapHead`, as all that follows.
        labels: see `RemapHead`.
        classifier: see `RemapHead`.
        scale: see `RemapHead`.
        margin: see `RemapHead`.
        bias: see `RemapHead`.

    Attributes:
        members: (rows,) bool, whose people this camera has among its train images.
        trained: (rows,) bool, whose rows it has trained in fits before, also of people whom it has
            no more: these rows are left alone, and known in tests.
        started: (rows,) bool, which rows came with the starting weights, of this camera or of a
            plain head; all, where there were none.
    """

    members: Tensor
    trained: Tensor
    started: Tensor

    def __init__(
        self,
        camera: int,
        dim: int,
        labels: LabelMap,
        classifier: Classifier = "linear",
        scale: float = 1.0,
        margin: float = 0.0,
        bias: bool = False,
    ) -> None:
        super().__init__(dim, labels, classifier, scale, margin, bias)
        self.camera = camera
        self.register_buffer("members", torch.zeros(len(labels), dtype=torch.bool))
        self.register_buffer("trained", torch.zeros(len(labels), dtype=torch.bool))
        started = torch.ones(len(labels), dtype=torch.bool)
        self.register_buffer("started", started, persistent=False)

    @property
    def known(self) -> Tensor:
        """(rows,) bool: whose rows are this camera's, trained in this fit or before."""
        return self.members | self.trained

    def take_members(self, members: Tensor | None, labels: LabelMap) -> None:
        """Be told of the people of another head whose rows were taken.

        Args:
            members: (len(labels),) bool, whom its camera knows; None of a plain head, which has
                trained all of its rows and says nothing of cameras.
            labels: whose its rows are.
        """
        rows = labels.rows(self.pids.cpu())
        known = (rows >= 0).to(self.members.device)
        self.started[:] = known
        if members is not None:
            self.members[known] = members.to(self.members)[rows[rows >= 0]]
            self.trained[known] = self.members[known]
            self.started &= self.trained

    @property
    def unstarted(self) -> LabelMap:
        """The camera's people whose rows it has not trained."""
        return LabelMap(tuple(self.pids[self.members & ~self.started].tolist()))

    def _typical(self) -> Tensor:
        """(rows,) bool: those of others of this camera, as the rest were never trained."""
        return self.started.clone()

    def _load_from_state_dict(self, state: dict[str, Any], prefix: str, *rest: Any) -> None:
        members = state.get(f"{prefix}members")
        if members is not None:  # checkpoints of before `trained` lack it
            state.setdefault(f"{prefix}trained", torch.zeros_like(members))
        super()._load_from_state_dict(state, prefix, *rest)


Heads = Mapping[int, CameraHead]


def known_rows(state: Mapping[str, Tensor], name: str) -> Tensor | None:
    """(rows,) bool: `known` of a head by camera in a state dict; None of a plain one.

    Args:
        state: of a network.
        name: of the head in it, such as `heads.c1`.
    """
    members = state.get(f"{name}.members")
    return None if members is None else members | state.get(f"{name}.trained", members)


def set_members(heads: Heads, pairs: Iterable[tuple[int, int]]) -> None:
    """Tell the heads whom each camera has.

    Args:
        heads: by camera.
        pairs: pid and camera (1-based) of the train images. Of people who are not among them, the
            heads keep what they know. Those whom a camera has no more are not its members, so that
            nothing is learnt of them there, but stay among those whose rows it has trained.
    """
    unique = sorted(set(pairs))
    if not heads or not unique:
        return
    first = next(iter(heads.values()))
    pids, cameras = torch.tensor(unique, dtype=torch.int64, device=first.pids.device).unbind(1)
    rows = first.rows(pids)
    for camera, head in heads.items():
        head.members[rows[rows >= 0]] = False
        head.members[rows[(rows >= 0) & (cameras == camera)]] = True


def require_members(heads: Heads) -> None:
    """Refuse heads that nobody has told.

    Raises:
        InputError: there are heads, and none knows anybody of its camera.
    """
    if heads and not any(bool(head.members.any()) for head in heads.values()):
        raise InputError(
            "a head per camera learns nothing before it is told whom its camera has: fit with a "
            "ReIDDataModule, or call set_cameras(pairs of pid and camera) before; people who have "
            "no row get one by model.unknown=extend."
        )


def own_logits(
    heads: Heads,
    logits: Mapping[str, Tensor],
    rows: Tensor,
    cameras: Tensor,
    whose: Literal["members", "known"],
) -> tuple[Tensor, Tensor, Tensor]:
    """What each image's own camera says of it.

    Args:
        heads: by camera.
        logits: (B, rows) of each head, by its name.
        rows: (B,) true rows, -1 for none.
        cameras: (B,) 1-based.
        whose: rows an image is classified among: to learn, those of its camera's members; to be
            tested, those that it has ever trained, too.

    Returns:
        Logits (B, rows) of the head of the image's camera; (B, rows) bool, whose people that
        camera has; and the true rows, -1 where it does not have the person or there is no such
        camera.
    """
    names = {camera: f"c{camera}" for camera in heads}
    places = rows_of(torch.tensor(list(heads)), cameras)
    known = places >= 0
    some = places.clamp(min=0)
    stacked = torch.stack([logits[names[camera]] for camera in heads])  # (C, B, rows)
    own = stacked[some, torch.arange(len(some), device=some.device)]
    among = torch.stack([getattr(head, whose) for head in heads.values()])[some] & known[:, None]
    has = among.gather(1, rows.clamp(min=0)[:, None])[:, 0] if among.shape[1] else known
    return own, among, torch.where(has & (rows >= 0), rows, -1)
