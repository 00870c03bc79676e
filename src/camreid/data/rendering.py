"""Pictures of stylised people as six different cameras see them.

A picture is a pure function of (seed, base name). Who a person is depends on the pid alone, place
and direction of walking on (pid, camera, sequence), pose and box on the whole name. All is drawn at
twice the size and reduced, so that the same Pillow gives the same bytes.
"""

import io
import math
import random
from dataclasses import dataclass, replace
from functools import cache, lru_cache

import numpy as np
from PIL import Image, ImageChops, ImageDraw, ImageFilter

from camreid.data.figures import Pose, draw_person
from camreid.data.records import DISTRACTOR, JUNK, ImageName
from camreid.data.wardrobe import Colour, Person, make_person

VERSION = 1
HEIGHT, WIDTH = 128, 64

_CANVAS = (2 * WIDTH, 2 * HEIGHT)
_QUALITY = 90


@dataclass(frozen=True)
class Camera:
    """What a camera does to every picture it takes."""

    cast: tuple[float, float, float]  # gain of red, green, blue
    saturation: float
    gamma: float
    contrast: float
    lift: float  # 0..255, added to black
    blur: float  # radius in pixels
    noise: float  # standard deviation, 0..255
    facings: str  # how people walk past, one letter per equally likely direction
    occlusion: float  # share of people behind something
    ground: Colour
    wall: Colour


CAMERAS = (
    Camera((1.06, 1.0, 0.90), 0.95, 0.90, 1.00, 6, 0.3, 4, "FFFLR",
           0.10, (150, 140, 120), (96, 130, 80)),
    Camera((0.85, 0.92, 1.06), 0.90, 1.05, 0.95, 2, 0.4, 6, "BBBLR",
           0.15, (110, 112, 118), (150, 120, 104)),
    Camera((1.00, 1.00, 0.98), 0.80, 0.85, 0.88, 22, 0.3, 4, "FBLR",
           0.15, (190, 186, 176), (120, 126, 136)),
    Camera((0.90, 1.00, 0.85), 1.00, 1.10, 1.00, 0, 0.5, 5, "LLRRB",
           0.15, (90, 84, 80), (170, 166, 150)),
    Camera((1.05, 0.92, 1.02), 0.85, 0.95, 0.85, 12, 0.6, 6, "BBFR",
           0.15, (130, 120, 124), (70, 84, 110)),
    Camera((1.10, 0.92, 0.80), 1.05, 1.15, 1.05, 4, 0.4, 8, "FFLLR",
           0.20, (120, 96, 80), (60, 60, 66)),
)  # fmt: skip


@dataclass(frozen=True)
class Shot:
    """One press of the button: by which camera, of what, and the chances of the moment."""

    camera: Camera
    key: str  # seed and base name: strangers are drawn from it
    chance: random.Random


def render_jpeg(seed: int, base_name: str, name: ImageName) -> bytes:
    """The JPEG file of one image name: 64 wide, 128 high, RGB.

    >>> name = ImageName(pid=704, camera=1, sequence=3, frame=69626)
    >>> Image.open(io.BytesIO(render_jpeg(0, "0704_c1s3_069626_01.jpg", name))).size
    (64, 128)
    """
    key = f"{seed} {base_name}"
    shot = Shot(CAMERAS[(name.camera - 1) % len(CAMERAS)], key, random.Random(f"frame {key}"))
    track = random.Random(f"track {seed} {name.pid} {name.camera} {name.sequence}")
    canvas = _place(seed, name.camera, track if name.pid > DISTRACTOR else shot.chance, shot.chance)
    if name.pid == JUNK:
        _bad_box(canvas, shot)
    elif name.pid == DISTRACTOR:
        _distractor(canvas, shot)
    else:
        _passer_by(canvas, shot)
        draw_person(canvas, _person(f"{seed} {name.pid}"), _pose(shot, track))
        _occlude(canvas, shot)
    return _encode(_expose(canvas.reduce(2), shot))


@lru_cache(maxsize=64)
def _person(key: str) -> Person:
    return make_person(key)


def _pose(shot: Shot, track: random.Random) -> Pose:
    """A person who fills the box, a little off its middle."""
    height = 232 * track.uniform(0.92, 1.06) * shot.chance.uniform(0.93, 1.06)
    return Pose(
        centre=WIDTH + shot.chance.gauss(0, 5),
        foot=min(250, HEIGHT + height / 2) + shot.chance.gauss(2, 6),
        height=height,
        facing=track.choice(shot.camera.facings),
        phase=shot.chance.uniform(0, 2 * math.pi),
    )


def _passer_by(canvas: Image.Image, shot: Shot) -> None:
    """Sometimes another person behind, at the edge of the box."""
    if shot.chance.random() < 0.2:
        pose = replace(
            _pose(shot, shot.chance),
            centre=shot.chance.choice((-8, 2 * WIDTH + 8)),
            height=shot.chance.uniform(170, 220),
        )
        draw_person(canvas, make_person(f"passer-by {shot.key}"), pose)


def _distractor(canvas: Image.Image, shot: Shot) -> None:
    """Another person, a badly cropped one, or nobody."""
    pose = _pose(shot, shot.chance)
    kind = shot.chance.choice(("nobody", "badly cropped", "person", "person"))
    if kind == "nobody":
        return
    if kind == "badly cropped":
        centre = pose.centre + shot.chance.choice((-50, 50))
        pose = replace(pose, centre=centre, height=pose.height * shot.chance.uniform(0.7, 1.5))
    draw_person(canvas, make_person(f"distractor {shot.key}"), pose)
    _occlude(canvas, shot)


