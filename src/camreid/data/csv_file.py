"""A dataset that a CSV file lists."""

import csv
import os
from collections import Counter
from collections.abc import Iterator
from itertools import zip_longest
from pathlib import Path

from camreid.data.named import SUBSETS, NamedImage, named_records
from camreid.data.records import Records
from camreid.errors import InputError, MissingDataset

COLUMNS = ("path", "identity", "camera")
_HEADER = f"expected a header with {','.join(COLUMNS)}, and optionally subset"


def read_csv(path: str | Path) -> Records:
    """Read a UTF-8 file with the columns path, identity, camera, and optionally subset.

    Paths are relative to the folder of the file. Identities and cameras are names or numbers; see
    `camreid.data.named.numbers`. A subset is train, val, query or gallery.

    Raises:
        MissingDataset: there is no such file.
        InputError: a column, value or image is missing, or an image is listed twice.
    """
    file = Path(path).expanduser().absolute()
    if not file.is_file():
        raise MissingDataset(f"no CSV file at path={path}; {_HEADER}.", path="FILE")
    images = list(_images(file))
    if len({bool(image.subset) for image in images}) != 1:
        found = "has lines with and without a subset" if images else "lists no images"
        raise InputError(f"{file} {found}; {_HEADER}, which is filled in all lines or in none.")
    paths = [image.path for image in images]
    if twice := [path for path, count in Counter(paths).items() if count > 1]:
        raise InputError(f"{file} lists {len(twice)} images twice, such as {twice[0]}.")
    if lost := [path for path in paths if not os.path.isfile(path)]:
        raise InputError(
            f"{file} lists {len(lost)} images that are not there, such as {', '.join(lost[:3])}. "
            f"Paths are relative to {file.parent}."
        )
    return named_records(images, str(file))


def _images(file: Path) -> Iterator[NamedImage]:
    for number, line in enumerate(_lines(file), start=2):
        path, identity, camera, subset = (line.get(name, "") for name in (*COLUMNS, "subset"))
        if not (path and identity and camera) or subset.lower() not in ("", *SUBSETS):
            raise InputError(
                f"line {number} of {file} reads {','.join(line.values())}; expected a path, an "
                f"identity and a camera, and as subset one of {', '.join(SUBSETS)} or nothing."
            )
        place = os.path.normpath(os.path.join(file.parent, path.replace("\\", "/")))
        yield NamedImage(place, identity, camera, subset.lower())


def _lines(file: Path) -> Iterator[dict[str, str]]:
    """The stripped values of each line by column; columns are separated by comma, ; or tab."""
    try:
        lines = file.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise InputError(f"{file} is not UTF-8 text ({error}). Save it as CSV in UTF-8.") from error
    header = lines[0].lower() if lines else ""
    rows = csv.reader(lines, delimiter=max(",;\t", key=header.count))
    columns = [name.strip().lower() for name in next(rows, [])]
    if missing := [name for name in COLUMNS if name not in columns]:
        raise InputError(
            f"{file} lacks {', '.join(missing)}: its first line is {header[:80]!r}; {_HEADER}."
        )
    for row in rows:
        yield dict(zip_longest(columns, map(str.strip, row[: len(columns)]), fillvalue=""))
