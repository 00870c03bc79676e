"""Who a stylised person is: build, skin, hair, clothes of patterned cloth, hat and bag.

Colours come from short palettes, so that many people share them and patterns, hair and bags matter.
"""

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageChops

Colour = tuple[int, int, int]
Grid = NDArray[np.float64]

CLOTH = (160, 176)  # width, height of a piece of cloth on the canvas

_UPPER: tuple[Colour, ...] = (
    (235, 232, 225), (40, 40, 46), (190, 44, 48), (44, 84, 170), (60, 140, 80), (225, 190, 60),
    (140, 140, 145), (150, 90, 160),
)  # fmt: skip
_LOWER: tuple[Colour, ...] = (
    (34, 36, 44), (52, 70, 120), (196, 178, 140), (118, 118, 122), (110, 72, 50), (225, 222, 215),
)  # fmt: skip
_HAIR: tuple[Colour, ...] = ((28, 24, 22), (84, 54, 34), (196, 160, 90), (150, 148, 145))
_SKIN: tuple[Colour, ...] = ((238, 200, 172), (206, 158, 122), (140, 96, 68))


@dataclass(frozen=True)
class Person:
    """What stays the same whoever looks: build, hair, clothes and what is carried."""

    breadth: float
    skin: Colour
    hair: Colour
    hair_style: str
    hat: Colour | None
    upper: Image.Image
    sleeves: Image.Image  # the same cloth, in the shade
    long_sleeves: bool
    hem: float  # how far the upper garment falls below the hip, share of the height
    logo: Colour | None
    opened: Colour | None  # the shirt under an open jacket
    lower: Image.Image
    garment: str
    shoes: Colour
    bag: str
    bag_colour: Colour


def make_person(key: str) -> Person:
    """Dress a person; the same key gives the same person.

    >>> make_person("0 704").breadth == make_person("0 704").breadth != make_person("0 2").breadth
    True
    """
    rng = random.Random(f"person {key}")
    garment = rng.choice(("trousers", "trousers", "trousers", "shorts", "skirt"))
    upper = _cloth(rng, _UPPER, plain=0.25)
    return Person(
        breadth=rng.uniform(0.8, 1.3),
        skin=rng.choice(_SKIN),
        hair=rng.choice(_HAIR),
        hair_style=rng.choice(("short", "long", "bun", "bald", "bob")),
        hat=rng.choice(_UPPER) if rng.random() < 0.25 else None,
        upper=upper,
        sleeves=ImageChops.multiply(upper, Image.new("RGB", CLOTH, (205, 205, 205))),
        long_sleeves=rng.random() < 0.5,
        hem=rng.choice((0.0, 0.03, 0.14)),
        logo=rng.choice(_UPPER) if rng.random() < 0.3 else None,
        opened=rng.choice(_UPPER) if rng.random() < 0.25 else None,
        lower=_cloth(rng, _LOWER, plain=0.6),
        garment=garment,
        shoes=rng.choice(_UPPER),
        bag=rng.choice(("none", "none", "backpack", "backpack", "handbag", "satchel")),
        bag_colour=rng.choice(_UPPER),
    )


def _cloth(rng: random.Random, palette: Sequence[Colour], plain: float) -> Image.Image:
    """A piece of patterned cloth in two colours of the palette."""
    first, second = rng.sample(palette, 2)
    name = "plain" if rng.random() < plain else rng.choice(tuple(_PATTERNS)[1:])
    mask = _pattern(name, rng.choice((10, 16, 24)), rng.choice((0, 10, 20)))
    cloth = Image.new("RGB", CLOTH, first)
    cloth.paste(second, (0, 0), mask)
    return cloth


# name -> level(x, y, period, shift); the second colour shows where the level is positive
_PATTERNS: dict[str, Callable[[Grid, Grid, float, float], Grid]] = {
    "plain": lambda x, y, period, shift: 0 * x,
    "rows": lambda x, y, period, shift: _wave(y, period),
    "columns": lambda x, y, period, shift: _wave(x, period),
    "checks": lambda x, y, period, shift: _wave(x, period) * _wave(y, period),
    "grid": lambda x, y, period, shift: np.maximum(_wave(x, period), _wave(y, period)) - 0.75,
    "dots": lambda x, y, period, shift: _wave(x, period) + _wave(y, period) - 0.9,
    "diagonal": lambda x, y, period, shift: _wave(x + y, 1.4 * period),
    "block": lambda x, y, period, shift: y - 40 - shift,
    "blots": lambda x, y, period, shift: (
        _wave(x + 4 * _wave(y, 2.5 * period), 1.7 * period) * _wave(y + shift, 2 * period) - 0.1
    ),
    "band": lambda x, y, period, shift: period - abs(y - 45 - shift),
}


def _wave(along: Grid, period: float) -> Grid:
    return np.sin(2 * math.pi * along / period)


@cache
def _pattern(name: str, period: int, shift: int) -> Image.Image:
    """Where the second colour of a cloth shows: an "L" mask."""
    # Off the whole numbers: where a wave is all but 0, its sign would depend on the processor.
    x, y = np.meshgrid(np.arange(CLOTH[0]) - CLOTH[0] / 2 + 0.37, np.arange(CLOTH[1]) + 0.37)
    level = _PATTERNS[name](x, y, period, shift)
    return Image.fromarray(np.where(level > 0, 255, 0).astype(np.uint8))
