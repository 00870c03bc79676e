"""A dataset that a CSV file lists."""

import csv
import io
import os
from collections import Counter
from collections.abc import Iterator, Sequence
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
    for number, line in enumerate(table_lines(file, COLUMNS, _HEADER), start=2):
        if not any(line.values()):
            continue
        path, identity, camera, subset = (line.get(name, "") for name in (*COLUMNS, "subset"))
        wrong = line.get("") or subset.lower() not in ("", *SUBSETS)
        if wrong or not (path and identity and camera):
            raise InputError(
                f"line {number} of {file} reads {','.join(line.values())}; expected a path, an "
                f"identity and a camera, and as subset one of {', '.join(SUBSETS)} or nothing."
            )
        place = os.path.normpath(os.path.join(file.parent, path.replace("\\", "/")))
        yield NamedImage(place, identity, camera, subset.lower())


def table_lines(file: Path, required: Sequence[str], expected: str) -> Iterator[dict[str, str]]:
    """The stripped values of each line by column; columns are separated by comma, ; or tab."""
    try:
        text = file.read_text(encoding="utf-8-sig")
        header = text.partition("\n")[0].lower()
        rows = csv.reader(io.StringIO(text, newline=""), delimiter=max(",;\t", key=header.count))
        columns = [name.strip().lower() or "-" for name in next(rows, [])]
        if missing := [name for name in required if name not in columns]:
            lacking = f"{file} lacks {', '.join(missing)}: its header is {header[:80]!r}"
            raise InputError(f"{lacking}; {expected}.")
        for row in rows:
            yield dict(zip_longest(columns, map(str.strip, row), fillvalue=""))  # "": one too many
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{file} is not CSV text ({error}). Save it as CSV in UTF-8.") from error
