"""Raw pixels to the range of a backbone, on the device."""

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn

from camreid.errors import InputError, PixelRangeError, require_choice

Pixels = Literal["raw", "imagenet"]
Size = tuple[int, int]  # (H, W) in pixels


class PixelNorm(nn.Module):
    """Normalises raw pixels on the device and refuses any other range.

    All but uint8 batches are checked: in training on a GPU, all but the first a step later, which
    does not wait for the device. The (3,) `mean` and `std` are in raw units.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, pixels: Pixels, mean: Tensor, std: Tensor) -> None:
        super().__init__()
        require_choice("pixels", pixels, Pixels)
        self.pixels = pixels
        self.register_buffer("mean", mean.view(1, 3, 1, 1))
        self.register_buffer("std", std.view(1, 3, 1, 1))
        self._is_first = True
        self._pending: Callable[[], None] | None = None  # the check of the last batch

    def forward(self, images: Tensor) -> Tensor:
        """Float images as the backbone expects them; `images` (B, 3, H, W) are not modified."""
        if not torch.compiler.is_compiling():
            self.check(images)
        return images.to(self.mean.dtype) if self.pixels == "imagenet" else self.normalize(images)

    def normalize(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) of raw pixels."""
        return (images.to(self.mean.dtype) - self.mean).div_(self.std)

    def check(self, images: Tensor) -> None:
        """PixelRangeError for another range, of this batch or the one before."""
        if images.ndim != 4 or images.shape[1] != 3:
            raise InputError(f"images of shape {tuple(images.shape)}: expected (B, 3, H, W), RGB.")
        if self._pending is not None:
            pending, self._pending = self._pending, None
            pending()
        if images.numel() == 0 or (self.pixels == "raw" and images.dtype == torch.uint8):
            return
        if self._is_first or not (images.is_cuda and self.training):
            self._is_first = False
            self._check(images)
            return
        read = read_later(torch.stack(images.detach().aminmax()))
        self._pending = lambda: self._check(read())

    def _check(self, images: Tensor) -> None:
        """`images` (..) are a batch, or its least and greatest value."""
        if self.pixels == "raw":
            check_raw(images, "; for normalised pixels set pixels=imagenet")
        elif not images.is_floating_point() or images.abs().max() > 20:
            expected = "pixels=imagenet declares (x / 255 - mean) / std, about -3..3"
            raise PixelRangeError(f"{_seen(images)}: {expected}.", pixels="raw")


def read_later(values: Tensor) -> Callable[[], Tensor]:
    """A function that gives the values on the CPU; their copy does not wait for a GPU."""
    copy = values.to("cpu", non_blocking=values.is_cuda)
    if not values.is_cuda:
        return lambda: copy
    copied = torch.cuda.Event()  # type: ignore[no-untyped-call]
    copied.record(torch.cuda.current_stream(values.device))
    return lambda: copied.synchronize() or copy  # type: ignore[func-returns-value]


def check_raw(images: Tensor, otherwise: str = "") -> None:
    """Refuse pixels outside 0..255, and float pixels in 0..1; `otherwise` ends the message."""
    if images.dtype == torch.uint8:
        return
    low, high = (value.item() for value in images.aminmax())
    scaled = images.is_floating_point() and 0 < high <= 1  # all zeros are an empty image
    if not 0 <= low <= high <= 255 or scaled:
        expected = "raw pixels in 0..255, which the model normalises; multiply 0..1 by 255"
        raise PixelRangeError(f"{_seen(images)}: expected {expected}{otherwise}.")


def _seen(images: Tensor) -> str:
    low, high = (value.item() for value in images.aminmax())
    return f"{str(images.dtype).removeprefix('torch.')} images from {low:.4g} to {high:.4g}"
