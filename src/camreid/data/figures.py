"""Drawing a person in a pose with Pillow: limbs, clothes, head and bags, what is far first."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw

from camreid.data.wardrobe import CLOTH, Colour, Person

Point = tuple[float, float]
Box = tuple[float, float, float, float]

_HEAD = 0.066  # radius, share of the height
_FALL = {"long": 2.7, "bob": 1.5}  # how far hair hangs, in radii
_SEAM = (30, 30, 30)


@dataclass(frozen=True)
class Pose:
    """Where a person stands on the canvas (in canvas pixels), and how."""

    centre: float
    foot: float
    height: float
    facing: str
    phase: float  # of the walking cycle, radians

    @property
    def side(self) -> int:
        """-1 walking to the left, 1 to the right, 0 along the line of sight."""
        return {"L": -1, "R": 1}.get(self.facing, 0)

    def at(self, across: float, up: float) -> Point:
        """The canvas point at (across, up), in shares of the person's height."""
        return self.centre + across * self.height, self.foot - up * self.height

    def box(self, left: float, top: float, right: float, low: float) -> Box:
        """The canvas rectangle between two points given as `at` takes them."""
        return *self.at(left, top), *self.at(right, low)


def draw_person(canvas: Image.Image, person: Person, pose: Pose) -> None:
    """Draw a person onto the canvas, what is far first."""
    pen = ImageDraw.Draw(canvas)
    if person.bag == "backpack" and pose.facing != "B":
        _backpack(pen, person, pose)
    _arm(canvas, person, pose, near=False)
    _legs(canvas, person, pose)
    _torso(canvas, person, pose)
    if pose.facing == "F":
        _chest(pen, person, pose)
    _head(pen, person, pose)
    _arm(canvas, person, pose, near=True)
    if person.bag == "backpack" and pose.facing == "B":
        _backpack(pen, person, pose)
    if person.bag in ("satchel", "handbag"):
        _carried(pen, person, pose)


def _half_width(person: Person, pose: Pose, front: float, profile: float) -> float:
    return person.breadth * (profile if pose.side else front)


def _legs(canvas: Image.Image, person: Person, pose: Pose) -> None:
    mask = Image.new("L", canvas.size)
    cloth = ImageDraw.Draw(mask)
    for leg in (-1, 1):
        _leg(ImageDraw.Draw(canvas), cloth, person, pose, leg)
    if person.garment == "skirt":
        top, low = _half_width(person, pose, 0.09, 0.07), _half_width(person, pose, 0.14, 0.12)
        outline = ((-top, 0.54), (top, 0.54), (low, 0.26), (-low, 0.26))
        cloth.polygon([pose.at(*point) for point in outline], 255)
    _dress(canvas, person.lower, mask, pose, 0.54)


def _leg(
    pen: ImageDraw.ImageDraw, cloth: ImageDraw.ImageDraw, person: Person, pose: Pose, leg: int
) -> None:
    """Skin and shoe with one pen, what trousers or shorts cover with the other."""
    thick = 0.078 * person.breadth * pose.height
    rest = 0.0 if pose.side else leg * 0.048 * person.breadth
    swing = math.sin(pose.phase) * leg
    lift = 0.03 * max(0.0, -swing)
    foot = rest + (0.13 if pose.side else 0.01) * swing
    bend = 0.45 * foot if pose.side else 0.0
    hip, knee = pose.at(rest, 0.5), pose.at(rest + bend, 0.27 + lift)
    ankle = pose.at(foot, 0.045 + lift)
    sole = pose.at(foot, 0.02 + lift), pose.at(foot + pose.side * 0.06, 0.02 + lift)
    _limb(pen, (hip, knee, ankle), 0.6 * thick, person.skin)
    _limb(pen, sole, 0.04 * pose.height, person.shoes)
    _limb(cloth, (hip, knee, ankle) if person.garment == "trousers" else (hip, knee), thick, 255)


def _torso(canvas: Image.Image, person: Person, pose: Pose) -> None:
    shoulder = _half_width(person, pose, 0.115, 0.07)
    hip = _half_width(person, pose, 0.09, 0.07)
    right = ((0.4 * shoulder, 0.855), (shoulder, 0.82), (hip, 0.6), (1.1 * hip, 0.5 - person.hem))
    left = ((-across, up) for across, up in reversed(right))
    mask = Image.new("L", canvas.size)
    ImageDraw.Draw(mask).polygon([pose.at(*point) for point in (*right, *left)], 255)
    _dress(canvas, person.upper, mask, pose, 0.86)


def _chest(pen: ImageDraw.ImageDraw, person: Person, pose: Pose) -> None:
    """What only the front shows: a shirt under an open jacket, or a logo."""
    if person.opened:
        pen.rectangle(pose.box(-0.034, 0.85, 0.034, 0.5 - person.hem), person.opened)
    elif person.logo:
        pen.ellipse(pose.box(-0.05, 0.78, 0.05, 0.68), person.logo)


