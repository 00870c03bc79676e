"""A split as data: the images of each subset, and a readable file of them."""

import csv
import hashlib
import io
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cache, cached_property
from itertools import zip_longest
from pathlib import Path
from typing import Any

from camreid.data.records import LARGEST, ImageRecord, Images, identities, parse_name, require_files
from camreid.errors import InputError
from camreid.files import write_text
from camreid.labels import LabelMap
from camreid.provenance import Dataset, SplitRecord

SUBSETS = ("train", "val", "query", "gallery")
COLUMNS = ("subset", "path", "pid", "camera", "row")


@dataclass(frozen=True)
class Split:
    """The images of train and test, and the identities of `train` in row order."""

    train: tuple[ImageRecord, ...]
    val: tuple[ImageRecord, ...]  # for model selection, each ranked against the others; or empty
    query: tuple[ImageRecord, ...]
    gallery: tuple[ImageRecord, ...]  # with distractors (pid 0)
    labels: LabelMap
    record: SplitRecord = field(default=SplitRecord("custom"), compare=False)  # with the digest
    datasets: tuple[Dataset, ...] = field(default=(), compare=False)  # names behind the numbers
    skipped: int = field(default=0, compare=False)  # images that cannot be read and are left out

    def __post_init__(self) -> None:
        object.__setattr__(self, "record", replace(self.record, digest=self.digest))

    @cached_property
    def digest(self) -> str:
        """Hash of the content, whatever the order of the images and the place of the dataset."""
        rows = sorted(f"{s},{r.name},{r.pid},{r.camera},{row}" for s, r, row in self._images())
        return hashlib.sha256("\n".join(rows).encode()).hexdigest()[:16]

    @property
    def camera_labels(self) -> dict[int, LabelMap]:
        """The identities of each camera of `train`, in the order of `labels`."""
        pairs = sorted({(r.camera, r.pid) for r in self.train})
        return {c: self.labels & LabelMap.of(p for k, p in pairs if k == c) for c, _ in pairs}

    @cached_property
    def rankable(self) -> dict[str, int]:
        """Number of images of `val` and of `query` with a match under the protocol of each."""
        pairs = {(r.pid, r.camera) for r in self.gallery}
        cameras = Counter(pid for pid, _ in pairs)
        query = sum(cameras[r.pid] > ((r.pid, r.camera) in pairs) for r in self.query if r.pid > 0)
        return {"val": count_rankable(self.val), "query": query}

    @property
    def val_within_camera(self) -> bool:
        """Whether all of `val` is of one camera, so that it can't be ranked across cameras."""
        return len({r.camera for r in self.val}) == 1

    def save(self, path: str | Path) -> None:
        """Write the manifest: CSV with the columns subset, path, pid, camera, row (empty: none)."""
        text = io.StringIO()
        rows = csv.writer(text, lineterminator="\n")
        rows.writerow(COLUMNS)
        for subset, r, row in self._images():
            rows.writerow((subset, os.path.abspath(r.path), r.pid, r.camera, row))
        write_text(path, text.getvalue())

    @classmethod
    def load(
        cls, path: str | Path, root: Any = None, datasets: Any = (), outside_root: bool = False
    ) -> "Split":
        """Read a manifest as written by `save`, or by hand; missing rows are in FastReID order.

        With `root`, images are searched in it and in each folder in it; other images that are at
        their path are refused without `outside_root`. InputError if a column, value or image is
        missing, or train, val or query has pid -1 or 0.
        """
        path = Path(path)
        if not path.is_file():
            raise InputError(f"no split manifest at {path}; every run folder has one, split.csv.")
        parts: dict[str, list[ImageRecord]] = {subset: [] for subset in SUBSETS}
        rows: dict[int, int] = {}
        for place, line in read_table(path, COLUMNS[:-1]):
            record = _record(place, line)
            parts[line["subset"]].append(record)
            if line.get("row"):
                rows[record.pid] = int(line["row"])
        train, val, query, gallery = _locate(path, [*parts.values()], root, outside_root)
        made = SplitRecord("manifest", {"path": str(path)})
        return cls(train, val, query, gallery, _labels(path, train, rows), made, datasets)

    def _images(self) -> Iterator[tuple[str, ImageRecord, int | str]]:
        rows = {pid: row for row, pid in enumerate(self.labels.pids)}
        for subset in SUBSETS:
            for record in getattr(self, subset):
                yield subset, record, rows.get(record.pid, "")


def count_rankable(records: Sequence[ImageRecord]) -> int:
    """Number of images with a match among the others: in another camera, or in their only one."""
    pairs = {(r.pid, r.camera) for r in records}
    one_camera = len({camera for _, camera in pairs}) == 1
    found = Counter(r.pid for r in records) if one_camera else Counter(pid for pid, _ in pairs)
    return sum(found[r.pid] > 1 for r in records)


