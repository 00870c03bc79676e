"""What is wrong with a dataset, and what is done with its images."""

import hashlib
import io
import os
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

from PIL import Image, UnidentifiedImageError

from camreid.data.cache import cores
from camreid.data.dataset import as_shown, is_deep, is_turned
from camreid.data.layouts import CAMERAS, SIZES, Layout, is_official, part
from camreid.data.manifest import SUBSETS, Split
from camreid.data.records import JUNK, Records, identities, is_hidden, is_image, parse_name
from camreid.progress import Progress, note

_REASONS = {Image.DecompressionBombError: "too large", UnicodeEncodeError: "name not in UTF-8"}
Remarks: TypeAlias = Iterator[tuple[str, str]]  # what there is to say, and about which file
_TRAITS: dict[str, Callable[[Any], Any]] = {
    "grey images: used as RGB": lambda image: image.mode in ("1", "L", "LA"),
    "grey images of 16 bits or more: scaled to 8 bits": is_deep,
    "colour images of 16 bits: the upper 8 are used": lambda image: "B;16" in str(image.tile),
    "CMYK images: converted to RGB": lambda image: image.mode == "CMYK",
    "images with transparency: put on white": lambda image: image.has_transparency_data,
    "animated images: the first frame is used": lambda image: getattr(image, "is_animated", False),
    "images turned by EXIF data: turned upright": is_turned,
}
_JUNK, _OTHER = "junk images (pid -1): left out", "files that are not of a subset: left out"
_COPIES = "equal files in query and gallery, of one identity and camera: ignored"  # of VeRi-776
_UNUSED = "images without a record: misnamed, or not listed"
_UNMATCHED = "queries without a match: left out of the scores"
_FAR = "cameras that the public dataset does not have: used"
_NOTES = {*_TRAITS, _JUNK, _OTHER, _COPIES, _UNMATCHED, _FAR}


@dataclass(frozen=True)
class Finding:
    """A kind of fault, or of image that is worth a note."""

    what: str  # with what is done with them, or what is expected
    count: int
    examples: tuple[str, ...]  # the first five
    is_fault: bool


def inspect(records: Records, home: Path, layout: Layout | None) -> list[Finding]:
    """All findings on a dataset in `home`, faults first; each image is read once."""
    sizes = (len(records.train), len(records.query), len(records.gallery))
    what, is_fault, most, far = f"images of train, query and gallery: {sizes}", not sizes[0], 0, ""
    kinds: dict[str, list[str]] = defaultdict(list)
    folders = [part(home, name) for name in dict.fromkeys(layout.folders)] if layout else []
    if layout is not None:
        known, is_public = SIZES[layout.name], is_official(home, layout)
        what += f". {layout.title} has {' or '.join(map(str, known))}"
        is_fault = 0 in sizes or (is_public and sizes not in known)
        most = CAMERAS[layout.name]
        far = f"cameras out of range: expected 1 to {most}" if is_public else _FAR
        kinds["missing folders"] = [str(folder) for folder in folders if not folder.is_dir()]
    others = _of_folder(records, home, folders) if home.is_dir() else ()
    for kind, name in (*_of_labels(records, most, far), *others, *_of_files(records)):
        kinds[kind].append(name)
    found = [Finding(k, len(v), tuple(v[:5]), k not in _NOTES) for k, v in kinds.items() if v]
    return sorted([*found, Finding(what, sum(sizes), (), is_fault)], key=lambda f: not f.is_fault)


def without_bad_images(split: Split) -> Split:
    """The split without images that cannot be read, with their number; a note names some."""
    paths = sorted({r.path for s in SUBSETS for r in getattr(split, s)})
    if not (bad := {path for path, _, found in _looks(paths) if not found <= _NOTES}):
        return split
    note(f"Data   {len(bad)} unreadable images are left out: {', '.join(sorted(bad)[:5])}")
    kept: Any = {s: tuple(r for r in getattr(split, s) if r.path not in bad) for s in SUBSETS}
    return replace(split, **kept, skipped=len(bad))


