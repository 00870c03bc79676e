"""Batches of camreid and FastReID, also those that several processes share."""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, distributed

from camreid.data.records import GRAMMAR, ImageRecord, parse_name
from camreid.errors import HeadMismatch, InputError
from camreid.labels import LabelMap, Unknown
from camreid.models.network import ReIDNetwork, evaluating
from camreid.progress import Progress


@dataclass(frozen=True)
class Batch:
    """Images and their labels."""

    images: Tensor  # (B, 3, H, W) uint8, or float as declared by `pixels`
    pids: Tensor  # (B,) int64 raw identities
    cameras: Tensor  # (B,) int64, 1-based; 0 where unknown
    index: Tensor | None = None  # (B,) int64 the image's number in its loader


def read_batch(
    batch: Mapping[str, Any], target_labels: LabelMap | None = None, training: bool = True
) -> Batch:
    """Read a batch dict, camreid's or FastReID's; InputError without images or identities.

    FastReID's `targets` are pids, but in `training` positions in that run's sorted list: identities
    and cameras come from the official file names in `img_paths`, or from `target_labels`.

    >>> path = "query/0704_c3s1_069626_01.jpg"
    >>> batch = {"images": torch.zeros(1, 3, 8, 4), "targets": torch.tensor([582]),
    ...          "camids": torch.tensor([0]), "img_paths": [path]}
    >>> read_batch(batch).pids, read_batch(batch).cameras
    (tensor([704]), tensor([3]))
    """
    if "images" not in batch:
        expected = "expected images, pids, camids, or FastReID's images, targets, camids, img_paths"
        raise InputError(f"a batch with the keys {[*batch]} has no 'images'; {expected}.")
    index, paths = batch.get("index"), batch.get("img_paths", ())
    if index is None and len(paths) == len(batch["images"]):
        digests = [hashlib.blake2b(str(path).encode(), digest_size=8).digest() for path in paths]
        index = [int.from_bytes(digest) >> 1 for digest in digests]  # the same on every rank
    pids = _column(batch, _pids(batch, target_labels, training))
    index = None if index is None else _column(batch, index)
    return Batch(batch["images"], pids, read_cameras(batch), index)


def read_cameras(batch: Mapping[str, Any]) -> Tensor:
    """(B,) int64 cameras, 1-based, 0 where unknown; FastReID's by file name before `camids`."""
    if not {"pids", "camids"} <= batch.keys() and (names := _names(batch)):
        return _column(batch, [name.camera for name in names])
    return _column(batch, batch.get("camids", [-1] * len(batch["images"]))) + 1


def unpack(network: object, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """The arguments of a network for a batch dict: its images and cameras; a forward pre-hook."""
    if args and isinstance(args[0], Mapping):
        images = args[0].get("images")
        if not isinstance(images, Tensor):
            raise InputError(f"a batch with the keys {[*args[0]]} has no tensor `images`.")
        return (images, *args[1:]), {"cameras": read_cameras(args[0]), **kwargs}
    return None


def check_labels(network: ReIDNetwork, unknown: Unknown, pids: Tensor, cameras: Tensor) -> None:
    """Refuse missing cameras of heads per camera, and identities that `unknown` refuses."""
    if network.camera_labels and not cameras.all():
        raise InputError("heads per camera need `camids`, or official file names in `img_paths`.")
    known = torch.stack(list(network.rows(pids, cameras).values())).amax(0) >= 0
    if unknown in ("forbid", "drop") and not known.all():
        missing = sorted(set(pids[~known].tolist()))
        found = f"a batch holds {len(missing)} identities without a row ({missing[:5]})"
        remedy = "type model.unknown=skip, extend or reinit"
        raise HeadMismatch(f"{found}, and model.unknown={unknown}: {remedy}.")


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


def _pids(batch: Mapping[str, Any], labels: LabelMap | None, training: bool) -> Any:
    if "pids" in batch:
        return batch["pids"]
    if training and "targets" in batch and labels is not None:
        targets = _column(batch, batch["targets"])
        low, high = targets.min().item(), targets.max().item()
        if not 0 <= low <= high < len(labels):
            raise InputError(f"targets from {low} to {high} exceed {len(labels)} target_labels.")
        return _column(batch, labels.pids)[targets]
    if names := _names(batch):
        return [name.pid for name in names]
    if not training and "targets" in batch:
        return batch["targets"]
    found = f"a batch with the keys {[*batch]} has no identities: not all img_paths are {GRAMMAR}"
    raise InputError(f"{found}. Give `pids`, or `target_labels`, the label map of `targets`.")


def _names(batch: Mapping[str, Any]) -> list[ImageRecord]:
    """The parsed file names of a batch; empty unless each image has an official one."""
    known = [name for path in batch.get("img_paths", ()) if (name := parse_name(path))]
    return known if len(known) == len(batch["images"]) else []


def _column(batch: Mapping[str, Any], values: Any) -> Tensor:
    return torch.as_tensor(values, dtype=torch.int64, device=batch["images"].device)


def world_size() -> int:
    """Number of training processes."""
    return distributed.get_world_size() if distributed.is_initialized() else 1


def gather(tensor: Tensor) -> Tensor:
    """(W*B, ...): the (B, ...) tensors of W processes, of equal shapes, in the order of ranks.

    Every process must compute the same loss of them: the gradient of its own part is W times as
    large as that of the loss, so that DDP's mean over processes is the gradient of the loss.
    """
    count = world_size()
    if count == 1:
        return tensor
    own = tensor.detach().contiguous()
    parts = [torch.empty_like(own) for _ in range(count)]
    distributed.all_gather(parts, own)
    if tensor.requires_grad:
        parts[distributed.get_rank()] = tensor + (count - 1) * (tensor - own)
    return torch.cat(parts)


def share(count: Tensor) -> Tensor:
    """() weight of a mean over `count` () items; the mean over processes is that of all items."""
    total = count.clone()
    if world_size() > 1:
        distributed.all_reduce(total)
    return world_size() * count / total.clamp(min=1)
