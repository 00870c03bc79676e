"""Image records of a dataset in the Market-1501 layout, and the grammar of its file names."""

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import PurePath

from camreid.provenance import Dataset

TRAIN, QUERY, GALLERY = FOLDERS = ("bounding_box_train", "query", "bounding_box_test")
JUNK, DISTRACTOR = -1, 0
LARGEST = 2**63 - 1  # pid or camera, as tensors are int64
GRAMMAR = (
    "0002_c1s1_000451_03.jpg (pid, camera, sequence, frame, box; -1 is junk, 0000 a distractor)"
)

_NAME = re.compile(r"(-1|\d+)_c(\d+)(?:s(\d+))?(?:_f?(\d+))?")  # pid, camera, sequence, frame


@dataclass(frozen=True)
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


@dataclass(frozen=True)
class Records:
    """A dataset by the official division: each part a tuple sorted by file name, without junk.

    Without a division, all images are in `train`.
    """

    train: tuple[ImageRecord, ...]
    query: tuple[ImageRecord, ...]
    gallery: tuple[ImageRecord, ...]
    val: tuple[ImageRecord, ...] = ()  # if the dataset has a division of its own for it
    datasets: tuple[Dataset, ...] = ()  # the names of identities and cameras; empty for numbers
    notes: tuple[str, ...] = ()  # lines for the user, such as on files that are left out


def identities(records: Iterable[ImageRecord]) -> tuple[int, ...]:
    """The labelled identities among `records`, in numeric order: no junk, no distractors."""
    return tuple(sorted({r.pid for r in records if r.pid > DISTRACTOR}))
