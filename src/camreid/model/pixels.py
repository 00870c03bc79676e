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
        images = images.to(self.mean.dtype)
        return images if self.pixels == "imagenet" else (images - self.mean) / self.std

    def _check(self, images: Tensor) -> None:
        if images.ndim != 4 or images.shape[1] != 3:
            raise InputError(f"images of shape {tuple(images.shape)}: expected (B, 3, H, W), RGB.")
        if images.numel() == 0:
            return
        low, high = (value.item() for value in images.aminmax())
        seen = f"{str(images.dtype).removeprefix('torch.')} images from {low:.4g} to {high:.4g}"
        if self.pixels == "raw":
            # a float batch within 0..1 is scaled: not even night is that black, but zeros are zeros
            scaled = images.is_floating_point() and 0 < high <= 1
            if low < 0 or high > 255 or scaled:
                raise PixelRangeError(
                    f"{seen}: expected raw pixels, uint8 or float in 0..255, because the model "
                    "normalises them itself. Feed raw pixels (x * 255 for 0..1), or say that they "
                    "are normalised already: model.pixels=imagenet."
                )
        elif not images.is_floating_point() or max(-low, high) > 20:
            raise PixelRangeError(
                f"{seen}: model.pixels=imagenet declares (x / 255 - mean) / std, about -3..3. "
                "For raw pixels type model.pixels=raw."
            )
