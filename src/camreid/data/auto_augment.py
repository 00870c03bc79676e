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
_SPACE = AutoAugment()._augmentation_space(10, (1, 1))  # magnitudes; whether both signs are drawn


def auto_augment(images: Tensor, probability: float, draws: Tensor) -> Tensor:
    """Copies of (B, 3, H, W) with a policy on a random subset, from (DRAWS, B) uniform numbers."""
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
                magnitudes, signed = _SPACE[name]
                magnitude = 0.0 if step is None else float(magnitudes[step])
                group[name, -magnitude if signed and sign <= 0.5 else magnitude].append(image)
    return groups


def _warp(images: Tensor, degrees: float, slope: float) -> Tensor:
    """Turned about the centre or sheared along the rows, by nearest pixels; black outside."""
    height, width = images.shape[2:]
    y = (torch.arange(height, device=images.device) - (height - 1) / 2)[:, None]
    x = torch.arange(width, device=images.device) - (width - 1) / 2
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    columns = (cos * x + (slope - sin) * y + (slope * height + width - 1) / 2).round().long()
    rows = (sin * x + cos * y + (height - 1) / 2).round().long()
    inside = (rows >= 0) & (rows < height) & (columns >= 0) & (columns < width)
    index = rows.clamp(0, height - 1) * width + columns.clamp(0, width - 1)  # (H, W)
    pixels = images.permute(0, 2, 3, 1).flatten(1, 2).index_select(1, index.flatten())
    return (pixels * inside.view(-1, 1)).view(-1, height, width, 3).permute(0, 3, 1, 2)


def _sharpen(images: Tensor, factor: float) -> Tensor:
    """torchvision's, which copies its kernel to the device and waits there."""
    pixels = images.float()
    centre = pixels[..., 1:-1, 1:-1]
    sums = torch.nn.functional.avg_pool2d(pixels, 3, 1, divisor_override=1)
    blurred = ((sums + 4 * centre) / 13).round()
    centre.add_(blurred - centre, alpha=1 - factor)
    return pixels.clamp_(0, 255).to(images.dtype)


OPERATIONS: dict[str, Callable[[Tensor, float], Tensor]] = {
    "Rotate": lambda images, degrees: _warp(images, degrees, 0.0),
    "ShearX": lambda images, slope: _warp(images, 0.0, slope),
    "Color": lambda images, by: F.adjust_saturation(images, 1 + by),
    "Contrast": lambda images, by: F.adjust_contrast(images, 1 + by),
    "Sharpness": lambda images, by: _sharpen(images, 1 + by),
    "Posterize": lambda images, bits: F.posterize(images, int(bits)),
    "Solarize": F.solarize,
    "AutoContrast": lambda images, _: F.autocontrast(images),
    "Equalize": lambda images, _: F.equalize(images),
    "Invert": lambda images, _: F.invert(images),
}
