"""Several networks as one: the mean of their weights (Wortsman et al. 2022, model soups).

Weights can be averaged where the networks came from one starting point; otherwise the mean is as
good as none, which the test of a soup shows.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from camreid.checkpoints.io import Checkpoint
from camreid.errors import InputError
from camreid.labels import LabelMap
from camreid.models.camera_heads import known_rows
from camreid.models.camera_norm import CameraNorm
from camreid.models.cameras import stated
from camreid.models.evaluating import evaluating
from camreid.training.batch import read_cameras
from camreid.training.module import ReIDModule


def soup(checkpoints: Sequence[Checkpoint]) -> ReIDModule:
    """The mean of the weights, in evaluation mode on the CPU.

    Each person of any of the heads has a row, the mean of those that are theirs. The statistics of
    BatchNorm are means too, which are not those of the mean network: see `restate_batch_norm`.

    Raises:
        InputError: the architectures differ, or there are no checkpoints.
    """
    check_alike(checkpoints)
    first = checkpoints[0]
    people = dict.fromkeys(pid for c in checkpoints for pid in c.labels.pids)
    labels = LabelMap(tuple(people))
    module = ReIDModule(first.config, labels)
    state = module.model.state_dict()
    for name, tensor in state.items():
        if name.startswith("heads."):
            state[name] = _rows(name, tensor, checkpoints, labels)
        elif name.endswith(("camera_mean", "camera_var", "camera_batches")):
            state[name] = _of_cameras(name, checkpoints)
        else:
            state[name] = _mean([c.state[name] for c in checkpoints])
    module.model.load_state_dict(state)
    records = {c.path: c.provenance for c in checkpoints}
    module.provenance = module.provenance.after("average", records)
    return module.eval()


def check_alike(checkpoints: Sequence[Checkpoint]) -> None:
    """Refuse networks whose weights do not correspond.

    Raises:
        InputError: names two checkpoints and what differs.
    """
    if not checkpoints:
        raise InputError("no checkpoints were given for a soup; give two or more of one model.")
    first = checkpoints[0]
    for other in checkpoints[1:]:
        what = _difference(first, other)
        if what:
            raise InputError(
                f"the weights of {first.path} and {other.path} can't be averaged: {what}."
            )


def _difference(first: Checkpoint, other: Checkpoint) -> str:
    """What sets two networks apart, empty if nothing does."""
    ours, theirs = first.config, other.config
    if stated(ours.network) != stated(theirs.network) or any(
        getattr(ours, name) != getattr(theirs, name) for name in ("pixels", "interpolation")
    ):
        return f"they are of other model options ({ours.name} and {theirs.name})"
    shapes = [
        {k: v.shape for k, v in c.state.items() if not k.startswith("heads.")}
        for c in (first, other)
    ]
    if shapes[0] != shapes[1]:
        return f"their tensors differ ({ours.image_size} and {theirs.image_size} pixels)"
    if first.labels.is_anonymous or other.labels.is_anonymous:
        return "" if first.labels == other.labels else "nobody knows whose the rows are"
    return ""


def _mean(tensors: Sequence[Tensor]) -> Tensor:
    if not tensors[0].is_floating_point():
        return tensors[0]  # counts of batches
    return torch.stack([t.double() for t in tensors]).mean(0).to(tensors[0].dtype)


def _of_cameras(name: str, checkpoints: Sequence[Checkpoint]) -> Tensor:
    """Statistics of each camera of a `CameraNorm`: the mean of those that were trained, if any."""
    counts = torch.stack(
        [c.state[f"{name.rpartition('.')[0]}.camera_batches"] for c in checkpoints]
    )
    if name.endswith("camera_batches"):
        return counts.amax(0)
    trained = (counts > 0) | (counts == 0).all(0)  # (checkpoints, cameras)
    weights = (trained.double() / trained.sum(0))[:, :, None]
    values = torch.stack([c.state[name] for c in checkpoints])
    return (weights * values.double()).sum(0).to(values.dtype)


def _rows(name: str, fresh: Tensor, checkpoints: Sequence[Checkpoint], labels: LabelMap) -> Tensor:
    """A head's tensor over `labels`, person by person.

    Of a `CameraHead`, by those checkpoints whose camera has the person, if any.
    """
    if name.endswith(".pids"):
        return torch.tensor(labels.pids, dtype=fresh.dtype)
    head = name.rpartition(".")[0]
    shape = (len(checkpoints), len(labels))
    there, trained = torch.zeros(shape, dtype=torch.bool), torch.zeros(shape, dtype=torch.bool)
    values = torch.zeros(len(checkpoints), *fresh.shape, dtype=torch.float64)
    for place, checkpoint in enumerate(checkpoints):
        rows = labels.rows(torch.tensor(checkpoint.labels.pids, dtype=torch.int64))
        values[place, rows] = checkpoint.state[name].double()
        there[place, rows] = True
        known = known_rows(checkpoint.state, head)
        trained[place, rows] = True if known is None else known
    chosen = trained | (there & ~trained.any(0))
    weights = chosen.double() / chosen.sum(0)
    return (weights.view(*shape, *[1] * (fresh.ndim - 1)) * values).sum(0).to(fresh.dtype)


@torch.no_grad()
def restate_batch_norm(
    network: nn.Module, batches: Iterable[Mapping[str, Any]], device: torch.device | str = "cpu"
) -> None:
    """Take the running statistics of every BatchNorm anew: the mean over batches of images.

    Only they change; everything else is in evaluation mode meanwhile. Of a `CameraNorm`, those of
    each camera are taken from its images, and those of cameras without images are forgotten.

    Args:
        network: on `device`.
        batches: of raw `images`, without augmentation, and their `camids` where the network tells
            cameras apart; none leave the statistics as they were.
        device: where the network is.
    """
    kinds = (nn.modules.batchnorm._BatchNorm, CameraNorm)
    norms = [m for m in network.modules() if isinstance(m, kinds)]
    momenta = [norm.momentum for norm in norms]
    with evaluating(network):
        for place, batch in enumerate(batches):
            if not place:
                for norm in norms:
                    norm.reset_running_stats()
                    norm.momentum = None  # the plain mean over batches
                    norm.train()
            images, cameras = batch["images"].to(device), read_cameras(batch)
            network(images, cameras=None if cameras is None else cameras.to(device))
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
