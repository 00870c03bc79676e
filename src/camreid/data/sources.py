"""Images as programs have them: paths, arrays, tensors or PIL images, one or many."""

from collections.abc import Iterable
from os import PathLike, fspath
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from camreid.data.dataset import read_image, to_pixels
from camreid.errors import InputError

OneImage: TypeAlias = str | PathLike[str] | Image.Image | NDArray[Any] | Tensor
_KINDS = (
    "paths, PIL images, uint8 arrays (H, W, 3) or tensors (3, H, W), one or a list of them, or an "
    "array (N, H, W, 3) or a tensor (N, 3, H, W)"
)


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


def read_pixels(image: OneImage, size: tuple[int, int]) -> Tensor:
    """One image of `list_images` as (3, H, W), RGB: float32 of a float tensor, else uint8.

    Args:
        image: bicubic and antialiased by Pillow if it is of another size, as `read_image` does;
            a float tensor by PyTorch, which has the same filter.
        size: (H, W) in pixels.

    Raises:
        InputError: a file that is no image, or a broken one.
    """
    if isinstance(image, Tensor):
        return _resize(image.detach().cpu(), size)
    if isinstance(image, np.ndarray):
        return to_pixels(Image.fromarray(image), size)
    if not isinstance(image, Image.Image):
        return read_image(fspath(image), size)
    try:
        return to_pixels(image.convert("RGB"), size)
    except OSError as error:  # Pillow reads on first use
        name = getattr(image, "filename", "") or "no file"
        raise InputError(
            f"a PIL image of {name} can't be read ({error}). Leave it out, or open it from another "
            "copy of its file."
        ) from error


def _resize(image: Tensor, size: tuple[int, int]) -> Tensor:
    if image.is_floating_point():
        image = image.float()
        if image.shape[1:] != size:
            # bicubic overshoots at edges; Pillow clips there too
            image = F.interpolate(image[None], size, mode="bicubic", antialias=True)[0].clamp(
                0, 255
            )
        return image
    if image.shape[1:] == size:
        return image
    return to_pixels(Image.fromarray(image.permute(1, 2, 0).numpy()), size)


def _check(image: object, which: str) -> None:
    if isinstance(image, str | PathLike):
        _check_file(Path(image), which)
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


def _check_file(path: Path, which: str) -> None:
    if path.is_dir():
        raise InputError(
            f"{which}, {path}, is a folder; type sorted(Path({str(path)!r}).glob('*.jpg')) for "
            "the images in it."
        )
    if not path.is_file():
        raise InputError(f"{which}: no file at {path}; type the path of an image.")
