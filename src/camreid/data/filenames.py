"""The file-name grammar of Market-1501: who, which camera, which sequence, which frame."""

import re
from pathlib import PurePath
from typing import NamedTuple

JUNK = -1
DISTRACTOR = 0
GRAMMAR = (
    "0002_c1s1_000451_03.jpg (pid, camera, sequence, frame, box; -1 is junk, 0000 a distractor)"
)

_NAME = re.compile(r"(?P<pid>-1|\d+)_c(?P<camera>\d+)(?:s(?P<sequence>\d+))?(?:_f?(?P<frame>\d+))?")


class ImageName(NamedTuple):
    """What a Market-1501 file name says. `camera` is 1-based, as in the name."""

    pid: int
    camera: int
    sequence: int
    frame: int


def parse_name(path: str | PurePath) -> ImageName | None:
    """Read the base name of `path`, never its folders; None if it does not follow the grammar.

    DukeMTMC-reID names (`0001_c2_f0046182.jpg`) are read too; their sequence is 0.

    >>> parse_name("exp_1_c2/0704_c1s3_069626_01.jpg")
    ImageName(pid=704, camera=1, sequence=3, frame=69626)
    >>> parse_name("-1_c6s4_002902_05.jpg").pid
    -1
    >>> parse_name("Thumbs.db") is None
    True
    """
    found = _NAME.match(PurePath(path).name)
    if found is None:
        return None
    return ImageName(*(int(found[group] or 0) for group in ImageName._fields))
