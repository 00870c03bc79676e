"""One batch contract: ours, and FastReID's as it comes."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from camreid.errors import InputError
from camreid.labels import LabelMap
from camreid.names import GRAMMAR, parse_name


@dataclass(frozen=True)
class Batch:
    """Images and who is on them.

    Attributes:
        images: (B, 3, H, W) uint8, or float as declared by `model.pixels`.
        pids: (B,) int64 raw identities.
        camids: (B,) int64 cameras, 0-based.
        index: (B,) int64 the image's number in its loader; None if the batch has none.
    """

    images: Tensor
    pids: Tensor
    camids: Tensor
    index: Tensor | None


def read_batch(batch: Mapping[str, Any], target_labels: LabelMap | None = None) -> Batch:
    """Read a batch dict, ours (`pids`) or FastReID's (`targets`).

    FastReID's `targets` are positions in that run's sorted list and its `camids` are renumbered,
    so people and cameras are read from the base names in `img_paths`.

    Args:
        batch: `images`, `img_paths`, `camids`, and `pids` or `targets`; maybe `index`.
        target_labels: whose row each of `targets` is, where it is known; used instead of names.

    Raises:
        InputError: nothing says who is on the images.

    >>> path = "query/0704_c3s1_069626_01.jpg"
    >>> batch = {"images": torch.zeros(1, 3, 8, 4), "targets": torch.tensor([582]),
    ...          "camids": torch.tensor([0]), "img_paths": [path]}
    >>> read_batch(batch).pids, read_batch(batch).camids
    (tensor([704]), tensor([2]))
    """
    if "images" not in batch:
        raise InputError(
            f"a batch with the keys {', '.join(map(str, batch))} has no 'images'; expected a dict "
            "of "
            "images, pids, camids, img_paths, index, or FastReID's images, targets, camids, "
            "img_paths."
        )
    images, index = batch["images"], batch.get("index")
    if "pids" in batch and "camids" in batch:
        return Batch(images, batch["pids"], batch["camids"], index)
    device = images.device
    names = [parse_name(path) for path in batch.get("img_paths", ())]
    known = [name for name in names if name is not None]
    if "targets" in batch and target_labels is not None:
        pids = torch.tensor(target_labels.pids, device=device)[batch["targets"].to(device)]
    elif len(known) == len(images):
        pids = torch.tensor([name.pid for name in known], device=device)
    else:
        raise InputError(
            f"the people of a batch with the keys {', '.join(batch)} can't be told: {len(known)} "
            "of "
            f"{len(images)} names in img_paths read like {GRAMMAR}, and `targets` are positions in "
            "another run's list. Give `pids`, official file names, or the label map of the targets "
            "(target_labels=)."
        )
    if len(known) == len(images):
        camids = torch.tensor([name.camera - 1 for name in known], device=device)
    else:
        camids = batch["camids"].to(device)
    return Batch(images, pids, camids, index)
