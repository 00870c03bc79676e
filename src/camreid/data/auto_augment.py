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


OPERATIONS: dict[str, Callable[[Tensor, float], Tensor]] = {
    "Rotate": F.rotate,
    "ShearX": lambda images, slope: F.affine(
        images, 0.0, [0, 0], 1.0, [math.degrees(math.atan(slope)), 0.0], center=[0.0, 0.0]
    ),
    "Color": lambda images, by: F.adjust_saturation(images, 1 + by),
    "Contrast": lambda images, by: F.adjust_contrast(images, 1 + by),
    "Sharpness": lambda images, by: F.adjust_sharpness(images, 1 + by),
    "Posterize": lambda images, bits: F.posterize(images, int(bits)),
    "Solarize": F.solarize,
    "AutoContrast": lambda images, _: F.autocontrast(images),
    "Equalize": lambda images, _: F.equalize(images),
    "Invert": lambda images, _: F.invert(images),
}
