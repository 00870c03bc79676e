"""Images of named identities and cameras, from a CSV file or from folders."""

import os
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

from camreid.data.manifest import SUBSETS, read_table
from camreid.data.records import ImageRecord, Records, is_hidden, is_image, left_out, require_files
from camreid.errors import InputError, MissingDataset
from camreid.provenance import Dataset

COLUMNS = ("path", "identity", "camera")
_LAYOUT = "one folder per identity, such as alice/cam1/001.jpg or alice/cam1_001.jpg"


class NamedImage(NamedTuple):
    """One image; `subset` is empty where the data has no subsets."""

    path: str
    identity: str
    camera: str
    subset: str


def read_csv(path: str | Path) -> Records:
    """Read a UTF-8 file with the columns path, identity, camera, and optionally subset.

    Paths are relative to the folder of the file. Identities and cameras are names or numbers; see
    `camreid.data.named.numbers`. A subset is train, val, query or gallery. MissingDataset without
    the file; InputError for a missing column, value or image, or an image that is listed twice.
    """
    file = Path(path).expanduser().absolute()
    if not file.is_file():
        header = f"expected a header with {','.join(COLUMNS)}, and optionally subset"
        raise MissingDataset(f"no CSV file at path={path}; {header}.", path="FILE")
    images = []
    for where, line in read_table(file, COLUMNS):
        place, identity, camera, subset = (line.get(name, "") for name in (*COLUMNS, "subset"))
        wrong = line.get("") or subset.lower() not in ("", *SUBSETS)
        if wrong or not (place and identity and camera):
            found = f"{where} reads {','.join(line.values())[:200]}; expected {','.join(COLUMNS)}"
            raise InputError(f"{found}, and as subset {', '.join(SUBSETS)} or nothing.")
        place = os.path.normpath(os.path.join(file.parent, place.replace("\\", "/")))
        images.append(NamedImage(place, identity, camera, subset.lower()))
    if len({bool(image.subset) for image in images}) != 1:
        found = "has lines with and without a subset" if images else "lists no images"
        raise InputError(f"{file} {found}; fill in all of its lines, or leave out all subsets.")
    paths = Counter(image.path for image in images)
    if twice := [path for path, count in paths.items() if count > 1]:
        raise InputError(f"{file} lists {len(twice)} images twice, such as {twice[0]}.")
    require_files(paths, file)
    return _records(images, file)


def read_folder(root: str | Path, camera_pattern: str | None = None) -> Records:
    """Read one folder per identity, in `root` or in its folders train, val, query and gallery.

    The camera of an image is the first group, or the match, of the regular expression
    `camera_pattern` in its name; without it, the sub-folder of the identity; without both, its own,
    so that all images of an identity match it. MissingDataset without the folder; InputError for
    fewer than two identities, an invalid pattern, or some images without a camera.
    """
    home = Path(str(root)).expanduser().absolute()
    if not home.is_dir():
        raise MissingDataset(f"no folder at root={root}; expected {_LAYOUT}.", root="FOLDER")
    folders = sorted(path.name for path in home.glob("*/") if not is_hidden(path.name))
    has_subsets = (lower := {*map(str.lower, folders)}) <= {*SUBSETS}
    images: list[NamedImage] = []
    other, closed = list[str](), list[OSError]()
    for folder, inner, names in os.walk(home, onerror=closed.append, followlinks=True):
        inner[:] = sorted(n for n in inner if not is_hidden(n) and not _is_loop(folder, n))
        parts = Path(folder).relative_to(home).parts
        subset = "".join(parts[:1]).lower() if has_subsets else ""
        identity, camera, *_ = (*parts[has_subsets:], "", "")
        for name in sorted(name for name in names if not is_hidden(name)):
            if identity and is_image(name):
                found = camera if camera_pattern is None else _find(camera_pattern, name)
                images.append(NamedImage(os.path.join(folder, name), identity, found, subset))
            else:
                other.append(name)
    if closed:
        raise closed[0]
    full = len({image.identity for image in images})
    if full < 2 or ("train" in lower and not has_subsets):
        some = f"{len(folders)} folders ({', '.join(folders[:3])}), images in {full} of them"
        expected = f"expected {_LAYOUT}, or such folders in {', '.join(SUBSETS)}"
        remedy: Any = {"root": home / folders[0]} if len(folders) == 1 else {"data": "csv"}
        raise InputError(f"root={root} has {some}; {expected}.", **remedy)
    return _records(_with_cameras(images, camera_pattern), home, left_out(other, home))


