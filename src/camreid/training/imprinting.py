"""Features that the rows of new identities start from."""

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from camreid.models.network import ReIDNetwork, evaluating
from camreid.progress import Progress
from camreid.training.batch import read_batch


@torch.no_grad()
def feature_sums(
    network: ReIDNetwork, loader: Iterable[Mapping[str, Any]], device: torch.device
) -> dict[str, Tensor]:
    """By head the (rows, width) sums of the features of each row's images, in evaluation mode."""
    heads = network.remap_heads()
    sums = {n: torch.zeros(len(heads[n].pids), w, device=device) for n, w in network.widths.items()}
    with evaluating(network):
        for batch in Progress(loader, "Starting rows of new identities", unit="batch"):
            read = read_batch(batch)
            cameras = read.cameras.to(device)
            features = network(read.images.to(device), cameras=cameras).features
            rows = network.rows(read.pids.to(device), cameras)
            for name, part in network.parts(features).items():
                known = rows[name] >= 0
                sums[name].index_add_(0, rows[name][known], part[known].float())
    return sums
