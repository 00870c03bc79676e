"""What the images are: a Market-1501 folder as records of (path, pid, camera, sequence, frame)."""

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from camreid.data.filenames import GRAMMAR, JUNK, parse_name
from camreid.errors import InputError, MissingDataset

TRAIN, QUERY, GALLERY = "bounding_box_train", "query", "bounding_box_test"
FOLDERS = (TRAIN, QUERY, GALLERY)
OFFICIAL = "Market-1501-v15.09.15"
SUFFIXES = (".jpg", ".jpeg", ".png")
TRY = "To try the program without a dataset: data=synthetic."


@dataclass(frozen=True)
class ImageRecord:
    """One crop of one person.

    Attributes:
        path: the image file.
        pid: raw identity number; 0 is a distractor, -1 junk.
        camera: 1-based, as in the file name.
        sequence: recording of that camera, as in the file name.
        frame: frame number within the recording.
    """

    path: str
    pid: int
    camera: int
    sequence: int = 0
    frame: int = 0

    @property
    def name(self) -> str:
        """Folder and file name, the same wherever the dataset lies."""
        return "/".join(Path(self.path).parts[-2:])


@dataclass(frozen=True)
class Records:
    """A dataset by the official division: each part a tuple sorted by file name, without junk."""

    train: tuple[ImageRecord, ...]
    query: tuple[ImageRecord, ...]
    gallery: tuple[ImageRecord, ...]

    @property
    def cameras(self) -> tuple[int, ...]:
        """The cameras that took any image, in order."""
        return tuple(sorted({r.camera for r in (*self.train, *self.query, *self.gallery)}))


def read_market1501(root: str | Path) -> Records:
    """Read a folder in the Market-1501 layout.

    Only base names are read, so folders called `exp_1_c2` do no harm. Junk (pid -1) is left out
    everywhere; distractors (pid 0) stay in the gallery and are nobody in the train set.

    Args:
        root: the folder that holds `bounding_box_train`, `query` and `bounding_box_test`, or its
            parent.

    A missing or empty `query` or `bounding_box_test` reads as no images, so that a train set alone
    can be trained on.

    Raises:
        MissingDataset: there is no such folder, or there are no train images in it.
        InputError: an image's name does not follow the grammar.
    """
    home = find_market1501(root)
    train, query, gallery = (_read_folder(home / folder) for folder in FOLDERS)
    if not train:
        raise MissingDataset(
            f"{home / TRAIN} holds no images; expected .jpg or .png files named like {GRAMMAR}. "
            f"Unpack the dataset again or type data.root=FOLDER. {TRY}"
        )
    return Records(tuple(r for r in train if r.pid > 0), query, gallery)


def find_market1501(root: str | Path) -> Path:
    """The folder that holds `bounding_box_train` and the rest: `root` or one folder in it."""
    if not isinstance(root, str | Path):
        raise InputError(f"data.root={root}: expected a folder, such as data.root=datasets.")
    root = Path(root).expanduser().absolute()
    if not root.is_dir():
        raise MissingDataset(
            f"no dataset at data.root={root}: there is no such folder. Put {OFFICIAL}, with "
            "bounding_box_train/, query/ and bounding_box_test/ in it, below that folder, or "
            f"type data.root=FOLDER. {TRY}"
        )
    homes = [h for h in (root, root / OFFICIAL) if (h / TRAIN).is_dir()][:1]
    if not homes:
        homes = [h for h in _folders(root) if (h / TRAIN).is_dir()]
    if len(homes) > 1:
        raise InputError(
            f"data.root={root} holds {len(homes)} datasets; choose one: "
            + " or ".join(f"data.root={h}" for h in homes)
        )
    if not homes:
        raise MissingDataset(_no_home(root))
    return homes[0]


def _folders(root: Path) -> list[Path]:
    """The folders of one, hidden ones (such as those of an unfinished rendering) left out."""
    return sorted(p for p in root.iterdir() if p.is_dir() and not p.name.startswith("."))


def _no_home(root: Path) -> str:
    """Says where the dataset probably is, one level up or two levels down."""
    above = [p for p in root.parents[:2] if (p / TRAIN).is_dir()]
    below = sorted(p.parent for p in root.glob(f"*/*/{TRAIN}"))
    near = [*above, *below]
    found = ", ".join(sorted(os.listdir(root))[:4]) or "nothing"
    hint = f"It is at {near[0]}: type data.root={near[0]}." if near else "Type data.root=FOLDER."
    return (
        f"no Market-1501 layout at data.root={root}: expected bounding_box_train/, query/ and "
        f"bounding_box_test/ there or in one folder below, found {found}. {hint} {TRY}"
    )


def _read_folder(folder: Path) -> tuple[ImageRecord, ...]:
    """The records of one folder, sorted by file name, without junk."""
    if not folder.is_dir():
        return ()
    files = sorted(
        f.name for f in os.scandir(folder) if f.name.lower().endswith(SUFFIXES) and f.name[0] != "."
    )
    records = (_record(folder, name) for name in files)
    return tuple(r for r in records if r.pid != JUNK)


def _record(folder: Path, name: str) -> ImageRecord:
    parsed = parse_name(name)
    if parsed is None or parsed.camera < 1:
        raise InputError(
            f"{folder / name} is not named as in Market-1501; expected names like {GRAMMAR}, "
            "cameras from 1. Rename the file or move it out of the folder."
        )
    return ImageRecord(str(folder / name), *parsed)


def people(records: Iterable[ImageRecord]) -> tuple[int, ...]:
    """The labelled identities among `records`, in numeric order: no junk, no distractors."""
    return tuple(sorted({r.pid for r in records if r.pid > 0}))
