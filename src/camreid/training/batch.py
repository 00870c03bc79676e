"""One batch contract: ours, and FastReID's as it comes."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from camreid.data.records import GRAMMAR, parse_name
from camreid.errors import InputError
from camreid.labels import LabelMap


@dataclass(frozen=True)
class Batch:
    """Images and who is on them.

    Attributes:
        images: (B, 3, H, W) uint8, or float as declared by `model.pixels`.
        pids: (B,) int64 raw identities.
        camids: (B,) int64 cameras, 0-based.
        index: (B,) int64 the image's number in its loader; None if the batch has none.
        cameras_told: whether anything says so; otherwise `camids` are all 0.
    """

    images: Tensor
    pids: Tensor
    camids: Tensor
    index: Tensor | None
    cameras_told: bool = True

    @property
    def cameras(self) -> Tensor:
        """(B,) int64 cameras, 1-based, as networks take them; 0 (unknown) if nothing says."""
        return self.camids + 1 if self.cameras_told else torch.zeros_like(self.camids)


def read_batch(
    batch: Mapping[str, Any], target_labels: LabelMap | None = None, training: bool = True
) -> Batch:
    """Read a batch dict, ours (`pids`) or FastReID's (`targets`).

    FastReID's training `targets` are positions in that run's sorted list and its `camids` are
    renumbered, so people and cameras are read from the base names in `img_paths`. Its test
    `targets` are raw pids, and its test `camids` 0-based cameras.

    Args:
        batch: `images`, `img_paths`, `camids`, and `pids` or `targets`; maybe `index`. Without
            `index`, images are numbered by a hash of their paths.
        target_labels: whose row each of the training `targets` is, where it is known; used
            instead of names.
        training: whether `targets` are positions rather than pids.

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
            "of images, pids, camids, img_paths, index, or FastReID's images, targets, camids, "
            "img_paths."
        )
    images, paths = batch["images"], list(batch.get("img_paths", ()))
    names = [parse_name(path) for path in paths]
    known = [name for name in names if name is not None]
    named = len(known) == len(images)

    def column(values: Any) -> Tensor:
        return torch.as_tensor(values, dtype=torch.int64, device=images.device)

    if "pids" in batch:
        pids = column(batch["pids"])
    elif training and "targets" in batch and target_labels is not None:
        pids = _people_of(column(batch["targets"]), target_labels)
    elif named:
        pids = column([name.pid for name in known])
    elif not training and "targets" in batch:
        pids = column(batch["targets"])
    else:
        raise InputError(
            f"the people of a batch with the keys {', '.join(batch)} can't be told: {len(known)} "
            f"of {len(images)} names in img_paths read like {GRAMMAR}, and `targets` are "
            "positions in another run's list. Give `pids`, official file names, or the label map "
            "of the targets (target_labels=)."
        )
    if (named and "pids" not in batch) or "camids" not in batch:
        camids = column([name.camera - 1 for name in known] if named else [0] * len(images))
    else:
        camids = column(batch["camids"])
    index = batch.get("index")
    if index is None and len(paths) == len(images):
        index = [_number(path) for path in paths]
    told = named or "camids" in batch
    return Batch(images, pids, camids, None if index is None else column(index), told)


def read_cameras(batch: Mapping[str, Any]) -> Tensor | None:
    """(B,) int64 cameras of a batch dict, 1-based; None if neither it nor its names say.

    As in `read_batch`, names count before the `camids` of a batch without `pids`, which may have
    been renumbered.

    >>> read_cameras({"images": torch.zeros(1, 3, 8, 4), "img_paths": ["0704_c3s1_069626_01.jpg"]})
    tensor([3])
    """
    images = batch["images"]
    names = [parse_name(path) for path in batch.get("img_paths", ())]
    cameras = [name.camera for name in names if name is not None]
    column = {"dtype": torch.int64, "device": images.device}
    if len(cameras) == len(images) and not {"pids", "camids"} <= batch.keys():
        return torch.tensor(cameras, **column)
    return torch.as_tensor(batch["camids"], **column) + 1 if "camids" in batch else None


def _people_of(targets: Tensor, labels: LabelMap) -> Tensor:
    if len(targets) and not 0 <= int(targets.min()) <= int(targets.max()) < len(labels):
        raise InputError(
            f"`targets` from {int(targets.min())} to {int(targets.max())} are no rows of the label "
            f"map of {len(labels)} people that was given for them (target_labels=)."
        )
    return torch.tensor(labels.pids, device=targets.device)[targets]


def _number(path: str) -> int:
    """63 bits of a path, the same in every process."""
    return int.from_bytes(hashlib.blake2b(str(path).encode(), digest_size=8).digest()) >> 1
