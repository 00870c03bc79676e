"""Images as uint8 tensors of the model's size: from records, files, arrays or PIL images."""

import os
import warnings
from collections.abc import Iterable, Sequence
from contextlib import nullcontext
from os import PathLike
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image, ImageOps
from torch import Tensor
from torch.utils.data import Dataset, get_worker_info
from torchvision.transforms.v2.functional import pil_to_tensor

from camreid.data.records import ImageRecord
from camreid.errors import ImageError, InputError, require_choice

OneImage: TypeAlias = str | PathLike[str] | Image.Image | NDArray[Any] | Tensor
Batch: TypeAlias = dict[str, Any]
Pixels: TypeAlias = NDArray[np.uint8]  # (N, 3, H, W), of a cache file
# cache files, and (N, 2) the number of each image's file and its place there
Located: TypeAlias = tuple[list[Pixels], NDArray[np.int64]]
Interpolation = Literal["bicubic", "bilinear", "opencv"]
# on large photographs and damaged EXIF data; from 179 million pixels on, Pillow raises an error
warnings.filterwarnings("ignore", module=r"PIL\.")
_EXPECTED = "expected a path, PIL image, uint8 array (H, W, 3), or uint8 or float tensor (3, H, W)"


class ImageDataset(Dataset[dict[str, Any]]):
    """Items of a batch, resized to `size` (H, W) in pixels, or `located` in a cache.

    An item holds `images` (3, H, W) uint8 RGB, `pids` raw identity, `camids` 0-based camera,
    `img_paths` the file, and `index` the place in `records`.
    """

    def __init__(
        self,
        records: Sequence[ImageRecord],
        size: tuple[int, int],
        interpolation: Interpolation = "bicubic",
        located: Located | None = None,
    ) -> None:
        require_choice("interpolation", interpolation, Interpolation)
        self.records = tuple(records)
        self.size, self.interpolation, self._located = size, interpolation, located
        # arrays, because the use of an object in a loader process copies its memory page
        self._pids = torch.tensor([r.pid for r in records], dtype=torch.int64)
        self._camids = torch.tensor([r.camera - 1 for r in records], dtype=torch.int64)
        self._paths = np.array([os.fsencode(r.path) for r in records], np.bytes_)

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {name: column[0] for name, column in self.batch([index]).items()}

    def batch(self, indices: list[int]) -> Batch:
        """A batch: `images` (B, 3, H, W), a tensor for each other column, `img_paths` a list."""
        index = torch.tensor(indices, dtype=torch.int64)
        paths = [os.fsdecode(path) for path in self._paths[indices]]
        images = torch.empty(len(indices), 3, *self.size, dtype=torch.uint8)
        if self._located is None:
            for image, path in zip(images, paths, strict=True):
                image.copy_(read_image(path, self.size, self.interpolation))
        else:
            (files, where), pixels = self._located, images.numpy()
            for place, (file, image) in enumerate(where[indices].tolist()):
                pixels[place] = files[file][image]
        columns = {"pids": self._pids[index], "camids": self._camids[index]}
        return {"images": images, **columns, "img_paths": paths, "index": index}


class ImageBatches(ImageDataset):
    """An `ImageDataset` for loaders with `collate_fn=default_convert`: it makes whole batches."""

    def __getitems__(self, indices: list[int]) -> Batch:
        """See `batch`; a loader hangs if its processes fail to share tensors later, in a thread."""
        batch: Any = self.batch(indices)
        for name in ("images", "pids", "camids", "index") if get_worker_info() else ():
            batch[name].share_memory_()
        return batch  # type: ignore[no-any-return]