def _of_labels(records: Records, most: int, far: str) -> Remarks:
    query, pairs = records.query, {(r.pid, r.camera) for r in records.gallery}
    train, n = (*records.train, *records.val), Counter(pid for pid, _ in pairs)
    both = {*identities(train)}.intersection(identities((*query, *records.gallery)))
    yield from ((far, r.path) for r in (*train, *query, *records.gallery) if 0 < most < r.camera)
    yield from (("pid 0 outside the gallery", r.path) for r in (*train, *query) if r.pid == 0)
    yield from ((_UNMATCHED, r.path) for r in query if n[r.pid] <= ((r.pid, r.camera) in pairs))
    yield from (("identities in train and test", str(pid)) for pid in sorted(both))


def _of_folder(records: Records, home: Path, folders: Sequence[Path]) -> Remarks:
    used, closed = {r.path for s in SUBSETS for r in getattr(records, s)}, list[OSError]()
    homes = {*map(os.path.dirname, used), *map(str, folders)}
    for folder, inner, names in os.walk(home, onerror=closed.append):
        inner[:] = sorted(name for name in inner if not is_hidden(name))
        for path in filter(os.path.islink, (os.path.join(folder, name) for name in inner)):
            if not any((own + os.sep).startswith(path + os.sep) for own in homes):
                yield "links to folders: not followed", path
        is_nested = any(folder.startswith(own + os.sep) for own in homes)
        for name in sorted(name for name in names if not is_hidden(name)):
            path, parsed = os.path.join(folder, name), parse_name(name)
            if not is_image(name) or not (is_nested or folder in homes):
                yield _OTHER if os.path.exists(path) else "broken links: left out", path
            elif path not in used and folder in homes:
                yield _JUNK if parsed and parsed.pid == JUNK else _UNUSED, path
            elif path not in used:
                yield "images in nested folders: left out", path
    yield from ((f"unreadable folders ({e.strerror})", str(e.filename)) for e in closed)


def _of_files(records: Records) -> Remarks:
    roles = {r.path: (s, r.pid, r.camera) for s in SUBSETS for r in getattr(records, s)}
    same = defaultdict(list)
    for path, digest, found in _looks(sorted(roles)):
        yield from ((what, path) for what in sorted(found))
        same[digest or path].append(path)
    for paths in (paths for paths in same.values() if len(paths) > 1):
        subsets, pids, cameras = map(set, zip(*map(roles.__getitem__, paths), strict=True))
        what = f"equal files in {' and '.join(sorted(subsets, key=SUBSETS.index))}"
        is_copy = subsets == {"query", "gallery"} and len(pids) == len(cameras) == 1
        what += ", of several identities" * (len(pids) > 1)
        yield _COPIES if is_copy else what, " = ".join(paths)


def _looks(paths: Sequence[str]) -> Iterator[tuple[str, str, set[str]]]:
    with ThreadPoolExecutor(cores()) as pool:
        looks = pool.map(_look, paths)
        yield from Progress(looks, "Reading images", total=len(paths), unit="image")


def _look(path: str) -> tuple[str, str, set[str]]:
    digest = ""
    try:
        path.encode()
        if os.path.exists(path) != os.path.isfile(path):  # it may never end
            return path, digest, {"unreadable images (a folder, a pipe or a device)"}
        content = Path(path).read_bytes()
        digest = hashlib.sha256(content).hexdigest() if content else ""
        with Image.open(io.BytesIO(content)) as image:
            found = {trait for trait, has in _TRAITS.items() if has(image)}
            as_shown(image)
        return path, digest, found
    except UnidentifiedImageError:
        return path, digest, {"files that are no images" if digest else "files of zero bytes"}
    except Exception as error:  # Pillow's decoders raise many types
        reason = getattr(error, "strerror", "") or _REASONS.get(type(error), "damaged or cut short")
        return path, digest, {f"unreadable images ({reason})"}
