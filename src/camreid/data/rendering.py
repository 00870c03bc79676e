"""Crops of drawn identities under six cameras: pure functions of (seed, base name)."""

import io
import math
import random
from collections.abc import Sequence
from functools import cache
from pathlib import PurePath
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageChops, ImageDraw, ImageFilter

from camreid.data.records import DISTRACTOR, JUNK, ImageRecord

Colour = tuple[int, int, int]
Point = tuple[float, float]
Pose = tuple[float, float, str, float]  # foot and height in pixels, facing, swing of the limbs

VERSION = 2  # of the renderer: another version gives other bytes
HEIGHT, WIDTH = 128, 64

_UPPER = (  # short palettes, so that colour alone does not separate identities
    (235, 232, 225), (40, 40, 46), (190, 44, 48), (44, 84, 170), (60, 140, 80), (225, 190, 60),
    (140, 140, 145), (150, 90, 160),
)  # fmt: skip
_LOWER = ((34, 36, 44), (52, 70, 120), (196, 178, 140), (118, 118, 122), (110, 72, 50))
_HAIR = ((28, 24, 22), (84, 54, 34), (196, 160, 90), (150, 148, 145))
_SKIN = ((238, 200, 172), (206, 158, 122), (140, 96, 68))
_DARK = (30, 30, 30)
_PATTERNS = ("rows", "columns", "checks", "grid", "dots", "diagonal", "blots", "band", "block")


class Camera(NamedTuple):
    """What a camera does to every crop."""

    cast: tuple[float, float, float]  # gain of red, green, blue
    gamma: float
    blur: float  # radius in pixels
    noise: float  # standard deviation, 0..255
    facings: str  # front, back, left, right: equally likely letters
    ground: Colour
    wall: Colour


CAMERAS = (
    Camera((1.06, 1.00, 0.85), 0.90, 0.4, 4, "FFFLR", (150, 140, 120), (96, 130, 80)),
    Camera((0.80, 0.92, 1.10), 1.05, 0.5, 6, "BBBLR", (110, 112, 118), (150, 120, 104)),
    Camera((1.05, 1.05, 1.00), 0.70, 0.4, 4, "FBLR", (190, 186, 176), (120, 126, 136)),
    Camera((0.85, 1.00, 0.80), 1.10, 0.6, 5, "LLRRB", (90, 84, 80), (170, 166, 150)),
    Camera((0.95, 0.82, 0.98), 0.80, 0.7, 6, "BBFR", (130, 120, 124), (70, 84, 110)),
    Camera((1.10, 0.88, 0.70), 1.15, 0.5, 8, "FFLLR", (120, 96, 80), (60, 60, 66)),
)


class Look:
    """What stays the same under every camera."""

    def __init__(self, key: str) -> None:
        rng = random.Random(f"look {key}")
        self.breadth = rng.uniform(0.8, 1.3)
        self.skin, self.hair = rng.choice(_SKIN), rng.choice(_HAIR)
        self.long_hair = rng.random() < 0.5
        self.upper = _cloth(rng, _UPPER, plain=0.15)
        self.long_sleeves = rng.random() < 0.5
        self.hem = rng.choice((0.5, 0.46, 0.36))  # where the upper garment ends
        self.lower = _cloth(rng, _LOWER, plain=0.5)
        self.trousers = rng.random() < 0.6
        self.backpack = rng.choice(_UPPER) if rng.random() < 0.4 else None


