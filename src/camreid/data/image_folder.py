"""A dataset with one folder per identity."""

import os
import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from camreid.data.formats import is_hidden, is_image, left_out
from camreid.data.named import SUBSETS, NamedImage, named_records
from camreid.data.records import Records
from camreid.errors import InputError, MissingDataset

_LAYOUT = "one folder per identity, such as alice/cam1/001.jpg or alice/cam1_001.jpg"


class _File(NamedTuple):
    subset: str
    identity: str
    inner: tuple[str, ...]  # sub-folders of the identity's folder
    name: str
    path: str


def read_folder(root: str | Path, camera_pattern: str | None = None) -> Records:
    """Read one folder per identity, in `root` or in its folders train, val, query and gallery.

    The camera of an image is what `camera_pattern` finds in its name: the first group of a regular
    expression, or the whole match. Without it, the sub-folder of the identity is the camera.
    Without both, each image of an identity has a camera of its own, so that all others match it.

    Raises:
        MissingDataset: there is no such folder.
        InputError: fewer than two identities, an invalid pattern, or images without a camera.
    """
    home = Path(str(root)).expanduser().absolute()
    if not home.is_dir():
        raise MissingDataset(f"no folder at root={root}; expected {_LAYOUT}.", root="FOLDER")
    folders = _folders(home)
    by_subset = {name.lower() for name in folders} <= set(SUBSETS)
    files = [
        file
        for part in (folders if by_subset else [""])
        for identity in _folders(home / part)
        for file in _files(part.lower(), identity, home / part / identity)
    ]
    images = [file for file in files if is_image(file.name)]
    other = [file.name for file in files if not is_image(file.name)]
    other += [e.name for e in os.scandir(home) if e.is_file() and not is_hidden(e.name)]
    if len({file.identity for file in images}) < 2:
        raise InputError(
            f"root={root} has fewer than two identities with images: {len(folders)} folders "
            f"({', '.join(folders[:3])}) and {len(other)} other files; expected {_LAYOUT}. For "
            "images in one folder, type data=csv data.path=FILE.",
            **({"root": home / folders[0]} if len(folders) == 1 else {}),
        )
    cameras = _numbered(images) if camera_pattern is None else _found(images, camera_pattern)
    named = [
        NamedImage(file.path, file.identity, camera, file.subset)
        for file, camera in zip(images, cameras, strict=True)
    ]
    return named_records(named, str(home), left_out(other, home))


def _folders(home: Path) -> list[str]:
    return sorted(e.name for e in os.scandir(home) if e.is_dir() and not is_hidden(e.name))


def _files(subset: str, identity: str, home: Path) -> Iterable[_File]:
    for folder, inner, names in os.walk(home):
        inner[:] = sorted(name for name in inner if not is_hidden(name))
        parts = Path(folder).relative_to(home).parts
        for name in sorted(name for name in names if not is_hidden(name)):
            yield _File(subset, identity, parts, name, os.path.join(folder, name))


def _found(files: list[_File], pattern: str) -> list[str]:
    """The cameras in file names."""
    try:
        matches = [re.search(str(pattern), file.name) for file in files]
    except re.error as error:
        fault = f"camera_pattern={pattern} is no regular expression: {error}."
        raise InputError(fault) from None
    cameras = [(m and m[min(1, m.re.groups)]) or "" for m in matches]
    lost = [file.path for file, camera in zip(files, cameras, strict=True) if not camera]
    if lost:
        raise InputError(
            f"camera_pattern={pattern} finds no camera in {len(lost)} of {len(files)} file names, "
            f"such as {lost[0]}. With cam(\\d+), cam3_01.jpg has camera 3."
        )
    return cameras


def _numbered(files: list[_File]) -> list[str]:
    """The first sub-folder of each image; without any, its place in the identity, from 1."""
    direct = [file.path for file in files if not file.inner]
    if direct and len(direct) < len(files):
        raise InputError(
            f"{len(direct)} of {len(files)} images are not in the sub-folder of a camera, such as "
            f"{direct[0]}. Move them there, or find cameras in file names by data.camera_pattern=."
        )
    count: Counter[str] = Counter()
    cameras = []
    for file in files:
        count[file.identity] += 1
        cameras.append(file.inner[0] if file.inner else str(count[file.identity]))
    return cameras
