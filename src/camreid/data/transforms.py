"""Augmentation of whole batches on their device, uint8 in and uint8 out."""

import math
import random
from dataclasses import dataclass

import torch
from torch import Tensor
from torchvision.transforms.v2 import AutoAugment

from camreid.errors import require_number, require_whole

_MEAN = (124, 116, 104)  # of ImageNet in raw units; FastReID erases with it too, and pads with 0
_ERASE_AREA = (0.02, 0.33)  # least and most share of the image, as torchvision's RandomErasing
_ERASE_ASPECT = (0.3, 3.3)  # least and most height/width ratio
_ERASE_TRIES = 10  # rectangles drawn until one is smaller than the image
_POLICIES = AutoAugment()  # those for ImageNet of Cubuk et al. 2019


@dataclass(frozen=True)
class Augment:
    """Flip, pad and crop, random erasing: for each image, as torchvision's transforms for one."""

    flip: float = 0.5  # probability of a mirror image
    pad: int = 10  # black pixels added on each side before a random crop back to size
    erase: float = 0.5  # probability of erasing a rectangle (Zhong et al. 2017)
    auto: float = 0.0  # probability of an AutoAugment policy (Cubuk et al. 2019), before the others

    def __post_init__(self) -> None:
        for name in ("flip", "erase", "auto"):
            require_number(name, getattr(self, name), 0, 1)
        require_whole("pad", self.pad, least=0)

    def __call__(
        self, images: Tensor, generator: torch.Generator, rank: int = 0, world_size: int = 1
    ) -> Tensor:
        """Augmented copies of (B, 3, H, W) uint8, this rank's share, in the same memory format.

        Each rank brings a CPU generator in the same state; together they augment as one rank.
        """
        batch, _, height, width = images.shape
        draws = torch.rand(8 + 2 * _ERASE_TRIES, world_size * batch, generator=generator)
        draws = draws[:, rank * batch : (rank + 1) * batch]
        if self.auto:
            images = auto_augment(images, self.auto, draws[:2])
        shift = (draws[3:5] * (2 * self.pad + 1)).floor() - self.pad
        boxes = _boxes(draws[5:], self.erase, height, width)
        table = torch.cat([draws[2:3] < self.flip, shift, boxes]).long()
        return (_place_on_cpu if images.device.type == "cpu" else place)(images, table)


def auto_augment(images: Tensor, probability: float, draws: Tensor) -> Tensor:
    """Copies of (B, 3, H, W), some with a policy; (2, B) uniform draws say whether, and seed it."""
    images = images.clone()
    with torch.random.fork_rng([]):  # torchvision draws from the generator of the process
        for place, (chance, seed) in enumerate(draws.T.tolist()):
            if chance < probability:
                torch.default_generator.manual_seed(int(seed * 2**24))  # of 24 bits in float32
                images[place] = _POLICIES(images[place])
    return images


def _boxes(draws: Tensor, probability: float, height: int, width: int) -> Tensor:
    """(4, B) top, left, height and width in pixels; zeros where nothing is erased."""
    chance, *places = draws[:3]
    area, slant = draws[3:].chunk(2)  # (_ERASE_TRIES, B)
    low, high = _ERASE_AREA
    area = height * width * (low + (high - low) * area)
    low, high = map(math.log, _ERASE_ASPECT)
    aspect = (low + (high - low) * slant).exp()
    sides = torch.stack([(area * aspect).sqrt(), (area / aspect).sqrt()]).round()
    limits = torch.tensor([height, width])[:, None]
    fits = (sides < limits[:, None]).all(0)
    first = fits.int().argmax(0)  # the first of equal values
    sides = sides[:, first, torch.arange(len(first))] * (fits.any(0) & (chance < probability))
    starts = ((limits - sides + 1) * torch.stack(places)).floor() * (sides > 0)
    return torch.cat([starts, sides])


def place(images: Tensor, table: Tensor) -> Tensor:
    """Images (B, 3, H, W) mirrored, moved, then erased, in the same memory format, by one gather.

    `table` (7, B) is on the CPU: mirrored or not, the row and the column that come to the upper
    left corner, and top, left, height and width of the erased rectangle.
    """
    device, (batch, _, height, width) = images.device, images.shape
    table = table.to(device, non_blocking=True)
    mirrored, down, across, top, left, tall, wide = table[:, :, None, None]
    y, x = torch.arange(height, device=device)[:, None], torch.arange(width, device=device)
    rows, columns = y + down, x + across  # (B, H, 1), (B, 1, W)
    inside = (rows >= 0) & (rows < height) & (columns >= 0) & (columns < width)
    erased = (y >= top) & (y < top + tall) & (x >= left) & (x < left + wide)
    columns = torch.where(mirrored > 0, width - 1 - columns, columns)
    index = torch.arange(batch, device=device)[:, None, None]
    moved = images[index, :, rows.clamp(0, height - 1), columns.clamp(0, width - 1)]  # (B, H, W, 3)
    moved *= inside[..., None]
    for channel, level in enumerate(_MEAN):
        moved[..., channel].masked_fill_(erased, level)
    like = torch.channels_last if images.stride(1) == 1 else torch.contiguous_format
    return moved.permute(0, 3, 1, 2).contiguous(memory_format=like)


def _place_on_cpu(images: Tensor, table: Tensor) -> Tensor:
    """The same by copies of slices, which take a twentieth of the time of a gather there."""
    _, _, height, width = images.shape
    moved, fill = torch.zeros_like(images), torch.empty_like(images[:1])
    fill.copy_(torch.tensor(_MEAN).view(1, 3, 1, 1))
    source, target, mean = images.numpy(), moved.numpy(), fill.numpy()
    for i, (mirrored, down, across, top, left, tall, wide) in enumerate(table.T.tolist()):
        image = images[i : i + 1].flip(-1).numpy()[0] if mirrored else source[i]
        shown = image[:, max(0, down) : max(0, height + down)]
        shown = shown[:, :, max(0, across) : max(0, width + across)]
        y, x = max(0, -down), max(0, -across)
        target[i, :, y : y + shown.shape[1], x : x + shown.shape[2]] = shown
        target[i, :, top : top + tall, left : left + wide] = mean[0, :, :tall, :wide]
    return moved


def stream(*key: int) -> torch.Generator:
    """A CPU generator of its own for (seed, epoch, batch, ...)."""
    return torch.Generator().manual_seed(random.Random(repr(key)).getrandbits(63))