def as_shown(image: Image.Image) -> Image.Image:
    """The first frame as RGB: turned as its EXIF data says, and on white where it is transparent.

    Grey of more than 8 bits is scaled. White is 65,535; of floats, it is the first of 1, 255 and
    65,535 that no value exceeds; where values exceed that, it is the largest.
    """
    if image.format == "EPS":  # Pillow would run Ghostscript
        raise ValueError("EPS is not read, as it is a program")
    if is_turned(image):
        image = ImageOps.exif_transpose(image)
    if is_deep(image):
        values = np.nan_to_num(np.asarray(image, np.float32), posinf=0, neginf=0)
        top = values.max(initial=0)
        whites = (1, 255, 65535, top) if image.mode == "F" else (65535, top)
        scaled = values * (255 / next(white for white in whites if top <= white))
        image = Image.fromarray(scaled.round().clip(0, 255).astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")


def is_turned(image: Image.Image) -> bool:
    """Whether EXIF data gives an orientation; damaged data gives none."""
    try:
        return image.getexif().get(0x0112, 1) in range(2, 9)
    except Exception:  # of Pillow's parser: SyntaxError, struct.error and others
        return False


def is_deep(image: Image.Image) -> bool:
    """Whether an image is grey of more than 8 bits."""
    return image.mode[0] in "IF"


def read_image(
    image: str | PathLike[str] | Image.Image,
    size: tuple[int, int] | None = None,
    interpolation: Interpolation = "bicubic",
) -> Tensor:
    """One image as shown by viewers: (3, H, W) uint8 RGB, resized to `size` (H, W).

    `bicubic` is to the bit as FastReID, `bilinear` as torchreid. `opencv` is bilinear without
    antialiasing, as trackers do it. ImageError for a broken file.
    """
    name = getattr(image, "filename", image)
    try:
        if not isinstance(image, Image.Image) and os.path.exists(image) != os.path.isfile(image):
            raise OSError("it is a folder, a pipe or a device")
        with nullcontext(image) if isinstance(image, Image.Image) else Image.open(image) as file:
            rgb = as_shown(file)
    except Exception as error:  # Pillow's decoders raise many types
        remedy = "Copy the file again, or leave it out"
        raise ImageError(f"{name} can't be read as an image ({error}). {remedy}.") from error
    if size is not None and rgb.size != (size[1], size[0]):
        if interpolation == "opencv":
            return _as_opencv(np.asarray(rgb, np.int32), size)
        rgb = rgb.resize((size[1], size[0]), Image.Resampling[interpolation.upper()])
    pixels: Tensor = pil_to_tensor(rgb)
    return pixels


def list_images(images: OneImage | Iterable[OneImage], allow_empty: bool = False) -> list[OneImage]:
    """The images of a list, or of an array or tensor of four dimensions; InputError for others.

    `allow_empty` takes arrays and tensors without pixels.

    >>> len(list_images(np.zeros((5, 20, 10, 3), np.uint8)))
    5
    """
    is_one = isinstance(images, str) or not isinstance(images, Iterable)
    is_one |= isinstance(images, np.ndarray | Tensor) and images.ndim != 4
    many: list[Any] = [images] if is_one else list(images)  # type: ignore[arg-type]
    for place, image in enumerate(many):
        _check(image, f"image {place} of {len(many)}", allow_empty)
    return many


def is_empty(image: object) -> bool:
    """Whether an array or tensor has no pixels."""
    return isinstance(image, Tensor | np.ndarray) and 0 in image.shape


def crops(frame: NDArray[Any] | Tensor, boxes: Any) -> list[OneImage]:
    """The parts of a frame, (H, W, 3) or as a tensor (3, H, W), in boxes.

    `boxes` (N, 4) are x1, y1, x2, y2 in pixels; parts outside the frame are cut off.
    """
    corners = torch.as_tensor(boxes, dtype=torch.float64).reshape(-1, 4)
    if not corners.isfinite().all():
        raise InputError("some boxes are NaN or infinite: expected x1, y1, x2, y2 in pixels.")
    whole = corners.clamp(min=0).round().long().tolist()
    places = [(slice(y1, y2), slice(x1, x2)) for x1, y1, x2, y2 in whole]
    return [frame[..., *p] if isinstance(frame, Tensor) else frame[p] for p in places]


def read_pixels(
    image: OneImage, size: tuple[int, int], interpolation: Interpolation = "bicubic"
) -> Tensor:
    """One image of `list_images` by `read_image`; a float tensor is resized as float32."""
    if isinstance(image, Tensor) and image.is_floating_point():
        image = image.detach().cpu().float()
        if image.shape[1:] == size:
            return image
        how = ("bilinear", False) if interpolation == "opencv" else (interpolation, True)
        resized = F.interpolate(image[None], size, mode=how[0], antialias=how[1])
        return resized[0].clamp(0, 255)  # bicubic overshoots at edges; Pillow clips there too
    if isinstance(image, Tensor):
        image = image.detach().cpu().permute(1, 2, 0).numpy()
    if isinstance(image, np.ndarray):
        image = Image.fromarray(image)
    return read_image(image, size, interpolation)


def _as_opencv(image: NDArray[np.int32], size: tuple[int, int]) -> Tensor:
    """(3, H, W) uint8 of (h, w, 3): bilinear in whole numbers with OpenCV's weights of 11 bits."""
    axes = []
    for old, new in zip(image.shape, size, strict=False):
        place = ((np.arange(new) + 0.5) * (old / new) - 0.5).clip(0, old - 1)
        first = place.astype(np.int32)
        weight = np.rint((place - first) * 2048).astype(np.int32)[:, None]
        axes.append((first, (first + 1).clip(max=old - 1), weight))
    (top, below, down), (left, right, across) = axes
    rows = image[:, left] * (2048 - across) + image[:, right] * across >> 4
    high, low = rows[top] * (2048 - down[..., None]), rows[below] * down[..., None]
    pixels = ((high >> 16) + (low >> 16) + 2 >> 2).astype(np.uint8)
    return torch.from_numpy(pixels).permute(2, 0, 1).contiguous()


def _check(image: object, which: str, allow_empty: bool) -> None:
    if isinstance(image, str | PathLike):
        if not Path(image).is_file():
            raise InputError(f"{which}: no file at {image}.")
    elif isinstance(image, Tensor | np.ndarray):
        shape, kind = tuple(image.shape), str(image.dtype).removeprefix("torch.")
        is_tensor, empty = isinstance(image, Tensor), is_empty(image)
        good = len(shape) == 3 and (kind == "uint8" or (is_tensor and "float" in kind))
        if not good or not (empty or shape[0 if is_tensor else 2] == 3):
            raise InputError(f"{which} has the shape {shape} and the type {kind}: {_EXPECTED}.")
        if empty and not allow_empty:
            raise InputError(f"{which} is empty: it has the shape {shape}.", empty="zero")
    elif not isinstance(image, Image.Image):
        raise InputError(f"{which} is a {type(image).__name__}: {_EXPECTED}.")
