"""Raw pixels to the range of a backbone, on the device."""

from typing import Literal

import torch
from torch import Tensor, nn

from camreid.errors import InputError, PixelRangeError, require_choice

Pixels = Literal["raw", "imagenet"]


class PixelNorm(nn.Module):
    """Normalises raw pixels on the device and refuses any other range.

    uint8 batches need no check of their values. Others are checked every time on the CPU; on a
    GPU, where reading a value waits for the device, the first ten of each mode and every 100th.
    The (3,) `mean` and `std` are in raw units.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, pixels: Pixels, mean: Tensor, std: Tensor) -> None:
        super().__init__()
        require_choice("pixels", pixels, Pixels)
        self.pixels = pixels
        self.register_buffer("mean", mean.view(1, 3, 1, 1))
        self.register_buffer("std", std.view(1, 3, 1, 1))
        self._batches = {True: 0, False: 0}

    def forward(self, images: Tensor) -> Tensor:
        """Float images as the backbone expects them; `images` (B, 3, H, W) are not modified."""
        if not torch.compiler.is_compiling():
            self.check(images)
        if self.pixels == "imagenet":
            return images.to(self.mean.dtype)
        return self.normalize(images)

    def normalize(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) of raw pixels."""
        return (images.to(self.mean.dtype) - self.mean) / self.std

    def check(self, images: Tensor) -> None:
        """PixelRangeError for another range; see above for how often."""
        if images.ndim != 4 or images.shape[1] != 3:
            raise InputError(f"images of shape {tuple(images.shape)}: expected (B, 3, H, W), RGB.")
        count = self._batches[self.training]
        self._batches[self.training] += 1
        if images.numel() == 0 or (images.is_cuda and count >= 10 and count % 100):
            return
        if self.pixels == "raw":
            check_raw(images, "; for normalised pixels set pixels=imagenet")
        elif not images.is_floating_point() or images.abs().max() > 20:
            raise PixelRangeError(
                f"{_seen(images)}: pixels=imagenet declares (x / 255 - mean) / std, about -3..3.",
                pixels="raw",
            )


def check_raw(images: Tensor, otherwise: str = "") -> None:
    """Refuse pixels outside 0..255, and float pixels in 0..1; `otherwise` ends the message."""
    if images.dtype == torch.uint8:
        return
    low, high = (value.item() for value in images.aminmax())
    # no photograph is as dark as float pixels in 0..1, but all zeros are an empty image
    scaled = images.is_floating_point() and 0 < high <= 1
    if not 0 <= low <= high <= 255 or scaled:
        raise PixelRangeError(
            f"{_seen(images)}: expected raw pixels, uint8 or float in 0..255, because the model "
            f"normalises them itself. Feed raw pixels (x * 255 for 0..1){otherwise}."
        )


def _seen(images: Tensor) -> str:
    low, high = images.aminmax()
    return f"{str(images.dtype).removeprefix('torch.')} images from {low:.4g} to {high:.4g}"
