"""Records of images whose identities and cameras have names: those of CSV files and of folders."""

import re
import unicodedata
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from camreid.data.records import LARGEST, ImageRecord, Records
from camreid.errors import InputError
from camreid.provenance import Dataset

SUBSETS = ("train", "val", "query", "gallery")


class NamedImage(NamedTuple):
    """One image; `subset` is empty where the data has no subsets."""

    path: str
    identity: str
    camera: str
    subset: str = ""


def named_records(images: Sequence[NamedImage], where: str, notes: tuple[str, ...] = ()) -> Records:
    """The records of images, without subsets all in `train`; `where` is their source.

    Raises:
        InputError: an identity is both in train or val and in query or gallery, or two names
            differ in spelling only.
    """
    pids = numbers({i.identity for i in images}, where)
    cameras = numbers({i.camera for i in images}, where)
    tested = {i.identity for i in images if i.subset in ("query", "gallery")}
    both = sorted({i.identity for i in images if i.subset in ("train", "val")} & tested)
    if both:
        raise InputError(
            f"{len(both)} identities of {where} are in train or val, and in query or gallery: "
            f"{', '.join(both[:3])}. Put each on one side, or leave out all subsets and type "
            "+split=resplit."
        )
    parts: dict[str, list[ImageRecord]] = {subset: [] for subset in SUBSETS}
    for i in sorted(images):
        record = ImageRecord(i.path, pids[i.identity], cameras[i.camera])
        parts[i.subset or "train"].append(record)
    train, val, query, gallery = map(tuple, parts.values())
    return Records(train, query, gallery, val, (Dataset("", pids, cameras),), notes)


def numbers(names: Iterable[str], where: str) -> dict[str, int]:
    """A number from 1 for each name, whatever their order.

    Whole numbers from 1 keep their value if all names are such; otherwise sorted names are counted.

    >>> numbers(["6", "3"], "a.csv"), numbers(["0", "10", "9"], "a.csv")
    ({'3': 3, '6': 6}, {'0': 1, '9': 2, '10': 3})
    """
    spelled: dict[str, str] = {}
    for name in sorted(names):
        key = unicodedata.normalize("NFC", name.strip())
        key = str(int(key)) if key.isdecimal() else key
        if key in spelled:
            raise InputError(
                f"{spelled[key]!r} and {name!r} in {where} differ in spelling only. Write a name "
                "in one way, and two names so that they differ."
            )
        spelled[key] = name
    ordered = sorted(spelled, key=_natural)
    are_numbers = all(key.isdecimal() and 1 <= int(key) <= LARGEST for key in ordered)
    places = enumerate(ordered, start=1)
    return {spelled[key]: int(key) if are_numbers else place for place, key in places}


def _natural(name: str) -> list[str | int]:
    """`cam2` before `cam10`."""
    return [int(part) if place % 2 else part for place, part in enumerate(re.split(r"(\d+)", name))]
