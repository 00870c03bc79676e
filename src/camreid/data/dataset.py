"""Images as uint8 tensors of the model's size: from records, files, arrays or PIL images."""

from collections.abc import Iterable, Sequence
from os import PathLike, fspath
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError
from torch import Tensor
from torch.utils.data import Dataset
from torchvision.transforms.v2.functional import pil_to_tensor

from camreid.data.records import ImageRecord
from camreid.errors import InputError

OneImage: TypeAlias = str | PathLike[str] | Image.Image | NDArray[Any] | Tensor
Interpolation = Literal["bicubic", "bilinear"]
_RESAMPLING = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}
_KINDS = (
    "paths, PIL images, uint8 arrays (H, W, 3) or tensors (3, H, W), one or a list of them, or an "
    "array (N, H, W, 3) or a tensor (N, 3, H, W)"
)


class ImageDataset(Dataset[dict[str, Any]]):
    """Records as items of a batch.

    An item holds `images` (3, H, W) uint8 RGB, `pids` raw identity, `camids` 0-based camera,
    `img_paths` the file, and `index` the place in `records`.

    Args:
        records: what to read.
        size: (H, W) in pixels.
        interpolation: of the resize.

    Raises:
        InputError: another interpolation.
    """

    def __init__(
        self,
        records: Sequence[ImageRecord],
        size: tuple[int, int],
        interpolation: Interpolation = "bicubic",
    ) -> None:
        if interpolation not in _RESAMPLING:
            raise InputError(
                f"interpolation={interpolation}: expected bicubic or bilinear.",
                interpolation="bicubic",
            )
        self.interpolation = interpolation
        self.records = tuple(records)
        self.size = (int(size[0]), int(size[1]))

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> dict[str, Any]:
        record = self.records[index]
        return {
            "images": read_image(record.path, self.size, self.interpolation),
            "pids": record.pid,
            "camids": record.camera - 1,
            "img_paths": record.path,
            "index": index,
        }


def read_image(
    path: str, size: tuple[int, int] | None = None, interpolation: Interpolation = "bicubic"
) -> Tensor:
    """One image as (3, H, W) uint8 RGB, grey, palette and CMYK images included.

    Args:
        path: an image file.
        size: (H, W) to resize to, antialiased; None to leave the size alone.
        interpolation: `bicubic`, to the bit as FastReID, or `bilinear`, as torchreid.

    Raises:
        InputError: the file is no image, or a broken one.
    """
    try:
        with Image.open(path) as file:
            image = file.convert("RGB")
    except (UnidentifiedImageError, OSError) as error:
        raise InputError(
            f"{path} can't be read as an image ({error}). Copy the file again, or take it out of "
            "the dataset."
        ) from error
    return _to_tensor(image, size, interpolation)


def list_images(images: OneImage | Iterable[OneImage]) -> list[OneImage]:
    """The images one by one, checked as far as that needs no reading.

    Args:
        images: one image, many in a list, or many in an array or tensor of four dimensions.

    Raises:
        InputError: a file that is not there, or another kind, shape or type of number.

    >>> len(list_images(np.zeros((5, 20, 10, 3), np.uint8)))
    5
    """
    if isinstance(images, np.ndarray | Tensor):
        many = list(images) if images.ndim == 4 else [images]
    elif isinstance(images, str | PathLike | Image.Image):
        many = [images]
    elif isinstance(images, Iterable):
        many = list(images)
    else:
        raise InputError(f"images given as a {type(images).__name__}: expected {_KINDS}.")
    for place, image in enumerate(many):
        _check(image, f"image {place} of {len(many)}")
    return many


def read_pixels(
    image: OneImage, size: tuple[int, int], interpolation: Interpolation = "bicubic"
) -> Tensor:
    """One image of `list_images` as (3, H, W), RGB: float32 of a float tensor, else uint8.

    Args:
        image: resized with antialiasing by Pillow if it is of another size, as `read_image` does;
            a float tensor by PyTorch, which has the same filter.
        size: (H, W) in pixels.
        interpolation: of the resize.

    Raises:
        InputError: a file that is no image, or a broken one.
    """
    if isinstance(image, Tensor) and image.is_floating_point():
        image = image.detach().cpu().float()
        if image.shape[1:] == size:
            return image
        # bicubic overshoots at edges; Pillow clips there too
        resized = F.interpolate(image[None], size, mode=interpolation, antialias=True)
        return resized[0].clamp(0, 255)
    if isinstance(image, Tensor):
        image = image.detach().cpu().permute(1, 2, 0).numpy()
    if isinstance(image, np.ndarray):
        return _to_tensor(Image.fromarray(image), size, interpolation)
    if not isinstance(image, Image.Image):
        return read_image(fspath(image), size, interpolation)
    try:
        return _to_tensor(image.convert("RGB"), size, interpolation)
    except OSError as error:  # Pillow reads on first use
        name = getattr(image, "filename", "") or "no file"
        raise InputError(f"a PIL image of {name} can't be read ({error}). Leave it out.") from error


def _to_tensor(
    image: Image.Image, size: tuple[int, int] | None, interpolation: Interpolation
) -> Tensor:
    """A PIL image in RGB as (3, H, W) uint8."""
    if size is not None and image.size != (size[1], size[0]):
        image = image.resize((size[1], size[0]), _RESAMPLING[interpolation])
    pixels: Tensor = pil_to_tensor(image)
    return pixels


def _check(image: object, which: str) -> None:
    if isinstance(image, str | PathLike):
        path = Path(image)
        if path.is_dir():
            raise InputError(
                f"{which}, {path}, is a folder; sorted(Path({str(path)!r}).glob('*.jpg')) gives "
                "the images in it."
            )
        if not path.is_file():
            raise InputError(f"{which}: no file at {path}.")
    elif isinstance(image, np.ndarray):
        shape, good = image.shape, image.dtype == np.uint8
        if not good or len(shape) != 3 or shape[2] != 3 or 0 in shape:
            raise InputError(
                f"{which} is an array {tuple(shape)} of {image.dtype}: expected (H, W, 3) of "
                "uint8, RGB. Type (x * 255).round().astype(np.uint8) for floats in 0..1, "
                "np.stack([x] * 3, axis=-1) for grey, torch.from_numpy(x) for (3, H, W)."
            )
    elif isinstance(image, Tensor):
        shape, kind = image.shape, str(image.dtype).removeprefix("torch.")
        good = kind == "uint8" or image.is_floating_point()
        if not good or len(shape) != 3 or shape[0] != 3 or 0 in shape:
            raise InputError(
                f"{which} is a tensor {tuple(shape)} of {kind}: expected (3, H, W) of uint8, or "
                "float in 0..255, RGB. Type x.permute(2, 0, 1) for (H, W, 3), x.expand(3, -1, -1) "
                "for grey."
            )
    elif not isinstance(image, Image.Image):
        raise InputError(f"{which} is a {type(image).__name__}: expected {_KINDS}.")
