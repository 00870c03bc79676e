"""Where the rows of new people start: at the features of their images."""

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from camreid.labels import LabelMap, Unknown
from camreid.models.evaluating import evaluating
from camreid.models.head import RemapHead
from camreid.models.network import ReIDNetwork
from camreid.training.batch import read_batch


def rows_to_start(network: ReIDNetwork, new: LabelMap, unknown: Unknown) -> dict[str, LabelMap]:
    """By head, the identities whose rows start from features: none under `reinit`.

    Under `extend`, the head of a camera adds those that its camera did not have before.
    """
    new = LabelMap(()) if unknown == "reinit" else new
    wanted = dict.fromkeys(network.remap_heads(), new)
    if unknown == "extend":
        for camera, head in network.camera_heads().items():
            wanted[f"c{camera}"] = LabelMap((*new.pids, *(head.unstarted - new).pids))
    return wanted


def start_head(head: RemapHead, wanted: LabelMap, people: LabelMap, sums: Tensor) -> None:
    """Start rows of a head from features.

    Args:
        head: what has the rows.
        wanted: whose; who has no features keeps the row that there is.
        people: whose features there are.
        sums: (len(people), width) of their features; 0 where there are none.
    """
    pids = torch.tensor(wanted.pids, dtype=torch.int64)
    directions = sums[people.rows(pids).to(sums.device)]
    seen = directions.any(1)
    head.start_rows(pids[seen.cpu()], directions[seen])


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
