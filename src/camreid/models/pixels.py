"""Raw pixels to what a backbone wants, on the device."""

from typing import Literal

from torch import Tensor, nn

from camreid.errors import InputError, PixelRangeError

Pixels = Literal["raw", "imagenet"]


class PixelNorm(nn.Module):
    """Normalises raw pixels on the device and refuses any other range on the first batches.

    Args:
        pixels: `raw` for uint8 or float in 0..255; `imagenet` for input that is normalised already.
        mean: (3,) in raw units.
        std: (3,) in raw units.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, pixels: Pixels, mean: Tensor, std: Tensor) -> None:
        super().__init__()
        if pixels not in ("raw", "imagenet"):
            raise InputError(
                f"model.pixels={pixels}: type model.pixels=raw or model.pixels=imagenet."
            )
        self.pixels = pixels
        self.register_buffer("mean", mean.view(1, 3, 1, 1))
        self.register_buffer("std", std.view(1, 3, 1, 1))
        self._checked: set[bool] = set()

    def forward(self, images: Tensor) -> Tensor:
        """Float images as the backbone wants them; `images` (B, 3, H, W) are left as they are."""
        if self.training not in self._checked:
            self._check(images)
            self._checked.add(self.training)
        if self.pixels == "imagenet":
            return images.to(self.mean.dtype)
        return self.normalize(images)

    def normalize(self, images: Tensor) -> Tensor:
        """Raw pixels (B, 3, H, W) as the backbone wants them, whatever was declared."""
        return (images.to(self.mean.dtype) - self.mean) / self.std

    def _check(self, images: Tensor) -> None:
        if images.ndim != 4 or images.shape[1] != 3:
            raise InputError(f"images of shape {tuple(images.shape)}: expected (B, 3, H, W), RGB.")
        if images.numel() == 0:
            return
        if self.pixels == "raw":
            check_raw(images, ", or say that they are normalised already: model.pixels=imagenet")
            return
        low, high = (value.item() for value in images.aminmax())
        if not images.is_floating_point() or max(-low, high) > 20:
            raise PixelRangeError(
                f"{_seen(images)}: model.pixels=imagenet declares (x / 255 - mean) / std, about "
                "-3..3. For raw pixels type model.pixels=raw."
            )


def check_raw(images: Tensor, otherwise: str = "") -> None:
    """Refuse pixels that are not raw, such as scaled or normalised ones.

    Args:
        images: of any shape, not empty.
        otherwise: what else there is to do about it, for the message.

    Raises:
        PixelRangeError: not in 0..255, or float in 0..1.

    >>> check_raw(Tensor([0, 7, 255]))
    """
    low, high = (value.item() for value in images.aminmax())
    # floats within 0..1 are scaled: not even night is that black, but zeros are zeros
    scaled = images.is_floating_point() and 0 < high <= 1
    if not 0 <= low <= high <= 255 or scaled:
        raise PixelRangeError(
            f"{_seen(images)}: expected raw pixels, uint8 or float in 0..255, because the model "
            f"normalises them itself. Feed raw pixels (x * 255 for 0..1){otherwise}."
        )


def _seen(images: Tensor) -> str:
    low, high = (value.item() for value in images.aminmax())
    return f"{str(images.dtype).removeprefix('torch.')} images from {low:.4g} to {high:.4g}"
