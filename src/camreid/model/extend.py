"""Where the rows of new people start: at the features of their images."""

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from camreid.labels import LabelMap
from camreid.model.batch import read_batch
from camreid.model.evaluating import evaluating
from camreid.model.network import ReIDNetwork


@torch.no_grad()
def feature_sums(
    network: ReIDNetwork,
    loader: Iterable[Mapping[str, Any]],
    people: LabelMap,
    device: torch.device,
) -> dict[str, Tensor]:
    """The sum of each person's features in evaluation mode, by head.

    The head of one camera goes by that camera's images alone.

    Args:
        network: left in the mode it is in, every part of it.
        loader: batches of images, some of them of the people.
        people: whose features.
        device: that of the network.

    Returns:
        For each head (len(people), width).
    """
    count, widths = len(people), network.widths
    sums = {name: torch.zeros(count, width, device=device) for name, width in widths.items()}
    of = {f"c{camera}": camera for camera in network.camera_heads()}
    with evaluating(network):
        for batch in loader:
            read = read_batch(batch)
            places = people.rows(read.pids.cpu()).to(device)
            known = places >= 0
            cameras = read.cameras.to(device)
            features = network(read.images.to(device), cameras=cameras).features
            for name, part in network.parts(features).items():
                chosen = known & (cameras == of[name]) if name in of else known
                sums[name].index_add_(0, places[chosen], part[chosen].float())
    return sums
