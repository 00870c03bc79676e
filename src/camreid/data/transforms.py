"""Augmentation of whole batches on their device, uint8 in and uint8 out."""

import math
import random
from dataclasses import dataclass

import torch
from torch import Tensor
from torchvision.transforms.v2 import AutoAugment

from camreid.errors import require_number, require_whole

# The ImageNet mean in raw units, which FastReID erases with too (it pads with black).
_MEAN = (124, 116, 104)
_ERASE_AREA = (0.02, 0.33)  # least and most share of the image
_ERASE_ASPECT = 0.3  # least height/width ratio; the most is its inverse


@dataclass(frozen=True)
class Augment:
    """Flip, pad and crop, random erasing; each image of a batch draws its own.

    Attributes:
        flip: probability of a mirror image.
        pad: black pixels added on each side before a random crop back to size.
        erase: probability of erasing a rectangle (Zhong et al. 2017).
        auto: probability of an AutoAugment policy (Cubuk et al. 2019), before the others.
    """

    flip: float = 0.5
    pad: int = 10
    erase: float = 0.5
    auto: float = 0.0

    def __post_init__(self) -> None:
        for name in ("flip", "erase", "auto"):
            require_number(name, getattr(self, name), 0, 1)
        require_whole("pad", self.pad, least=0)

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Augmented copies of (B, 3, H, W) raw pixels, from a generator on the CPU."""
        if self.auto:
            images = auto_augment(images, self.auto, generator)
        images = flip(images, self.flip, generator)
        images = pad_and_crop(images, self.pad, generator)
        return erase(images, self.erase, generator)


def auto_augment(images: Tensor, probability: float, generator: torch.Generator) -> Tensor:
    """AutoAugment's ImageNet policies on a random subset."""
    chosen = torch.rand(len(images), generator=generator) < probability
    policy, images = AutoAugment(), images.clone()
    devices = [images.device] if images.is_cuda else []
    with torch.random.fork_rng(devices):  # torchvision draws from the global stream
        torch.manual_seed(int(torch.randint(2**62, (), generator=generator)))
        for place in chosen.nonzero().flatten().tolist():
            images[place] = policy(images[place])
    return images


def flip(images: Tensor, probability: float, generator: torch.Generator) -> Tensor:
    """Mirror images of a random subset of (B, 3, H, W)."""
    chosen = torch.rand(len(images), generator=generator) < probability
    chosen = chosen.nonzero().flatten().to(images.device)
    mirrored = images.clone()
    mirrored[chosen] = images[chosen].flip(-1)
    return mirrored


def pad_and_crop(images: Tensor, pad: int, generator: torch.Generator) -> Tensor:
    """Each of (B, 3, H, W) moved by up to `pad` pixels either way, with black coming in."""
    if pad == 0:
        return images
    batch, _, height, width = images.shape
    padded = torch.nn.functional.pad(images, (pad, pad, pad, pad))
    top, left = torch.randint(2 * pad + 1, (2, batch), generator=generator).to(images.device)
    windows = padded.unfold(2, height, 1).unfold(3, width, 1)  # (B, 3, tops, lefts, H, W), a view
    return windows[torch.arange(batch, device=images.device), :, top, left]


def erase(images: Tensor, probability: float, generator: torch.Generator) -> Tensor:
    """Fill a rectangle in a random subset of (B, 3, H, W) with the ImageNet mean."""
    batch, _, height, width = images.shape
    low, high = _ERASE_AREA
    area, slant, down, across, chance = torch.rand(5, batch, generator=generator)
    area = height * width * (low + (high - low) * area)
    aspect = (math.log(_ERASE_ASPECT) * (2 * slant - 1)).exp()
    sides = (area * aspect).sqrt(), (area / aspect).sqrt()
    inside: list[Tensor] = []
    for side, place, length in zip(sides, (down, across), (height, width), strict=True):
        side = side.round().clamp(1, length)
        start = ((length - side + 1) * place).floor()
        pixels = torch.arange(length)
        inside.append((pixels >= start[:, None]) & (pixels < (start + side)[:, None]))
    rows, columns = inside  # (B, H), (B, W)
    rows &= (chance < probability)[:, None]
    mask = rows.to(images.device)[:, None, :, None] & columns.to(images.device)[:, None, None, :]
    erased = mask.to(images.dtype)  # sums are several times faster than `where` on bytes
    fill = torch.tensor(_MEAN, dtype=images.dtype, device=images.device).view(1, 3, 1, 1)
    return images * (1 - erased) + fill * erased


def stream(*key: int) -> torch.Generator:
    """A CPU generator of its own for (seed, epoch, rank, ...).

    >>> torch.equal(torch.rand(2, generator=stream(0, 1)), torch.rand(2, generator=stream(0, 1)))
    True
    """
    return torch.Generator().manual_seed(random.Random(repr(key)).getrandbits(63))
