"""Model soups: mean weights of networks with the same starting weights (Wortsman et al. 2022)."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from camreid.checkpoints.io import Checkpoint
from camreid.errors import InputError
from camreid.labels import LabelMap, rows_of
from camreid.models.cameras import CameraNorm
from camreid.models.network import evaluating
from camreid.training.batch import read_cameras
from camreid.training.module import ReIDModule


def soup(checkpoints: Sequence[Checkpoint]) -> ReIDModule:
    """Mean weights, with rows averaged by identity; in evaluation mode on the CPU.

    The mean BatchNorm statistics do not fit the mean weights; see `update_batch_norm`.
    """
    if len(checkpoints) < 2:
        raise InputError(f"a soup needs two checkpoints or more: {len(checkpoints)} given.")
    first = checkpoints[0]
    for option in ("network", "image_size", "pixels", "interpolation"):
        if any(getattr(c.config, option) != getattr(first.config, option) for c in checkpoints):
            paths = ", ".join(c.path for c in checkpoints)
            raise InputError(f"the weights of {paths} can't be averaged: their {option} differs.")
    union = LabelMap.union
    by_camera = {i: union(c.camera_labels[i] for c in checkpoints) for i in first.camera_labels}
    module = ReIDModule(first.config, by_camera or union(c.labels for c in checkpoints))
    state = module.model.state_dict()
    for name, tensor in state.items():
        values = [c.state[name] for c in checkpoints]
        pids = f"{name.rpartition('.')[0]}.pids"
        if pids in state and name != pids:
            rows = [rows_of(state[pids], c.state[pids]) for c in checkpoints]
            state[name] = _mean_rows(tensor, values, rows)
        elif tensor.is_floating_point():
            state[name] = torch.stack(values).mean(0)
    module.model.load_state_dict(state)
    parents = {c.path: c.provenance for c in checkpoints}
    module.provenance = module.provenance.after("average", parents)
    return module.eval()


def _mean_rows(fresh: Tensor, heads: Sequence[Tensor], rows: Sequence[Tensor]) -> Tensor:
    """The mean of the heads' rows at each row of a head that is shaped as `fresh`."""
    total, count = torch.zeros_like(fresh, dtype=torch.float64), torch.zeros(len(fresh))
    for head, row in zip(heads, rows, strict=True):
        total[row] += head
        count[row] += 1
    return (total / count.view(-1, *[1] * (fresh.ndim - 1))).to(fresh.dtype)


@torch.no_grad()
def update_batch_norm(network: nn.Module, batches: Iterable[Mapping[str, Any]]) -> None:
    """Recompute the running statistics of every BatchNorm as the mean over batches.

    Unlike `torch.optim.swa_utils.update_bn`, it keeps other modules in evaluation mode. A
    `CameraNorm` computes the statistics of each camera from the images of that camera.
    """
    norms = [m for m in network.modules() if isinstance(m, _BatchNorm | CameraNorm)]
    momenta = [norm.momentum for norm in norms]
    device = next(network.parameters()).device
    with evaluating(network):
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None
            norm.train()
        for batch in batches:
            network(batch["images"].to(device), cameras=read_cameras(batch).to(device))
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