def render_jpeg(seed: int, image: ImageRecord) -> bytes:
    """The JPEG file of one image: 64 wide, 128 high, RGB."""
    pid, own = image.pid, f"{seed} {PurePath(image.path).name}"
    camera = CAMERAS[(image.camera - 1) % len(CAMERAS)]
    chance = random.Random(f"frame {own}")
    recording = (pid, image.camera, image.sequence)
    track = random.Random(f"track {seed} {recording}") if pid > DISTRACTOR else chance
    x, y = int(track.uniform(30, 220) + chance.uniform(-30, 30)), chance.randint(0, 16)
    crop = _scene(seed, image.camera).crop((x, y, x + WIDTH, y + HEIGHT))
    height = 116 * track.uniform(0.92, 1.06) * chance.uniform(0.93, 1.06)
    foot = min(125, HEIGHT / 2 + height / 2) + chance.gauss(1, 3)
    facing, swing = track.choice(camera.facings), math.sin(chance.uniform(0, 2 * math.pi))
    centre, pose = WIDTH / 2 + chance.gauss(0, 2.5), (foot, height, facing, swing)
    if pid > DISTRACTOR:
        if chance.random() < 0.2:  # another figure at the edge of the box
            _draw(crop, Look(own), chance.choice((-4, WIDTH + 4)), pose)
        _draw(crop, Look(f"{seed} {pid}"), centre, pose)
    elif pid == JUNK:  # a part of a figure
        height, foot = height * chance.uniform(1.3, 1.8), chance.uniform(75, 200)
        _draw(crop, Look(own), chance.uniform(0, WIDTH), (foot, height, facing, swing))
    elif chance.random() < 0.75:  # or an empty scene
        _draw(crop, Look(own), centre, pose)
    if chance.random() < 0.15:  # a pole in front
        pole = chance.uniform(5, WIDTH - 5)
        ImageDraw.Draw(crop).rectangle((pole - 2, 0, pole + 2, HEIGHT), camera.wall)
    file = io.BytesIO()
    _expose(crop, camera, chance).save(file, "JPEG", quality=90)
    return file.getvalue()


def _cloth(rng: random.Random, palette: Sequence[Colour], plain: float) -> Image.Image:
    first, second = rng.sample(palette, 2)
    name = "plain" if rng.random() < plain else rng.choice(_PATTERNS)
    mask = _pattern(name, rng.choice((5, 8, 12)))
    cloth = Image.new("RGB", mask.size, first)
    cloth.paste(second, mask=mask)
    return cloth


@cache
def _pattern(name: str, period: int) -> Image.Image:
    # not at whole numbers, where a wave is close to 0 and its sign depends on the processor
    x, y = np.meshgrid(np.arange(-64, 64) + 0.37, np.arange(144) + 0.37)
    across, down = (np.sin(2 * math.pi * places / period) for places in (x, y))
    level = {
        "plain": 0 * x,
        "rows": down,
        "columns": across,
        "checks": across * down,
        "grid": np.maximum(across, down) - 0.75,
        "dots": across + down - 0.9,
        "diagonal": np.sin(1.4 * math.pi * (x + y) / period),
        "blots": np.sin(3.7 * x / period + 4 * down) * np.sin(3.1 * y / period),
        "band": period / 2 - abs(y - 22),
        "block": y - 12 - period,
    }[name]
    return Image.fromarray(np.where(level > 0, 255, 0).astype(np.uint8))


