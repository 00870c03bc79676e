"""Images from disk, uint8, at the size of the model."""

from collections.abc import Sequence
from typing import Any, Literal

from PIL import Image, UnidentifiedImageError
from torch import Tensor
from torch.utils.data import Dataset
from torchvision.transforms.v2.functional import pil_to_tensor

from camreid.data.records import ImageRecord
from camreid.errors import InputError

Interpolation = Literal["bicubic", "bilinear"]
_RESAMPLING = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}


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
    return to_pixels(image, size, interpolation)


def to_pixels(
    image: Image.Image,
    size: tuple[int, int] | None = None,
    interpolation: Interpolation = "bicubic",
) -> Tensor:
    """A PIL image in RGB as (3, H, W) uint8, resized as `read_image` says.

    >>> to_pixels(Image.new("RGB", (64, 128)), size=(256, 128)).shape
    torch.Size([3, 256, 128])
    """
    if size is not None and image.size != (size[1], size[0]):
        image = image.resize((size[1], size[0]), _RESAMPLING[interpolation])
    pixels: Tensor = pil_to_tensor(image)
    return pixels


class ImageDataset(Dataset[dict[str, Any]]):
    """Records as items of a batch.

    An item holds `images` (3, H, W) uint8 RGB, `pids` raw identity, `camids` 0-based camera,
    `img_paths` the file, and `index` the place in `records`.

    Args:
        records: what to read.
        size: (H, W) in pixels.
        interpolation: of the resize; see `read_image`.

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
            raise InputError(f"data.interpolation={interpolation}: type bicubic or bilinear.")
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
