"""Retrieval as a torchmetrics metric: features in, mAP and Rank-k out, each image once."""

from functools import partial
from typing import Any, Literal, get_args

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat
from torchmetrics.utilities.distributed import gather_all_tensors

from camreid.errors import NoValidQuery
from camreid.evaluation.features import FeatureTable, Images
from camreid.evaluation.protocols import Protocol, RankingResult
from camreid.evaluation.ranking import rank
from camreid.evaluation.scores import Metric as Distance

AnyProtocol = Protocol | Literal["auto"]
Role = Literal["query", "gallery", "both"]
_ROLES: tuple[Role, ...] = get_args(Role)


class RetrievalMetric(Metric):
    """mAP, mINP and Rank-1, -5, -10; images of one role and index, as repeated by DDP, count once.

    Features are kept on the CPU, and ranked on the metric's device. The protocol `auto` is
    `within-camera` for images of one camera, without only the query image where no identity has
    two sequences, else `cross-camera`.

    >>> metric = RetrievalMetric()
    >>> pids, cameras, index = torch.tensor([5, 7, 5]), torch.tensor([0, 0, 1]), torch.arange(3)
    >>> metric.update(torch.eye(3)[[0, 1, 0]], pids, cameras, index, role="both")
    >>> metric.compute()["mAP"].item()
    1.0
    """

    full_state_update = False
    features: list[Tensor]
    labels: list[Tensor]

    def __init__(
        self, distance: Distance = "cosine", protocol: AnyProtocol = "cross-camera", **kwargs: Any
    ) -> None:
        super().__init__(**{"dist_sync_fn": gather_from_cpu, **kwargs})
        self.distance, self.protocol = distance, protocol
        self.add_state("features", default=[], dist_reduce_fx="cat")
        self.add_state("labels", default=[], dist_reduce_fx="cat")

    def update(
        self,
        features: Tensor,
        pids: Tensor,
        cameras: Tensor,
        index: Tensor,
        role: Role,
        sequences: Tensor | None = None,
    ) -> None:
        """Add (B, D) features with (B,) int64 labels; `index` numbers the images of a role.

        Images of the role `both` are each ranked against all the others.
        """
        sequences = torch.full_like(pids, -1) if sequences is None else sequences
        kind = torch.full_like(pids, _ROLES.index(role))
        self.features.append(features.detach().cpu())
        self.labels.append(torch.stack([kind, index, pids, cameras, sequences], dim=1).cpu())

    def compute(self) -> dict[str, Tensor]:
        """Scalars `mAP`, `mINP`, `rank1`, `rank5`, `rank10` in 0..1 and `valid_queries`."""
        return {name: torch.tensor(float(v)) for name, v in self.ranking().scalars().items()}

    def ranking(self, split: Any = None) -> RankingResult:
        """The whole result, over all processes; see `table` for the split."""
        table = self.table(split)
        ranked = partial(rank, **table.tensors, metric=self.distance, device=self.device)
        if self.protocol != "auto":
            return ranked(protocol=self.protocol)
        cameras = torch.unique(torch.cat([table.query.cameras, table.gallery.cameras]))
        if len(cameras) != 1:
            return ranked()
        try:
            return ranked(protocol="within-camera")
        except NoValidQuery:  # every identity of this camera is in one sequence only
            return ranked(protocol="within-camera", query_sequences=None)

    def table(self, split: Any = None) -> FeatureTable:
        """All images by index, with sequences and paths of a split's records, `both` of `val`."""
        with self.sync_context(should_sync=not self._is_synced, should_unsync=not self._is_synced):
            labels, features = dim_zero_cat(self.labels), dim_zero_cat(self.features)
        keep = each_once(labels)
        labels, features = labels[keep], features[keep]
        roles = labels[:, 0]
        ranks_all = bool((roles == _ROLES.index("both")).any())

        def part(name: Role, other: Role) -> Images:
            own = roles != _ROLES.index(other)
            _, index, pids, cameras, sequences = labels[own].unbind(1)
            records = getattr(split, "val" if ranks_all else name, ())
            paths = tuple[str, ...]()
            if records and max(index.tolist(), default=0) < len(records):
                chosen = [records[i] for i in index.tolist()]
                known = [-1 if r.sequence is None else r.sequence for r in chosen]
                sequences, paths = torch.tensor(known).long(), tuple(str(r.path) for r in chosen)
            numbers = index if ranks_all else None
            return Images(features[own], pids, cameras, sequences, paths, numbers)

        return FeatureTable(part("query", "gallery"), part("gallery", "query"))


class IdentityAccuracy(Metric):
    """Closed-set accuracy over the images of identities with a row, and their share.

    >>> metric = IdentityAccuracy()
    >>> metric.update(torch.eye(2).flip(0), torch.tensor([1, -1]), torch.arange(2))
    >>> {k: v.item() for k, v in metric.compute().items()}
    {'accuracy': 1.0, 'coverage': 0.5, 'images': 2.0}
    """

    full_state_update = False
    seen: list[Tensor]

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.add_state("seen", default=[], dist_reduce_fx="cat")

    def update(self, logits: Tensor, rows: Tensor, index: Tensor, role: Role = "both") -> None:
        """Add (B, C) logits, (B,) true rows or -1, and (B,) image numbers of that role."""
        kind = torch.full_like(rows, _ROLES.index(role))
        guess = logits.argmax(1) if logits.shape[1] else torch.full_like(rows, -2)
        self.seen.append(torch.stack([kind, index, rows, guess], dim=1))

    def compute(self) -> dict[str, Tensor]:
        """`accuracy` (NaN where no identity has a row) and `coverage` in 0..1, and `images`."""
        seen = dim_zero_cat(self.seen).cpu()
        _, _, rows, guess = seen[each_once(seen)].unbind(1)
        known = rows >= 0
        accuracy, images = (guess == rows)[known].double().mean(), torch.tensor(float(len(rows)))
        return {"accuracy": accuracy, "coverage": known.double().mean(), "images": images}


def gather_from_cpu(tensor: Tensor, group: Any = None) -> list[Tensor]:
    """The tensors of all processes, on the CPU; through the GPU where the backend needs it."""
    on_gpu = torch.distributed.get_backend(group) == "nccl"
    sent = tensor.cuda() if on_gpu and not tensor.is_cuda else tensor
    return [part.cpu() for part in gather_all_tensors(sent, group)]


def each_once(labels: Tensor) -> Tensor:
    """Places of (N, C) int64 rows, ordered by their first two columns, one of each pair."""
    places = {(role, n): place for place, (role, n) in enumerate(labels[:, :2].tolist())}
    return torch.tensor([places[key] for key in sorted(places)], dtype=torch.int64)
