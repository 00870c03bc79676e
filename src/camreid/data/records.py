"""Image records of a dataset in the Market-1501 layout, and the grammar of its file names."""

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePath

from camreid.data.formats import is_hidden, is_image, left_out
from camreid.errors import InputError, MissingDataset
from camreid.provenance import Dataset

TRAIN, QUERY, GALLERY = FOLDERS = ("bounding_box_train", "query", "bounding_box_test")
OFFICIAL = "Market-1501-v15.09.15"
TRY = (
    "For images in another layout: data=csv or data=folder. To try the program without a dataset: "
    "data=synthetic."
)
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


def read_market1501(root: str | Path) -> Records:
    """Read a folder in the Market-1501 layout.

    Only base names are read; folder names do not matter. Junk (pid -1) is left out;
    distractors (pid 0) stay in the gallery. `root` holds `bounding_box_train`, `query` and
    `bounding_box_test`, or is the parent of that folder; the last two may be missing.

    Raises:
        MissingDataset: there is no such folder, or there are no train images in it.
        InputError: a name does not follow the grammar, or pid 0 has train or query images.
    """
    home = _find(root)
    other: list[str] = []
    train, query, gallery = (_read_folder(_part(home, folder), other) for folder in FOLDERS)
    if not train:
        raise MissingDataset(f"{home / TRAIN} holds no images like {GRAMMAR}. {TRY}")
    zeros = [r.path for r in (*train, *query) if r.pid == DISTRACTOR]
    if zeros:
        raise InputError(
            f"{len(zeros)} train or query images have pid 0, such as {zeros[0]}. Pid 0 marks "
            "distractors of the gallery. If identities are numbered from 0, describe the dataset "
            "by data=csv, or rename the files; otherwise move distractors out of the folder."
        )
    return Records(train, query, gallery, notes=left_out(other, home))


def _find(root: str | Path) -> Path:
    home = Path(str(root)).expanduser().absolute()
    homes = _with_images(home, home / OFFICIAL)[:1] or _with_images(*home.glob("[!.]*"))
    if len(homes) == 1:
        return homes[0]
    if homes:
        names = ", ".join(h.name for h in homes)
        raise InputError(f"root={root} holds {len(homes)} datasets: {names}.", root=homes[0])
    found = "no such folder"
    if home.is_dir():
        found = ", ".join(sorted(os.listdir(home))[:4]) or "nothing"
    near = _with_images(*home.parents[:2], *home.glob("*/*"))
    raise MissingDataset(
        f"no dataset at root={root}: expected {OFFICIAL}, with {', '.join(FOLDERS)} in it, or its "
        f"parent, found {found}. {TRY}",
        root=near[0] if near else "FOLDER",
    )


def _with_images(*folders: Path) -> list[Path]:
    shown = (folder for folder in sorted(folders) if not is_hidden(folder.name))
    return [folder for folder in shown if _part(folder, TRAIN).is_dir()]


def _part(home: Path, name: str) -> Path:
    """The folder of this name, in any case of letters."""
    if (home / name).is_dir() or not home.is_dir():
        return home / name
    return next((p for p in sorted(home.iterdir()) if p.name.lower() == name), home / name)


def _read_folder(folder: Path, other: list[str]) -> tuple[ImageRecord, ...]:
    """The images of a folder; the names of other files are added to `other`."""
    if not folder.is_dir():
        return ()
    records, home = [], os.path.join(folder, "")
    for name in sorted(os.listdir(folder)):
        if not is_image(name) or is_hidden(name):
            if not is_hidden(name):
                other.append(name)
            continue
        parsed = parse_name(home + name)
        if parsed is None:
            raise InputError(
                f"{folder / name} is not named as in Market-1501; expected names like {GRAMMAR}, "
                "cameras from 1, pids below 2**63. Rename the file, move it out of the folder, or "
                "describe the dataset by data=csv or data=folder."
            )
        records.append(parsed)
    return tuple(r for r in records if r.pid != JUNK)


def identities(records: Iterable[ImageRecord]) -> tuple[int, ...]:
    """The labelled identities among `records`, in numeric order: no junk, no distractors."""
    return tuple(sorted({r.pid for r in records if r.pid > DISTRACTOR}))
