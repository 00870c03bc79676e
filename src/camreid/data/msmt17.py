"""MSMT17, V1 and V2: list files name the images of train, query and gallery."""

import os
import re
from pathlib import Path

from camreid.data.layouts import LAYOUTS, checked, find
from camreid.data.records import ImageRecord, Records, require_files
from camreid.errors import InputError, MissingDataset

_LISTS = (("list_train.txt", "list_val.txt"), ("list_query.txt",), ("list_gallery.txt",))
# identity, image, camera, time of day, frame, box; then the number of the identity
_LINE = re.compile(r"(?:\S*/)?\d+_\d+_0*([1-9]\d*)_\w+?_(\d+)_\S+\s+(\d+)(?:\s.*)?")


def read_msmt17(root: str | Path) -> Records:
    """Read MSMT17 V1 or V2 by its list files; `list_val.txt` is a share of the train part.

    The dataset numbers the identities of train and those of test from 0. A pid is the digit 1 and
    the number for train, 2 and the number for test: the numbers 0, 1 and 10 of train are 10, 11 and
    110. So no pid is 0, none is of both parts, and strings of pids sort as those of FastReID.

    Raises:
        MissingDataset: there is no such folder, or it lacks list files.
        InputError: a line is not an image and its identity, or images are missing.
    """
    home, layout = find(root, "msmt17")
    if lacking := [name for names in _LISTS for name in names if not (home / name).is_file()]:
        raise MissingDataset(
            f"MSMT17 at {home} lacks {', '.join(lacking)}. Copy them beside {layout.folders[0]}."
        )
    train, query, gallery = (
        _read_lists([home / name for name in names], home / folder, digit)
        for names, folder, digit in zip(_LISTS, layout.folders, "122", strict=True)
    )
    require_files((r.path for r in (*train, *query, *gallery)), home / "list_*.txt")
    return checked(Records(train, query, gallery), home, layout)


def _read_lists(files: list[Path], folder: Path, digit: str) -> tuple[ImageRecord, ...]:
    records = {}
    for file in files:
        lines = file.read_text(encoding="utf-8-sig", errors="replace").splitlines()
        for number, line in enumerate(map(str.strip, lines), 1):
            if found := _LINE.fullmatch(line):
                path = os.path.join(folder, line.split()[0])
                camera, frame, pid = map(int, found.groups())
                records[path] = ImageRecord(path, int(f"{digit}{pid}"), camera, frame=frame)
            elif line:
                example = f"{LAYOUTS[0].example} 0"
                raise InputError(f"line {number} of {file} is {line[:80]!r}; expected {example}.")
    return tuple(records[path] for path in sorted(records))
