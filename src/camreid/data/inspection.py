"""What is wrong with a dataset, and what is done with its images."""

import hashlib
import io
import os
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

from PIL import Image, ImageDraw, UnidentifiedImageError

from camreid.data.cache import cores
from camreid.data.dataset import read_image
from camreid.data.formats import is_hidden, is_image
from camreid.data.layouts import CAMERAS, SIZES, Layout, is_official
from camreid.data.manifest import SUBSETS, Split
from camreid.data.pixels import as_shown, is_deep, is_turned
from camreid.data.records import JUNK, ImageRecord, Records, identities, parse_name
from camreid.errors import ImageError
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
_JUNK, _OUTSIDE = "junk images (pid -1): left out", "images outside the subsets: left out"
_OTHER = "other files: left out"
_COPIES = "equal files in query and gallery, of one identity and camera: ignored"  # of VeRi-776
_NOTES = {*_TRAITS, _JUNK, _OUTSIDE, _OTHER, _COPIES}


@dataclass(frozen=True)
class Finding:
    """A kind of fault, or of image that is worth a note."""

    what: str  # with what is done with them, or what is expected
    count: int
    examples: tuple[str, ...] = ()  # the first five
    is_fault: bool = True


def inspect(records: Records, home: Path, layout: Layout | None = None) -> list[Finding]:
    """All findings, faults first; each image is read once, other files of `home` are listed."""
    roles = {r.path: (s, r) for s in SUBSETS for r in getattr(records, s)}
    kinds: dict[str, list[str]] = defaultdict(list)
    for what, name in (*_of_labels(records), *_of_folder(roles, home), *_of_files(roles)):
        kinds[what].append(name)
    found = [Finding(k, len(v), tuple(v[:5]), k not in _NOTES) for k, v in kinds.items()]
    found += _of_layout(records, home, layout) if layout else []
    return sorted(found, key=lambda f: not f.is_fault)


def without_bad_images(split: Split) -> Split:
    """The split without images that cannot be read, with their number; a note names some."""
    paths = sorted({r.path for s in SUBSETS for r in getattr(split, s)})
    bad = {path for path, _, found in _looks(paths) if not found <= _NOTES}
    if not bad:
        return split
    note(f"Data   {len(bad)} unreadable images are left out: {', '.join(sorted(bad)[:5])}")
    kept: Any = {s: tuple(r for r in getattr(split, s) if r.path not in bad) for s in SUBSETS}
    return replace(split, **kept, skipped=len(bad))


def contact_sheet(records: Sequence[ImageRecord], count: int) -> Image.Image:
    """An image of `count` identities (rows) by each camera (columns), 64 x 128 pixels.

    Its label is pid, camera and number of images. A cell is white where its image is unreadable.
    """
    cells: dict[tuple[int, int], list[str]] = defaultdict(list)
    for r in records:
        cells[r.pid, r.camera].append(r.path)
    pids, cameras = identities(records)[:count], sorted({camera for _, camera in cells})
    sheet = Image.new("RGB", (64 * len(cameras), 144 * len(pids)), "white")
    for (pid, camera), paths in cells.items():
        if pid in pids:
            x, y, text = 64 * cameras.index(camera), 144 * pids.index(pid), f"{pid} c{camera}"
            ImageDraw.Draw(sheet).text((x + 2, y + 130), f"{text} {len(paths)}", "black")
            with suppress(ImageError):
                pixels = read_image(min(paths), (128, 64)).permute(1, 2, 0)
                sheet.paste(Image.fromarray(pixels.numpy()), (x, y))
    return sheet


def _of_labels(records: Records) -> Remarks:
    cameras = defaultdict(set)
    for r in records.gallery:
        cameras[r.pid].add(r.camera)
    for r in records.query:
        if not cameras[r.pid] - {r.camera}:
            yield "queries without a match: left out of the scores", r.path
    trained = {*identities(records.train), *identities(records.val)}
    for pid in sorted(trained.intersection(identities((*records.query, *records.gallery)))):
        yield "identities in train and test", str(pid)