def _is_loop(folder: str, name: str) -> bool:
    """Whether a folder is a link to one that holds it, by its path or on the disk."""
    path, parents = Path(folder, name), Path(folder).resolve().parents
    return path.is_symlink() and path.resolve() in {*map(Path.resolve, path.parents), *parents}


def _find(pattern: str, name: str) -> str:
    try:
        match = re.search(str(pattern), name)
    except re.error as error:
        raise InputError(f"camera_pattern={pattern} is no regular expression: {error}.") from None
    return (match and match[min(1, match.re.groups)]) or ""


def _with_cameras(images: list[NamedImage], pattern: str | None) -> list[NamedImage]:
    """The images; if none has a camera, its camera is its place in the identity, from 1."""
    lost = [image.path for image in images if not image.camera]
    if lost and (pattern or len(lost) < len(images)):
        found = f"{len(lost)} of {len(images)} images have no camera, such as {lost[0]}; use"
        raise InputError(rf"{found} folders or camera_pattern=: cam(\d+) finds 3 in cam3_01.jpg.")
    places: dict[str, Iterator[int]] = defaultdict(lambda: count(1))
    return [i._replace(camera=str(next(places[i.identity]))) for i in images] if lost else images


def _records(images: Sequence[NamedImage], where: Path, notes: tuple[str, ...] = ()) -> Records:
    pids = numbers({i.identity for i in images}, where)
    cameras = numbers({i.camera for i in images}, where)
    tested = {i.identity for i in images if i.subset in ("query", "gallery")}
    if both := sorted({i.identity for i in images if i.subset in ("train", "val")} & tested):
        found = f"{where}: {len(both)} identities are in train or val and in query or gallery:"
        raise InputError(f"{found} {', '.join(both[:3])}. For +split=resplit, leave out subsets.")
    parts: dict[str, list[ImageRecord]] = {subset: [] for subset in SUBSETS}
    for i in sorted(images):
        record = ImageRecord(i.path, pids[i.identity], cameras[i.camera])
        parts[i.subset or "train"].append(record)
    train, val, query, gallery = map(tuple, parts.values())
    return Records(train, query, gallery, val, (Dataset("", pids, cameras),), notes)


def numbers(names: Iterable[str], where: object) -> dict[str, int]:
    """A number from 1 for each name, whatever their order; InputError for two spellings of one.

    If all names are whole numbers from 1 to 999,999, these are kept; otherwise names are sorted.

    >>> numbers(["6", "3"], "a.csv"), numbers(["0", "10", "9"], "a.csv")
    ({'3': 3, '6': 6}, {'0': 1, '9': 2, '10': 3})
    """
    spelled: dict[str, str] = {}
    for name in sorted(names):
        key = unicodedata.normalize("NFC", name.strip())
        key = str(int(key)) if key.isdecimal() and len(key) < 99 else key
        if key in spelled:
            found = f"{spelled[key]!r} and {name!r} in {where} differ in spelling only"
            raise InputError(f"{found}. Write each name in one way.")
        spelled[key] = name
    parts = {key: re.split(r"(\d+)", key) for key in spelled}  # cam2 is before cam10
    ordered = sorted(parts, key=lambda k: [p.zfill(99) if p.isdecimal() else p for p in parts[k]])
    are_numbers = all(re.fullmatch(r"[1-9]\d{0,5}", key) for key in ordered)
    return {spelled[k]: int(k) if are_numbers else n for n, k in enumerate(ordered, start=1)}
