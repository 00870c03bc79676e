"""Public datasets by name: their folders, file names and official sizes."""

import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain
from pathlib import Path

from camreid.data import records as market
from camreid.data.records import ImageRecord, Images, Records, is_hidden, is_image
from camreid.errors import InputError, MissingDataset

TRY = "For other layouts type data=csv or data=folder; for a trial, data=synthetic."


@dataclass(frozen=True)
class Layout:
    """How a public dataset keeps its images."""

    name: str  # of `data=`
    title: str
    folders: tuple[str, ...]  # train, query, gallery
    names: str  # pattern of the image names; empty if that of `parse_name` is enough
    example: str

    def is_at(self, home: Path) -> bool:
        """Whether `home` holds a train folder with such names."""
        train, match = part(home, self.folders[0]), re.compile(self.names).match
        paths = chain(train.glob("*"), train.glob("*/*"))
        return train.is_dir() and (not self.names or any(match(path.name) for path in paths))


_DUKE = (market.FOLDERS, r"\d+_c\d+_f\d+\.", "0002_c1_f0044158.jpg")
_VERI = ("image_train", "image_query", "image_test")
_MSMT17 = (r"\d+_\d+_\d+_\w+_\d+_\d+\.", "0000/0000_000_01_0303morning_0008_0.jpg")
LAYOUTS = (
    Layout("msmt17", "MSMT17", ("train", "test", "test"), *_MSMT17),
    Layout("msmt17", "MSMT17", ("mask_train_v2", "mask_test_v2", "mask_test_v2"), *_MSMT17),
    Layout("veri", "VeRi-776", _VERI, r"\d+_c\d+_\d+_\d+\.", "0001_c001_00016450_0.jpg"),
    Layout("dukemtmc", "DukeMTMC-reID", *_DUKE),
    Layout("occluded_duke", "Occluded-Duke", *_DUKE),
    Layout("cuhk03_np", "CUHK03-NP", market.FOLDERS, r"\d+_c\d+_\d+\.", "0001_c1_1.png"),
    Layout("market1501", "Market-1501", market.FOLDERS, "", market.GRAMMAR),
)
_LISTS = (("list_train.txt", "list_val.txt"), ("list_query.txt",), ("list_gallery.txt",))
# identity, image, camera, time of day, frame, box; then the number of the identity
_LINE = re.compile(r"(?:\S*/)?\d+_\d+_0*([1-9]\d*)_\w+?_(\d+)_\S+\s+(\d+)(?:\s.*)?")
SIZES = {  # images of train, query and gallery, by release
    "msmt17": ((32621, 11659, 82161), (30248, 11659, 82161)),  # without list_val.txt
    "veri": ((37746, 1678, 11579), (37778, 1678, 11579)),
    "dukemtmc": ((16522, 2228, 17661),),
    "occluded_duke": ((15618, 2210, 17661),),
    "cuhk03_np": ((7365, 1400, 5332), (7368, 1400, 5328)),  # detected, labeled
    "market1501": ((12936, 3368, 15913),),
}
CAMERAS = {"veri": 20, "msmt17": 15, "dukemtmc": 8, "occluded_duke": 8, "cuhk03_np": 2}
CAMERAS["market1501"] = 6


def read_market1501(root: str | Path) -> Records:
    """Read a folder in the Market-1501 layout, by base names and without junk (pid -1).

    `root` holds `bounding_box_train`, `query` and `bounding_box_test`, or is the parent of that
    folder; the last two may be missing. MissingDataset without train images; InputError for other
    names, or where pid 0 has train or query images.
    """
    return _read(root, "market1501")


def find(root: str | Path, name: str) -> tuple[Path, Layout]:
    """The folder of a dataset, `root` or one in it; MissingDataset says what is there instead."""
    wanted = [layout for layout in LAYOUTS if layout.name == name]
    home = Path(str(root)).expanduser().absolute()
    inside = _inside(home)
    found = _at([home], wanted) or _at(inside, wanted)
    found = [place for place in found if _is_named(place[0], name)] or found
    if len(found) == 1:
        return found[0]
    if found:
        names = ", ".join(place.name for place, _ in found)
        raise InputError(f"root={root} holds {len(found)} datasets: {names}.", root=found[0][0])
    train, *others = (part(home, folder).is_dir() for folder in wanted[0].folders)
    if any(others) and not train:  # `checked` refuses it
        return home, wanted[0]
    there = ", ".join(sorted(os.listdir(home))[:4]) if home.is_dir() else "no such folder"
    expected = f"{wanted[0].folders[0]} of {wanted[0].title} in it or in one of its folders"
    message = f"no dataset at root={root}: expected {expected}, found {there or 'nothing'}. "
    for place, other in _at([home, *inside], LAYOUTS):
        raise MissingDataset(f"{message}{place} looks like {other.title}.", data=other.name)
    near = _at((*home.parents[:2], *(deep for h in inside for deep in _inside(h))), wanted)
    raise MissingDataset(message + TRY, root=near[0][0] if near else "FOLDER")


def part(home: Path, name: str) -> Path:
    """The folder of this name, in any case of letters."""
    if (home / name).is_dir() or not home.is_dir():
        return home / name
    return next((p for p in sorted(home.iterdir()) if p.name.lower() == name), home / name)


