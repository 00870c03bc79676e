"""Image records of a dataset, the grammar of Market-1501's file names, and its files."""

import os
import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import PurePath
from typing import TypeAlias

from PIL import Image

from camreid.errors import InputError
from camreid.provenance import Dataset

TRAIN, QUERY, GALLERY = FOLDERS = ("bounding_box_train", "query", "bounding_box_test")
JUNK, DISTRACTOR = -1, 0
LARGEST = 2**63 - 1  # pid or camera, as tensors are int64
GRAMMAR = "0002_c1s1_000451_03.jpg (pid, camera, sequence, frame, box; -1: junk, 0000: distractor)"
_NO_PIXELS = {"BUFR", "GRIB", "HDF5", "MPEG", "EPS"}  # Pillow identifies these; EPS is a program
# pid, camera, sequence, frame
_NAME = re.compile(r"(-1|\d{1,99})_c(\d{1,99})(?:s(\d{1,99}))?(?:_f?(\d{1,99}))?")


@dataclass(frozen=True, slots=True)
class ImageRecord:
    """One crop of one identity."""

    path: str
    pid: int  # identity; 0 is a distractor, -1 junk
    camera: int  # 1-based, as in the file name
    sequence: int | None = None  # recording of that camera; None if it is unknown
    frame: int = 0  # number within the recording

    @property
    def name(self) -> str:
        """Folder and file name, the same wherever the dataset lies."""
        return "/".join(self.path.replace(os.sep, "/").rsplit("/", 2)[-2:])  # Path is slow


def parse_name(path: str | PurePath) -> ImageRecord | None:
    """The record of an image from its base name, of Market-1501 or DukeMTMC-reID; None for others.

    >>> parse_name("exp_1_c2/0704_c1s3_069626_01.jpg")
    ImageRecord(path='exp_1_c2/0704_c1s3_069626_01.jpg', pid=704, camera=1, sequence=3, frame=69626)
    >>> parse_name("-1_c6s4_002902_05.jpg").pid, parse_name("0001_c2_f0046182.jpg").sequence
    (-1, None)
    """
    found = _NAME.match(os.path.basename(path))
    if found is None:
        return None
    pid, camera, frame = int(found[1]), int(found[2]), int(found[4] or 0)
    sequence = None if found[3] is None else int(found[3])
    if camera < 1 or max(pid, camera, sequence or 0, frame) > LARGEST:
        return None
    return ImageRecord(str(path), pid, camera, sequence, frame)


Images: TypeAlias = tuple[ImageRecord, ...]


@dataclass(frozen=True)
class Records:
    """A dataset by its division, each part sorted by file name, without junk; else all `train`."""

    train: Images
    query: Images
    gallery: Images
    val: Images = ()  # if the dataset has a division of its own for it
    datasets: tuple[Dataset, ...] = ()  # the names of identities and cameras; empty for numbers
    notes: tuple[str, ...] = ()  # lines for the user, such as on files that are left out


def identities(records: Iterable[ImageRecord]) -> tuple[int, ...]:
    """The labelled identities among `records`, in numeric order: no junk, no distractors."""
    return tuple(sorted({r.pid for r in records if r.pid > DISTRACTOR}))


@cache
def _suffixes() -> set[str]:
    formats = Image.registered_extensions().items()
    return {s for s, name in formats if name in Image.OPEN and name not in _NO_PIXELS}


def is_image(name: str) -> bool:
    """Whether a file has the suffix of a format that Pillow reads, such as `.JPG` or `.webp`."""
    return os.path.splitext(name)[1].lower() in _suffixes()


def is_hidden(name: str) -> bool:
    """Whether a file or folder is of the system: `.DS_Store`, `__MACOSX`, `Thumbs.db`."""
    return name.startswith(".") or name.lower() in ("thumbs.db", "desktop.ini", "__macosx")


def left_out(names: Collection[str], where: object) -> tuple[str, ...]:
    """A line that counts and names files that are not images; none without such files."""
    some = ", ".join(sorted(names)[:3])
    line = f"{len(names)} files in {where} are not images and are left out, such as {some}."
    return (line,) if names else ()


def require_files(paths: Iterable[str], where: object, hint: str = "", **remedy: object) -> None:
    """Refuse a list of images, at `where`, of which some are not there."""
    if lost := [path for path in paths if not os.path.isfile(path)]:
        message = f"{where} lists {len(lost)} images that are not there, such as "
        hint = hint or "Copy them there, or delete their lines."
        raise InputError(f"{message}{', '.join(lost[:3])}. {hint}", **remedy)