def read_table(path: Path, columns: Sequence[str]) -> Iterator[tuple[str, dict[str, str]]]:
    """Place and stripped values by column of each line of CSV; "" for those beyond the header.

    UTF-8 with comma, ; or tab. InputError without one of the `columns`.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            header = file.readline().strip()
            file.seek(0)
            rows = csv.reader(file, delimiter=max(",;\t", key=header.count))
            own = [name.strip().lower() or "-" for name in next(rows, [])]
            if missing := [name for name in columns if name not in own]:
                found = f"{path} lacks {', '.join(missing)}: its first line is {header[:80]!r}"
                raise InputError(f"{found}; expected a header with {','.join(columns)}.")
            for row in filter(any, rows):
                values = zip_longest(own, map(str.strip, row), fillvalue="")
                yield f"line {rows.line_num} of {path}", dict(values)
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path} is not CSV in UTF-8 ({error}). Save it as that.") from error


def _record(place: str, line: dict[str, str]) -> ImageRecord:
    subset, image = line["subset"], line["path"]
    try:
        pid, camera, row = int(line["pid"]), int(line["camera"]), int(line.get("row") or 0)
        good = -1 <= pid <= LARGEST and 1 <= camera <= LARGEST and row >= 0
    except ValueError:
        good = False
    if not good or not image or subset not in SUBSETS:
        found = f"{place} reads {','.join(line.values())[:200]}; expected {','.join(COLUMNS)}:"
        raise InputError(f"{found} subset {', '.join(SUBSETS)}; pid -1..2**63-1; camera from 1.")
    if pid < 1 and subset != "gallery":
        found = f"{place} puts pid {pid} into {subset}; -1 (junk) and 0 (distractor) are of the"
        raise InputError(f"{found} gallery. Delete such lines; if pids start at 0, add 1 to each.")
    parsed = parse_name(image)  # replace() is slow
    return ImageRecord(image, pid, camera, *((parsed.sequence, parsed.frame) if parsed else ()))


def _locate(path: Path, parts: list[list[ImageRecord]], root: Any, outside: bool) -> list[Images]:
    """The records with the path at which each image was found."""
    folders = [] if root is None else [str(root), *map(str, sorted(Path(root).glob("*/")))]
    homes = [(home, os.path.join(os.path.realpath(home), "")) for home in folders]
    files = cache(_files)

    @cache
    def places(own: str) -> list[tuple[str, str]]:
        """Folders that may stand for an image's own one, each with the folder it must be in."""
        pairs = [(own, home) for _, home in homes[:1] if own]
        pairs += [(f"{at}/{p}", home) for at, home in homes for p in (own, Path(own).name)]
        inside = [(os.path.join(os.path.normpath(place), ""), home) for place, home in pairs]
        return inside + [(own, "")] * (outside or root is None)

    lost, origins = list[str](), dict[str, str]()

    def located(r: ImageRecord) -> ImageRecord:
        cut = r.path.rfind("/") + 1 or r.path.rfind(os.sep) + 1
        own, name = r.path[:cut], r.path[cut:]
        place = next((place for place, home in places(own) if name in files(place, home)), None)
        if place is None:
            lost.append(r.path)
        elif homes and origins.setdefault(f"{place}{name}", r.path) != r.path:
            message = f"{path} lists images of equal names, so root={root} can't be searched for"
            raise InputError(f"{message} them. Write their present paths into it.")
        return r if place in (None, own) else replace(r, path=f"{place}{name}")

    found = [tuple(map(located, part)) for part in parts]
    if lost:
        require_files(lost, path, f"Nor are they below root={root}." * bool(root), root="FOLDER")
        message = f"{path} lists {len(lost)} images outside root={root}, such as {lost[0]}."
        raise InputError(message, outside_root=True)
    return found


def _files(folder: str, home: str) -> set[str]:
    """The files in a folder; with `home`, without those that links or `..` lead out of it."""
    real = cache(lambda path: os.path.join(os.path.realpath(path), "") if home else "")
    with suppress(OSError, ValueError), os.scandir(folder or ".") as entries:
        own = ((e.name, e.path if e.is_symlink() else folder) for e in entries if e.is_file())
        return {name for name, path in own if real(path).startswith(home)}
    return set()


def _labels(path: Path, train: Sequence[ImageRecord], rows: dict[int, int]) -> LabelMap:
    if not rows:
        return LabelMap.of(identities(train), order="fastreid")
    ordered = sorted(rows, key=rows.__getitem__)
    without = [pid for pid in identities(train) if pid not in rows]
    if [rows[pid] for pid in ordered] != list(range(len(ordered))) or without:
        found = f"the column row of {path} gives {len(rows)} identities a row, {len(without)} none"
        raise InputError(f"{found}; expected one for each of train, from 0 without gaps.")
    return LabelMap(tuple(ordered))
