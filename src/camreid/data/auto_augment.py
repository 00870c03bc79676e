"""AutoAugment's ImageNet policies (Cubuk et al. 2019), by operations on groups of images."""

import math
from collections import defaultdict
from collections.abc import Callable

import torch
from torch import Tensor
from torchvision.transforms import AutoAugment
from torchvision.transforms.v2 import functional as F

DRAWS = 6  # uniform numbers for an image

Groups = defaultdict[tuple[str, float], list[int]]  # images of each (operation, magnitude)

_POLICIES = AutoAugment().policies
_MOST = {"Rotate": 30.0, "ShearX": 0.3, "Color": 0.9, "Contrast": 0.9, "Sharpness": 0.9}
_SIGNED = {name: torch.linspace(0, most, 10).tolist() for name, most in _MOST.items()}
_MAGNITUDES: dict[str, list[float]] = {
    **_SIGNED,
    "Posterize": [8 - round(4 * step / 9) for step in range(10)],  # bits
    "Solarize": [255 * (1 - step / 9) for step in range(10)],  # least level that is inverted
}


def auto_augment(images: Tensor, probability: float, draws: Tensor) -> Tensor:
    """Copies of (B, 3, H, W) with the two operations of a policy on a random subset.

    Args:
        images: uint8.
        probability: of a policy, for an image.
        draws: (DRAWS, B) uniform numbers on the CPU.
    """
    images = images.clone()
    for groups in draw_operations(probability, draws):
        for (name, magnitude), places in groups.items():
            index = torch.tensor(places).to(images.device, non_blocking=True)
            images.index_copy_(0, index, OPERATIONS[name](images[index], magnitude))
    return images


def draw_operations(probability: float, draws: Tensor) -> tuple[Groups, Groups]:
    """The first and the second operations of a batch."""
    groups = Groups(list), Groups(list)
    for image, (chance, policy, *draw) in enumerate(draws.T.tolist()):
        if chance >= probability:
            continue
        pair = _POLICIES[int(policy * len(_POLICIES))]
        for group, operation, use, sign in zip(groups, pair, draw[:2], draw[2:], strict=True):
            name, share, step = operation
            if use <= share:
                magnitude = 0.0 if step is None else _MAGNITUDES[name][step]
                negative = name in _SIGNED and sign <= 0.5
                group[name, -magnitude if negative else magnitude].append(image)
    return groups


def _warp(images: Tensor, column: tuple[float, float, float], row: tuple[float, float]) -> Tensor:
    """Nearest pixels at linear functions of (x, y, 1) from the centre; black outside."""
    height, width = images.shape[2:]
    y = (torch.arange(height, device=images.device) - (height - 1) / 2)[:, None]
    x = torch.arange(width, device=images.device) - (width - 1) / 2
    columns = (column[0] * x + column[1] * y + column[2] + (width - 1) / 2).round().long()
    rows = (row[0] * x + row[1] * y + (height - 1) / 2).round().long()
    inside = (rows >= 0) & (rows < height) & (columns >= 0) & (columns < width)
    index = rows.clamp(0, height - 1) * width + columns.clamp(0, width - 1)  # (H, W)
    pixels = images.permute(0, 2, 3, 1).flatten(1, 2).index_select(1, index.flatten())
    pixels = pixels * inside.view(-1, 1)
    return pixels.view(-1, height, width, 3).permute(0, 3, 1, 2)


def _rotate(images: Tensor, degrees: float) -> Tensor:
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    return _warp(images, (cos, -sin, 0.0), (sin, cos))


def _shear(images: Tensor, slope: float) -> Tensor:
    return _warp(images, (1.0, slope, slope * images.shape[2] / 2), (0.0, 1.0))


def _sharpen(images: Tensor, factor: float) -> Tensor:
    """torchvision's, which copies its kernel to the device and waits there."""
    pixels = images.float()
    centre = pixels[..., 1:-1, 1:-1]
    sums = pixels[..., :-2, :] + pixels[..., 1:-1, :] + pixels[..., 2:, :]
    sums = sums[..., :-2] + sums[..., 1:-1] + sums[..., 2:]
    blurred = ((sums + 4 * centre) / 13).round()
    centre.add_(blurred - centre, alpha=1 - factor)
    return pixels.clamp_(0, 255).to(images.dtype)


OPERATIONS: dict[str, Callable[[Tensor, float], Tensor]] = {
    "Rotate": _rotate,
    "ShearX": _shear,
    "Color": lambda images, by: F.adjust_saturation(images, 1 + by),
    "Contrast": lambda images, by: F.adjust_contrast(images, 1 + by),
    "Sharpness": lambda images, by: _sharpen(images, 1 + by),
    "Posterize": lambda images, bits: F.posterize(images, int(bits)),
    "Solarize": F.solarize,
    "AutoContrast": lambda images, _: F.autocontrast(images),
    "Equalize": lambda images, _: F.equalize(images),
    "Invert": lambda images, _: F.invert(images),
}
