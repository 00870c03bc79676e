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
    folders: list[str] = []
    images: list[NamedImage] = []
    other: list[str] = []
    for folder, inner, names in os.walk(home):
        inner[:] = sorted(name for name in inner if not is_hidden(name))
        folders = folders or list(inner)  # of the root, which comes first
        subset, identity, camera = _parts(Path(folder).relative_to(home).parts, folders)
        for name in sorted(name for name in names if not is_hidden(name)):
            if not identity or not is_image(name):
                other.append(name)
                continue
            found = camera if camera_pattern is None else _find(camera_pattern, name)
            images.append(NamedImage(os.path.join(folder, name), identity, found, subset))
    if len({image.identity for image in images}) < 2:
        raise InputError(
            f"root={root} has fewer than two identities with images: {len(folders)} folders "
            f"({', '.join(folders[:3])}) and {len(other)} other files; expected {_LAYOUT}. For "
            "images in one folder, type data=csv data.path=FILE.",
            **({"root": home / folders[0]} if len(folders) == 1 else {}),
        )
    return named_records(_with_cameras(images, camera_pattern), str(home), left_out(other, home))


def _parts(folders: tuple[str, ...], of_root: list[str]) -> tuple[str, str, str]:
    """The subset, identity and camera of the images in a folder; empty where it names none."""
    by_subset = {name.lower() for name in of_root} <= set(SUBSETS)
    subset = "".join(folders[:1]).lower() if by_subset else ""
    identity, camera, *_ = (*folders[by_subset:], "", "")
    return subset, identity, camera


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
