"""Augmentation of whole batches on their device, uint8 in and uint8 out."""

import random
from dataclasses import dataclass

import torch
from torch import Tensor
from torchvision.transforms.v2 import AutoAugment

from camreid.errors import InputError, require_number, require_whole

# The ImageNet mean in raw units, which FastReID pads and erases with too (it pads with black).
_MEAN = (124, 116, 104)


@dataclass(frozen=True)
class Augment:
    """Flip, pad and crop, random erasing; each image of a batch draws its own.

    Attributes:
        flip: probability of a mirror image.
        pad: black pixels added on each side before a random crop back to size.
        erase: probability of erasing a rectangle (Zhong et al. 2017).
        erase_area: the rectangle's share of the image, least and most.
        erase_aspect: the rectangle's least height/width ratio; the most is its inverse.
        auto: probability of an AutoAugment policy (Cubuk et al. 2019), before the others.
    """

    flip: float = 0.5
    pad: int = 10
    erase: float = 0.5
    erase_area: tuple[float, float] = (0.02, 0.33)
    erase_aspect: float = 0.3
    auto: float = 0.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "erase_area", tuple(self.erase_area))
        for name in ("flip", "erase", "erase_aspect", "auto"):
            require_number(name, getattr(self, name), 0, 1)
        require_whole("pad", self.pad, least=0)
        if not all(0 <= share <= 1 for share in self.erase_area):
            raise InputError(
                f"erase_area={list(self.erase_area)}: expected two shares in 0..1.",
                erase_area=[0.02, 0.33],
            )

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Augmented copies of `images`.

        Args:
            images: (B, 3, H, W), raw pixels.
            generator: CPU generator, so that every device draws the same.

        Returns:
            (B, 3, H, W), the dtype and device of `images`.
        """
        if self.auto:
            images = auto_augment(images, self.auto, generator)
        images = flip(images, self.flip, generator)
        images = pad_and_crop(images, self.pad, generator)
        return self._erase(images, generator)

    def _erase(self, images: Tensor, generator: torch.Generator) -> Tensor:
        batch, _, height, width = images.shape
        low, high = self.erase_area
        area = height * width * (low + (high - low) * _uniform(batch, generator))
        log_aspect = torch.tensor(max(self.erase_aspect, 1e-3)).log()
        aspect = (log_aspect * (2 * _uniform(batch, generator) - 1)).exp()
        tall = (area * aspect).sqrt().round().clamp(1, height)
        wide = (area / aspect).sqrt().round().clamp(1, width)
        top = ((height - tall + 1) * _uniform(batch, generator)).floor()
        left = ((width - wide + 1) * _uniform(batch, generator)).floor()
        chosen = _uniform(batch, generator) < self.erase
        rows, columns = torch.arange(height), torch.arange(width)
        inside_rows = (rows >= top[:, None]) & (rows < (top + tall)[:, None])  # (B, H)
        inside_columns = (columns >= left[:, None]) & (columns < (left + wide)[:, None])  # (B, W)
        inside_rows &= chosen[:, None]
        inside_rows, inside_columns = (t.to(images.device) for t in (inside_rows, inside_columns))
        mask = inside_rows[:, None, :, None] & inside_columns[:, None, None, :]  # (B, 1, H, W)
        erased = mask.to(images.dtype)  # sums are several times faster than `where` on bytes
        fill = torch.tensor(_MEAN, dtype=images.dtype, device=images.device).view(1, 3, 1, 1)
        return images * (1 - erased) + fill * erased


def auto_augment(images: Tensor, probability: float, generator: torch.Generator) -> Tensor:
    """AutoAugment's ImageNet policies on a random subset of (B, 3, H, W) uint8 images."""
    chosen = (_uniform(len(images), generator) < probability).nonzero().flatten().tolist()
    policy, images = AutoAugment(), images.clone()
    devices = [images.device] if images.is_cuda else []
    with torch.random.fork_rng(devices):  # torchvision draws from the global stream
        torch.manual_seed(int(torch.randint(2**62, (), generator=generator)))
        for place in chosen:
            images[place] = policy(images[place])
    return images


def flip(images: Tensor, probability: float, generator: torch.Generator) -> Tensor:
    """Mirror images of a random subset of (B, 3, H, W)."""
    chosen = (_uniform(len(images), generator) < probability).nonzero().flatten()
    chosen = chosen.to(images.device)
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


def stream(*key: int) -> torch.Generator:
    """A CPU generator of its own for (seed, epoch, rank, ...).

    >>> torch.equal(torch.rand(2, generator=stream(0, 1)), torch.rand(2, generator=stream(0, 1)))
    True
    """
    return torch.Generator().manual_seed(random.Random(repr(key)).getrandbits(63))


def _uniform(count: int, generator: torch.Generator) -> Tensor:
    return torch.rand(count, generator=generator)