def checked(records: Records, home: Path, layout: Layout) -> Records:
    """The records, if they can be trained on, with a note if they are not the official ones."""
    if not records.train:
        folder = home / layout.folders[0]
        raise MissingDataset(f"{folder} holds no images like {layout.example}. {TRY}")
    if zeros := [r.path for r in (*records.train, *records.query) if r.pid == market.DISTRACTOR]:
        found = f"{len(zeros)} train or query images have pid 0, such as {zeros[0]}. Distractors"
        raise InputError(f"{found} are of the gallery; for an identity 0, type data=csv.")
    official = SIZES[layout.name]
    sizes = len(records.train), len(records.query), len(records.gallery)
    if sizes in official or not is_official(home, layout):
        return records
    expected = " or ".join(map(str, official))
    note = f"{layout.title} at {home} has {sizes} images of train, query, gallery, not {expected}."
    return replace(records, notes=(*records.notes, note))


def _read(root: str | Path, name: str) -> Records:
    home, layout = find(root, name)
    for folder in filter(Path.is_dir, (part(home, name) for name in layout.folders)):
        os.scandir(folder).close()  # raises if it is unreadable, where `scan` goes on
    records, wrong = scan(home, layout)
    if wrong:
        more = f", nor are {len(wrong) - 1} more: {', '.join(wrong[1:5])}" * (len(wrong) > 1)
        found = f"{wrong[0]} is not named as in {layout.title}{more}; expected {layout.example}"
        raise InputError(f"{found}, cameras from 1, pids below 2**63. Rename or move it. {TRY}")
    return checked(records, home, layout)


def read_msmt17(root: str | Path) -> Records:
    """Read MSMT17 V1 or V2 by its list files; `list_val.txt` is a share of the train part.

    A pid is the digit 1 (train) or 2 (test) and the dataset's number from 0: 0 and 10 of train are
    10 and 110. So no pid is 0 or of both parts, and strings of pids sort as those of FastReID.
    MissingDataset without list files; InputError for other lines and missing images.
    """
    home, layout = find(root, "msmt17")
    if lost := [name for names in _LISTS for name in names if not (home / name).is_file()]:
        where = f"beside {layout.folders[0]}"
        raise MissingDataset(f"MSMT17 at {home} lacks {', '.join(lost)}. Copy them there, {where}.")
    train, query, gallery = map(partial(_read_lists, home), _LISTS, layout.folders, "122")
    market.require_files((r.path for r in (*train, *query, *gallery)), home / "list_*.txt")
    return checked(Records(train, query, gallery), home, layout)


# readers with the root and the errors of `read_market1501`
read_dukemtmc = partial(_read, name="dukemtmc")
read_occluded_duke = partial(_read, name="occluded_duke")
read_cuhk03_np = partial(_read, name="cuhk03_np")  # root: its folder detected or labeled
read_veri = partial(_read, name="veri")  # a copy of each query in the gallery is junk by its camera


def scan(home: Path, layout: Layout) -> tuple[Records, list[str]]:
    """What is in the folders of a layout other than MSMT17, and the images of other names."""
    other, wrong = list[str](), list[str]()
    folders = (part(home, folder) for folder in layout.folders)
    train, query, gallery = (_read_folder(f, layout, other, wrong) for f in folders)
    return Records(train, query, gallery, notes=market.left_out(other, home)), wrong


def is_official(home: Path, layout: Layout) -> bool:
    """Whether the folder, or each image in it, is named as in the public dataset."""
    return bool(layout.names) or _is_named(home, layout.name)


def _read_folder(folder: Path, layout: Layout, other: list[str], wrong: list[str]) -> Images:
    if not folder.is_dir() or not os.access(folder, os.R_OK):
        return ()
    records, home, match = [], os.path.join(folder, ""), re.compile(layout.names).match
    for name in sorted(name for name in os.listdir(folder) if not is_hidden(name)):
        if not is_image(name):
            other.append(name)
        elif (parsed := market.parse_name(home + name)) is None or not match(name):
            wrong.append(home + name)
        elif parsed.pid != market.JUNK:
            records.append(parsed)
    return tuple(records)


def _at(homes: Iterable[Path], layouts: Sequence[Layout]) -> list[tuple[Path, Layout]]:
    """Each folder that holds one of the layouts, with the first of these."""
    found = ((home, next((one for one in layouts if one.is_at(home)), None)) for home in homes)
    return [(home, layout) for home, layout in found if layout]


def _inside(home: Path) -> list[Path]:
    return [path for path in sorted(home.glob("*/")) if not is_hidden(path.name)]


def _is_named(home: Path, name: str) -> bool:
    """Whether the folder has the name of the dataset, such as `Market-1501-v15.09.15`."""
    return "".join(filter(str.isalnum, home.name.lower())).startswith(name.replace("_", ""))


def _read_lists(home: Path, names: tuple[str, ...], folder: str, digit: str) -> Images:
    records = {}
    for file in map(home.joinpath, names):
        lines = file.read_text(encoding="utf-8-sig", errors="replace").splitlines()
        for number, line in enumerate(map(str.strip, lines), 1):
            if found := _LINE.fullmatch(line):
                path = os.path.join(home, folder, line.split()[0])
                camera, frame, pid = map(int, found.groups())
                records[path] = ImageRecord(path, int(f"{digit}{pid}"), camera, frame=frame)
            elif line:
                example = f"{LAYOUTS[0].example} 0"
                raise InputError(f"line {number} of {file} is {line[:80]!r}; expected {example}.")
    return tuple(records[path] for path in sorted(records))
