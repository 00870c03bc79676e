"""Images from disk, uint8, at the size of the model."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor
from torch.utils.data import Dataset
from torchvision.io import ImageReadMode, decode_image
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2.functional import resize

from camreid.data.records import ImageRecord
from camreid.errors import InputError


def read_image(path: str) -> Tensor:
    """One image as (3, h, w) uint8 RGB, grey and palette images included.

    Raises:
        InputError: the file is no image, or a broken one.
    """
    try:
        image: Tensor = decode_image(path, mode=ImageReadMode.RGB)
        if image.dtype == torch.uint8:
            return image
    except RuntimeError:
        pass  # a format or colour space that only Pillow reads
    try:
        with Image.open(path) as file:
            return torch.from_numpy(np.array(file.convert("RGB"))).permute(2, 0, 1)
    except (UnidentifiedImageError, OSError) as error:
        raise InputError(
            f"{path} can't be read as an image ({error}). Copy the file again, or take it out of "
            "the dataset."
        ) from error


class ImageDataset(Dataset[dict[str, Any]]):
    """Records as items of a batch.

    An item holds `images` (3, H, W) uint8 RGB, `pids` raw identity, `camids` 0-based camera,
    `img_paths` the file, and `index` the place in `records`. Images are resized as FastReID does:
    bicubic, antialiased.

    Args:
        records: what to read.
        size: (H, W) in pixels.
    """

    def __init__(self, records: Sequence[ImageRecord], size: tuple[int, int]) -> None:
        self.records = tuple(records)
        self.size = (int(size[0]), int(size[1]))

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> dict[str, Any]:
        record = self.records[index]
        image = read_image(record.path)
        if tuple(image.shape[1:]) != self.size:
            image = resize(
                image, list(self.size), interpolation=InterpolationMode.BICUBIC, antialias=True
            )
        return {
            "images": image,
            "pids": record.pid,
            "camids": record.camera - 1,
            "img_paths": record.path,
            "index": index,
        }
