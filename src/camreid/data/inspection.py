"""What is wrong with a dataset, and what is done with its images."""

import hashlib
import io
import os
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

from PIL import Image, UnidentifiedImageError

from camreid.data.cache import cores
from camreid.data.dataset import as_shown, is_deep, is_turned
from camreid.data.layouts import CAMERAS, SIZES, Layout, is_official
from camreid.data.manifest import SUBSETS, Split
from camreid.data.records import JUNK, Records, identities, is_hidden, is_image, parse_name
from camreid.progress import Progress, note

Remarks: TypeAlias = Iterator[tuple[str, str]]  # what there is to say, and about which file
_TRAITS: dict[str, Callable[[Image.Image], Any]] = {
    "grey images: used as RGB": lambda image: image.mode in ("1", "L", "LA"),
    "grey images of 16 bits or more: scaled to 8 bits": is_deep,
    "CMYK images: converted to RGB": lambda image: image.mode == "CMYK",
    "images with transparency: put on white": lambda image: image.has_transparency_data,
    "animated images: the first frame is used": lambda image: getattr(image, "is_animated", False),
    "images turned by EXIF data: turned upright": is_turned,
}
_JUNK, _OTHER = "junk images (pid -1): left out", "files that are not of a subset: left out"
_COPIES = "equal files in query and gallery, of one identity and camera: ignored"  # of VeRi-776
_UNUSED = "images without a record: misnamed, or not listed"
_UNMATCHED = "queries without a match: left out of the scores"
_NOTES = {*_TRAITS, _JUNK, _OTHER, _COPIES, _UNMATCHED}


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
    what, is_fault, most = f"images of train, query and gallery: {sizes}", not sizes[0], 2**63
    if layout is not None:
        known, is_public = SIZES[layout.name], is_official(home, layout)
        what += f". {layout.title} has {' or '.join(map(str, known))}"
        is_fault = 0 in sizes or (is_public and sizes not in known)
        most = CAMERAS[layout.name] if is_public else most
    kinds: dict[str, list[str]] = defaultdict(list)
    others = _of_folder(records, home) if home.is_dir() else ()
    for kind, name in (*_of_labels(records, most), *others, *_of_files(records)):
        kinds[kind].append(name)
    found = [Finding(k, len(v), tuple(v[:5]), k not in _NOTES) for k, v in kinds.items()]
    return sorted([*found, Finding(what, sum(sizes), (), is_fault)], key=lambda f: not f.is_fault)


def without_bad_images(split: Split) -> Split:
    """The split without images that cannot be read, with their number; a note names some."""
    paths = sorted({r.path for s in SUBSETS for r in getattr(split, s)})
    if not (bad := {path for path, _, found in _looks(paths) if not found <= _NOTES}):
        return split
    note(f"Data   {len(bad)} unreadable images are left out: {', '.join(sorted(bad)[:5])}")
    kept: Any = {s: tuple(r for r in getattr(split, s) if r.path not in bad) for s in SUBSETS}
    return replace(split, **kept, skipped=len(bad))


def _of_labels(records: Records, most: int) -> Remarks:
    cameras = defaultdict(set)
    for r in records.gallery:
        cameras[r.pid].add(r.camera)
    for r in (*records.train, *records.val, *records.query, *records.gallery):
        if r.camera > most:
            yield f"cameras out of range: expected 1 to {most}", r.path
    for r in (*records.train, *records.query):
        if r.pid == 0:
            yield "distractors (pid 0) outside the gallery", r.path
    for r in records.query:
        if not cameras[r.pid] - {r.camera}:
            yield _UNMATCHED, r.path
    trained = {*identities(records.train), *identities(records.val)}
    for pid in sorted(trained.intersection(identities((*records.query, *records.gallery)))):
        yield "identities in train and test", str(pid)


def _of_folder(records: Records, home: Path) -> Remarks:
    used = {r.path for s in SUBSETS for r in getattr(records, s)}
    homes, closed = {os.path.dirname(path) for path in used}, list[OSError]()
    for folder, inner, names in os.walk(home, onerror=closed.append):
        inner[:] = sorted(name for name in inner if not is_hidden(name))
        for path in (os.path.join(folder, name) for name in inner):
            followed = any((own + os.sep).startswith(path + os.sep) for own in homes)
            if os.path.islink(path) and not followed:
                yield "links to folders: not followed", path
        is_nested = any(folder.startswith(own + os.sep) for own in homes)
        for name in sorted(name for name in names if not is_hidden(name)):
            path, parsed = os.path.join(folder, name), parse_name(name)
            if not is_image(name) or not (is_nested or folder in homes):
                yield _OTHER, path
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
        if Path(path).is_fifo():  # it would wait
            return path, digest, {"unreadable images (a pipe)"}
        content = Path(path).read_bytes()
        digest = hashlib.sha256(content).hexdigest() if content else ""
        with Image.open(io.BytesIO(content)) as image:
            found = {trait for trait, has in _TRAITS.items() if has(image)}
            as_shown(image)
        return path, digest, found
    except UnidentifiedImageError:
        return path, digest, {"files that are no images" if digest else "files of zero bytes"}
    except Exception as error:  # Pillow's decoders raise many types
        is_bomb = isinstance(error, Image.DecompressionBombError)
        reason = getattr(error, "strerror", "") or ("damaged or cut short", "too large")[is_bomb]
        return path, digest, {f"unreadable images ({reason})"}