def _bad_box(canvas: Image.Image, shot: Shot) -> None:
    """A part of somebody."""
    height = shot.chance.uniform(300, 520)
    pose = replace(
        _pose(shot, shot.chance),
        centre=shot.chance.uniform(0, 2 * WIDTH),
        foot=shot.chance.uniform(150, height + 60),
        height=height,
    )
    draw_person(canvas, make_person(f"junk {shot.key}"), pose)


def _occlude(canvas: Image.Image, shot: Shot) -> None:
    """Sometimes a pole, a hedge or a bicycle in front."""
    if shot.chance.random() >= shot.camera.occlusion:
        return
    pen = ImageDraw.Draw(canvas)
    x = shot.chance.uniform(10, 118)
    match shot.chance.choice(("pole", "hedge", "bicycle")):
        case "pole":
            pen.rectangle((x - 5, 0, x + 5, 256), shot.camera.wall)
        case "hedge":
            pen.rectangle((0, shot.chance.uniform(180, 220), 128, 256), (50, 84, 44))
        case _:
            for wheel in (x - 40, x + 30):
                pen.ellipse((wheel - 28, 190, wheel + 28, 246), outline=(30, 30, 34), width=4)
            pen.line((x - 40, 218, x - 10, 180, x + 30, 218), (150, 40, 40), 5)


@cache
def _scene(seed: int, camera: int) -> Image.Image:
    """The whole view of a camera, 5 boxes wide; boxes are cut from it."""
    rng = random.Random(f"scene {seed} {camera}")
    view = CAMERAS[(camera - 1) % len(CAMERAS)]
    scene = Image.new("RGB", (640, 288), view.ground)
    pen = ImageDraw.Draw(scene)
    horizon = rng.randint(110, 190)
    pen.rectangle((0, 0, 640, horizon), view.wall)
    for _ in range(14):
        x, wide = rng.uniform(-20, 640), rng.uniform(15, 90)
        pen.rectangle((x, rng.uniform(0, horizon), x + wide, horizon), _vary(view.wall, rng, 45))
    for _ in range(18):
        x, y, wide = rng.uniform(-20, 640), rng.uniform(horizon, 288), rng.uniform(20, 120)
        pen.rectangle((x, y, x + wide, y + rng.uniform(3, 16)), _vary(view.ground, rng, 30))
    for _ in range(10):
        x, y, r = rng.uniform(0, 640), rng.uniform(0, horizon), rng.uniform(5, 25)
        pen.ellipse((x - r, y - r, x + r, y + r), _vary(view.wall, rng, 60))
    return scene.filter(ImageFilter.GaussianBlur(1.5))


def _vary(colour: Colour, rng: random.Random, by: int) -> Colour:
    red, green, blue = (min(255, max(0, value + rng.randint(-by, by))) for value in colour)
    return red, green, blue


def _place(seed: int, camera: int, track: random.Random, frame: random.Random) -> Image.Image:
    scene = _scene(seed, camera)
    x = int(track.uniform(60, scene.width - 60 - _CANVAS[0]) + frame.uniform(-60, 60))
    y = frame.randint(0, scene.height - _CANVAS[1])
    return scene.crop((x, y, x + _CANVAS[0], y + _CANVAS[1]))


@cache
def _grain() -> Image.Image:
    """Noise around 128 with a standard deviation of 30; a camera takes a share of it."""
    # RandomState, because NumPy never changes its stream
    noise = np.random.RandomState(0).normal(128, 30, (2 * HEIGHT, 2 * WIDTH, 3))
    return Image.fromarray(noise.clip(0, 255).astype(np.uint8))


def _expose(picture: Image.Image, shot: Shot) -> Image.Image:
    """What the sensor makes of the light: saturation, cast, gamma, blur and noise."""
    camera, chance = shot.camera, shot.chance
    light = chance.uniform(0.88, 1.12)
    keep, grey = camera.saturation, (1 - camera.saturation) / 3
    matrix: list[float] = []
    for channel, gain in enumerate(camera.cast):
        matrix += [light * gain * (grey + keep * (channel == other)) for other in range(3)] + [0.0]
    picture = picture.convert("RGB", tuple(matrix)).point(_curve(camera))
    picture = picture.filter(ImageFilter.GaussianBlur(camera.blur * chance.uniform(0.7, 1.5)))
    x, y = chance.randrange(WIDTH), chance.randrange(HEIGHT)
    grain = _film(camera.noise).crop((x, y, x + WIDTH, y + HEIGHT))
    return ImageChops.add(picture, grain, 1, -128)


@cache
def _curve(camera: Camera) -> list[int]:
    levels = [255 * (value / 255) ** camera.gamma for value in range(256)]
    return [round(min(255, camera.lift + camera.contrast * level)) for level in levels] * 3


@cache
def _film(noise: float) -> Image.Image:
    return _grain().point([round(128 + (value - 128) * noise / 30) for value in range(256)] * 3)


def _encode(picture: Image.Image) -> bytes:
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=_QUALITY)
    return file.getvalue()
