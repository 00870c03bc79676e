"""A dataset with one folder per identity."""

import os
import re
from collections import Counter
from pathlib import Path

from camreid.data.formats import is_hidden, is_image, left_out
from camreid.data.named import SUBSETS, NamedImage, named_records
from camreid.data.records import Records
from camreid.errors import InputError, MissingDataset

_LAYOUT = "one folder per identity, such as alice/cam1/001.jpg or alice/cam1_001.jpg"


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
    images: list[NamedImage] = []
    other = [e.name for e in os.scandir(home) if e.is_file() and not is_hidden(e.name)]
    for part in folders if by_subset else [""]:
        for identity in _folders(home / part):
            found, rest = _images(home / part / identity, camera_pattern)
            images += [NamedImage(p, identity, camera, part.lower()) for p, camera in found]
            other += rest
    if len({image.identity for image in images}) < 2:
        raise InputError(
            f"root={root} has fewer than two identities with images: {len(folders)} folders "
            f"({', '.join(folders[:3])}) and {len(other)} other files; expected {_LAYOUT}. For "
            "images in one folder, type data=csv data.path=FILE.",
            **({"root": home / folders[0]} if len(folders) == 1 else {}),
        )
    return named_records(_with_cameras(images, camera_pattern), str(home), left_out(other, home))


def _folders(home: Path) -> list[str]:
    return sorted(e.name for e in os.scandir(home) if e.is_dir() and not is_hidden(e.name))


def _images(home: Path, pattern: str | None) -> tuple[list[tuple[str, str]], list[str]]:
    """Path and camera of each image below the folder of an identity, and all other files."""
    images, other = [], []
    for folder, inner, names in os.walk(home):
        inner[:] = sorted(name for name in inner if not is_hidden(name))
        camera = "".join(Path(folder).relative_to(home).parts[:1])
        for name in sorted(name for name in names if not is_hidden(name)):
            if not is_image(name):
                other.append(name)
                continue
            if pattern is not None:
                camera = _find(pattern, name)
            images.append((os.path.join(folder, name), camera))
    return images, other


def _find(pattern: str, name: str) -> str:
    try:
        match = re.search(str(pattern), name)
    except re.error as error:
        fault = f"camera_pattern={pattern} is no regular expression: {error}."
        raise InputError(fault) from None
    return (match and match[min(1, match.re.groups)]) or ""


def _with_cameras(images: list[NamedImage], pattern: str | None) -> list[NamedImage]:
    """The images; if none has a camera, its camera is its place in the identity, from 1."""
    lost = [image.path for image in images if not image.camera]
    if len(lost) == len(images) and pattern is None:
        count: Counter[str] = Counter()
        for i, image in enumerate(images):
            count[image.identity] += 1
            images[i] = image._replace(camera=str(count[image.identity]))
    elif lost:
        why = f"camera_pattern={pattern} is not in their names (with cam(\\d+), cam3_01.jpg has 3)"
        raise InputError(
            f"{len(lost)} of {len(images)} images have no camera, such as {lost[0]}: "
            f"{why if pattern else 'others are in the sub-folder of a camera'}. Give each image a "
            "sub-folder, or a name that data.camera_pattern= finds a camera in."
        )
    return images
