"""AutoAugment's ImageNet policies (Cubuk et al. 2019), by operations on groups of images."""

from collections import defaultdict

import torch
from torch import Tensor
from torchvision.transforms.v2 import AutoAugment

DRAWS = 6  # uniform numbers for an image

Groups = defaultdict[tuple[str, float], list[int]]  # images of each (operation, magnitude)

_THEIRS = AutoAugment()
_POLICIES = _THEIRS._policies
# magnitudes; whether both signs are drawn
_SPACE = {
    name: (steps(10, 1, 1), both) for name, (steps, both) in _THEIRS._AUGMENTATION_SPACE.items()
}


def auto_augment(images: Tensor, probability: float, draws: Tensor) -> Tensor:
    """Copies of (B, 3, H, W) with a policy on a random subset, from (DRAWS, B) uniform numbers."""
    images = images.clone()
    for groups in draw_operations(probability, draws):
        for operation, places in groups.items():
            index = torch.tensor(places).to(images.device, non_blocking=True)
            how = (*operation, _THEIRS.interpolation, _THEIRS._fill)
            changed = _THEIRS._apply_image_or_video_transform(images[index], *how)
            images.index_copy_(0, index, changed)
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