def _draw(crop: Image.Image, look: Look, centre: float, pose: Pose) -> None:
    """Draw a figure, what is far first. Points are (across, up) in shares of its height."""
    foot, height, facing, swing = pose
    side = {"L": -1, "R": 1}.get(facing, 0)
    broad = look.breadth * (0.6 if side else 1.0)
    swing *= 0.13 if side else 0.015

    def at(across: float, up: float) -> Point:
        return centre + across * height, foot - up * height

    def limb(pen: ImageDraw.ImageDraw, thick: float, fill: Colour | int, *points: Point) -> None:
        pen.line([at(*p) for p in points], fill, round(thick * height), joint="curve")

    upper, lower = Image.new("L", crop.size), Image.new("L", crop.size)
    pen, top, low = (ImageDraw.Draw(image) for image in (crop, upper, lower))
    pack = (at(-0.09 - 0.05 * side, 0.83), at(0.09 - 0.05 * side, 0.58))
    if look.backpack and facing != "B":
        pen.rectangle(pack, look.backpack, _DARK)
    for which in (-1, 1):
        hip = (0.0 if side else 0.045 * which * broad, 0.52)
        knee, ankle = (hip[0] + 0.4 * which * swing, 0.27), (hip[0] + which * swing, 0.04)
        limb(pen, 0.05, look.skin, hip, knee, ankle)
        limb(pen, 0.04, _DARK, ankle, (ankle[0] + 0.06 * side, 0.015))
        limb(low, 0.085 * look.breadth, 255, hip, knee, *[ankle] * look.trousers)
        shoulder, hand = (0.115 * which * broad, 0.81), (0.135 * which * broad - which * swing, 0.5)
        elbow = ((shoulder[0] + hand[0]) / 2, 0.65)
        limb(pen, 0.04, look.skin, shoulder, elbow, hand)
        limb(top, 0.055, 255, shoulder, elbow, *[hand] * look.long_sleeves)
    right = [(0.05, 0.86), (0.12, 0.82), (0.09, 0.6), (0.1, look.hem)]
    torso = [*right, *((-across, up) for across, up in right[::-1])]
    top.polygon([at(across * broad, up) for across, up in torso], 255)
    for cloth, mask, up in ((look.lower, lower, 0.54), (look.upper, upper, 0.86)):
        x, y = round(centre - cloth.width / 2), round(at(0, up)[1])
        crop.paste(cloth, (x, y), mask.crop((x, y, x + cloth.width, y + cloth.height)))
    hair = (at(-0.065, 1.0), at(0.065, 0.8 if look.long_hair else 0.9))
    pen.rounded_rectangle(hair, 0.06 * height, look.hair)
    if facing != "B":
        pen.ellipse((at(0.025 * side - 0.05, 0.975), at(0.025 * side + 0.05, 0.855)), look.skin)
    elif look.backpack:
        pen.rectangle(pack, look.backpack, _DARK)


@cache
def _scene(seed: int, camera: int) -> Image.Image:
    rng = random.Random(f"scene {seed} {camera}")
    view = CAMERAS[(camera - 1) % len(CAMERAS)]
    scene = Image.new("RGB", (5 * WIDTH, HEIGHT + 16), view.ground)
    pen = ImageDraw.Draw(scene)
    horizon = rng.randint(55, 95)
    pen.rectangle((0, 0, scene.width, horizon), view.wall)
    for _ in range(40):
        colour, above = rng.choice(((view.wall, 0), (view.ground, horizon)))
        x, y = rng.randint(-10, scene.width), rng.randint(above, above + 50)
        red, green, blue = (value + rng.randint(-45, 45) for value in colour)
        pen.rectangle((x, y, x + rng.randint(7, 45), y + rng.randint(2, 30)), (red, green, blue))
    return scene.filter(ImageFilter.GaussianBlur(0.8))


def _expose(crop: Image.Image, camera: Camera, chance: random.Random) -> Image.Image:
    light = chance.uniform(0.88, 1.12)
    red, green, blue = (light * gain for gain in camera.cast)
    crop = crop.convert("RGB", (red, 0, 0, 0, 0, green, 0, 0, 0, 0, blue, 0))
    crop = crop.point([round(255 * (level / 255) ** camera.gamma) for level in range(256)] * 3)
    crop = crop.filter(ImageFilter.GaussianBlur(camera.blur * chance.uniform(0.7, 1.5)))
    x, y = chance.randrange(WIDTH), chance.randrange(HEIGHT)
    noise = _noise(camera.noise).crop((x, y, x + WIDTH, y + HEIGHT))
    return ImageChops.add(crop, noise, 1, -128)


@cache
def _noise(deviation: float) -> Image.Image:
    # RandomState, because NumPy never changes its stream
    noise = np.random.RandomState(0).normal(128, deviation, (2 * HEIGHT, 2 * WIDTH, 3))
    return Image.fromarray(noise.round().astype(np.uint8))