def _arm(canvas: Image.Image, person: Person, pose: Pose, near: bool) -> None:
    across = _half_width(person, pose, 0.125, 0.0) * (1 if near else -1)
    swing = 0.1 * math.sin(pose.phase + (0 if near else math.pi)) * pose.side
    shoulder, elbow = pose.at(across, 0.81), pose.at(across * 1.12 + swing * 0.4, 0.65)
    hand = pose.at(across * 1.1 + swing * 1.2, 0.48)
    thick = 0.05 * pose.height * person.breadth
    _limb(ImageDraw.Draw(canvas), (shoulder, elbow, hand), 0.75 * thick, person.skin)
    covered = (shoulder, elbow, hand) if person.long_sleeves else (shoulder, elbow)
    mask = Image.new("L", canvas.size)
    _limb(ImageDraw.Draw(mask), covered, thick, 255)
    _dress(canvas, person.sleeves, mask, pose, 0.86)


def _head(pen: ImageDraw.ImageDraw, person: Person, pose: Pose) -> None:
    r = _HEAD
    ahead, up = 0.015 * pose.side, 0.925
    _limb(pen, (pose.at(0, 0.9), pose.at(0, 0.84)), 0.06 * pose.height, person.skin)
    if pose.facing != "B" and person.hair_style in ("long", "bob"):
        middle = ahead - 0.4 * r * pose.side
        low = up - r * _FALL[person.hair_style]
        corners = pose.box(middle - 1.15 * r, up + r, middle + 1.15 * r, low)
        pen.rounded_rectangle(corners, r * pose.height, person.hair)
    face = pose.box(ahead - 0.85 * r, up + 1.1 * r, ahead + 0.85 * r, up - 1.15 * r)
    pen.ellipse(face, person.skin)
    if person.hair_style != "bald":
        _hair(pen, person, pose, ahead, up)
    if person.hat:
        _hat(pen, person.hat, pose, ahead, up)


def _hair(pen: ImageDraw.ImageDraw, person: Person, pose: Pose, ahead: float, up: float) -> None:
    """All of the head from behind, its upper half from elsewhere, and a bun."""
    r = _HEAD
    if pose.facing == "B":
        low = up - r * _FALL.get(person.hair_style, 0.7)
        corners = pose.box(ahead - r, up + 1.2 * r, ahead + r, low)
        pen.rounded_rectangle(corners, r * pose.height, person.hair)
    else:
        middle = ahead - 0.35 * r * pose.side
        crown = pose.box(middle - r, up + 1.25 * r, middle + r, up - 0.8 * r)
        pen.chord(crown, 180, 360, person.hair)
    if person.hair_style == "bun":
        middle = ahead - r * pose.side
        bun = pose.box(middle - 0.5 * r, up + 1.9 * r, middle + 0.5 * r, up + 0.9 * r)
        pen.ellipse(bun, person.hair)


def _hat(pen: ImageDraw.ImageDraw, colour: Colour, pose: Pose, ahead: float, up: float) -> None:
    r = _HEAD
    crown = pose.box(ahead - 1.1 * r, up + 1.5 * r, ahead + 1.1 * r, up - 0.7 * r)
    pen.chord(crown, 180, 360, colour)
    if pose.facing != "B":
        middle = ahead + r * pose.side
        pen.rectangle(
            pose.box(middle - 0.9 * r, up + 0.5 * r, middle + 0.9 * r, up + 0.3 * r), colour
        )


def _backpack(pen: ImageDraw.ImageDraw, person: Person, pose: Pose) -> None:
    half, middle = (0.055, -0.1 * pose.side) if pose.side else (0.1, 0.0)
    corners = pose.box(middle - half, 0.83, middle + half, 0.58)
    pen.rounded_rectangle(corners, 0.04 * pose.height, person.bag_colour, outline=_SEAM)
    if pose.facing == "B":
        pen.rectangle(pose.box(-0.06, 0.7, 0.06, 0.62), outline=_SEAM)


def _carried(pen: ImageDraw.ImageDraw, person: Person, pose: Pose) -> None:
    """A satchel on a strap across the chest, or a handbag: at the person's left side."""
    across = {"F": 0.13, "B": -0.13, "L": 0.02, "R": -0.02}[pose.facing]
    top, low = (0.56, 0.43) if person.bag == "satchel" else (0.44, 0.34)
    if person.bag == "satchel":
        pen.line(pose.box(-0.7 * across, 0.84, across, top), person.bag_colour, 4)
    corners = pose.box(across - 0.065, top, across + 0.065, low)
    pen.rectangle(corners, person.bag_colour, outline=_SEAM)


def _limb(
    pen: ImageDraw.ImageDraw, points: Sequence[Point], thick: float, fill: Colour | int
) -> None:
    pen.line(points, fill, max(1, round(thick)), joint="curve")
    half = thick / 2
    for x, y in (points[0], points[-1]):
        pen.ellipse((x - half, y - half, x + half, y + half), fill)


def _dress(
    canvas: Image.Image, cloth: Image.Image, mask: Image.Image, pose: Pose, top: float
) -> None:
    """Show a cloth through a mask: its upper edge at `top`, its middle in the person's middle."""
    scale = pose.height / 220
    size = round(CLOTH[0] * scale), round(CLOTH[1] * scale)
    x, y = pose.at(0, top)
    left, upper = round(x - size[0] / 2), round(y)
    shown = mask.crop((left, upper, left + size[0], upper + size[1]))
    canvas.paste(cloth.resize(size, Image.Resampling.NEAREST), (left, upper), shown)