def _of_layout(records: Records, home: Path, layout: Layout) -> Iterator[Finding]:
    """The sizes of the subsets and the cameras, beside those of the public dataset."""
    title, sizes, is_public = layout.title, SIZES[layout.name], is_official(home, layout)
    parts = {name: getattr(records, name) for name in ("train", "query", "gallery")}
    counts = tuple(map(len, parts.values()))
    for place, name in enumerate(parts):
        known = " or ".join(dict.fromkeys(f"{size[place]:,}" for size in sizes))
        is_fault = not counts[place] or (is_public and counts not in sizes)
        what = f"{name} images in {layout.folders[place]}: {title} has {known}"
        yield Finding(what, counts[place], is_fault=is_fault)
    most = CAMERAS[layout.name]
    far = tuple(r.path for images in parts.values() for r in images if r.camera > most)
    if far:
        what = f"images of cameras above {most}, the number in {title}"
        yield Finding(what, len(far), far[:5], is_public)


def _of_folder(roles: Mapping[str, Any], home: Path) -> Remarks:
    """What no record names in a folder; links to folders are not followed."""
    homes, closed = {os.path.dirname(path) for path in roles}, list[OSError]()
    for folder, inner, names in os.walk(home, onerror=closed.append) if home.is_dir() else ():
        inner[:] = sorted(name for name in inner if not is_hidden(name))
        paths = [os.path.join(folder, name) for name in inner]
        yield from (("links to folders: not followed", p) for p in paths if os.path.islink(p))
        is_nested = any(folder.startswith(own + os.sep) for own in homes)
        for name in sorted(name for name in names if not is_hidden(name)):
            path = os.path.join(folder, name)
            if not is_image(name):
                yield _OTHER, path
            elif path not in roles and folder in homes:
                parsed = parse_name(name)
                yield _JUNK if parsed and parsed.pid == JUNK else "misnamed images", path
            elif path not in roles:
                yield "images in nested folders: left out" if is_nested else _OUTSIDE, path
    yield from ((f"unreadable folders ({e.strerror})", str(e.filename)) for e in closed)


def _of_files(roles: Mapping[str, tuple[str, ImageRecord]]) -> Remarks:
    same = defaultdict(list)
    for path, digest, found in _looks(sorted(roles)):
        yield from ((what, path) for what in sorted(found))
        same[digest or path].append(path)
    for paths in (paths for paths in same.values() if len(paths) > 1):
        subsets, records = zip(*map(roles.__getitem__, paths), strict=True)
        names = sorted(set(subsets), key=SUBSETS.index)
        what = f"equal files in {' and '.join(names)}"
        what += ", of several identities" * (len({r.pid for r in records}) > 1)
        is_copy = names == ["query", "gallery"] and len({(r.pid, r.camera) for r in records}) == 1
        yield _COPIES if is_copy else what, " = ".join(paths)


def _looks(paths: Sequence[str]) -> Iterator[tuple[str, str, set[str]]]:
    """Each path with a hash of its content and what there is to say."""
    with ThreadPoolExecutor(cores()) as pool:
        looks = pool.map(_look, paths)
        yield from Progress(looks, "Reading images", total=len(paths), unit="image")


def _look(path: str) -> tuple[str, str, set[str]]:
    digest = ""
    try:
        content = Path(path).read_bytes()
        digest = hashlib.sha256(content).hexdigest() if content else ""
        with Image.open(io.BytesIO(content)) as image:
            found = {trait for trait, has in _TRAITS.items() if has(image)}
            as_shown(image)
        return path, digest, found
    except UnidentifiedImageError:
        return path, digest, {"files that are no images" if digest else "files of zero bytes"}
    except Exception as error:  # Pillow's decoders raise many types
        return path, digest, {f"unreadable images ({' '.join(str(error).split())[:60]})"}
