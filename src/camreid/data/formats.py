"""Which files of a dataset are images."""

import os
from collections.abc import Collection
from functools import cache

from PIL import Image

_NO_PIXELS = {"BUFR", "GRIB", "HDF5", "MPEG"}  # Pillow identifies these formats only
_OF_SYSTEMS = {"thumbs.db", "desktop.ini", "__macosx"}


@cache
def _suffixes() -> frozenset[str]:
    formats = Image.registered_extensions().items()
    return frozenset(s for s, name in formats if name in Image.OPEN and name not in _NO_PIXELS)


def is_image(name: str) -> bool:
    """Whether a file has the suffix of a format that Pillow reads, such as `.JPG` or `.webp`."""
    return os.path.splitext(name)[1].lower() in _suffixes()


def is_hidden(name: str) -> bool:
    """Whether a file or folder is of the system: `.DS_Store`, `__MACOSX`, `Thumbs.db`."""
    return name.startswith(".") or name.lower() in _OF_SYSTEMS


def left_out(names: Collection[str], where: object) -> tuple[str, ...]:
    """A line that counts and names files that are not images; none without such files."""
    some = ", ".join(sorted(names)[:3])
    line = f"{len(names)} files in {where} are not images and are left out, such as {some}."
    return (line,) if names else ()
