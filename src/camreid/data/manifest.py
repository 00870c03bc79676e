"""A split as data: who trains, who is tested, and a readable file that says so."""

import csv
import hashlib
import os
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Literal

from camreid.data.filenames import parse_name
from camreid.data.records import ImageRecord, people
from camreid.errors import InputError
from camreid.labels import LabelMap
from camreid.provenance import SplitRecord

Subset = Literal["train", "val", "query", "gallery"]
SUBSETS: tuple[Subset, ...] = ("train", "val", "query", "gallery")
COLUMNS = ("subset", "path", "pid", "camera", "row")


@dataclass(frozen=True)
class Split:
    """Who trains and who is tested.

    Attributes:
        train: images to learn from.
        val: images for model selection, each ranked against all the others; may be empty.
        query: images to look for.
        gallery: images to look in, distractors (pid 0) among them.
        labels: the identities of `train` in row order.
        record: how the split was made, and its digest; no part of its content.
    """

    train: tuple[ImageRecord, ...]
    val: tuple[ImageRecord, ...]
    query: tuple[ImageRecord, ...]
    gallery: tuple[ImageRecord, ...]
    labels: LabelMap
    record: SplitRecord = field(default=SplitRecord("custom"), compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "record", replace(self.record, digest=self.digest))

    @property
    def strategy(self) -> str:
        """Deprecated: `record` as text, without the digest."""
        return str(replace(self.record, digest=None))

    @cached_property
    def digest(self) -> str:
        """Hash of the content: subset, folder/name, pid, camera and row of every image.

        It does not depend on where the dataset lies or on the order of the images.
        """
        rows = sorted(
            f"{subset},{r.name},{r.pid},{r.camera},{self._row(r)}" for subset, r in self._images()
        )
        return hashlib.sha256("\n".join(rows).encode()).hexdigest()[:16]

    @cached_property
    def rankable(self) -> dict[str, int]:
        """How many images of `val` and of `query` have a match under the protocol of each."""
        gallery = {(r.pid, r.camera) for r in self.gallery}
        cameras = defaultdict(set)
        for pid, camera in gallery:
            cameras[pid].add(camera)
        query = sum(bool(cameras[r.pid] - {r.camera}) for r in self.query if r.pid > 0)
        return {"val": count_rankable(self.val), "query": query}

    @property
    def val_within_camera(self) -> bool:
        """Whether all of `val` is of one camera, so that it can't be ranked across cameras."""
        return len({r.camera for r in self.val}) == 1

    def save(self, path: str | Path) -> None:
        """Write the manifest: CSV with the columns subset, path, pid, camera, row (empty: none)."""
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        draft = path.with_name(f"{path.name}.{os.getpid()}.part")
        with draft.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(COLUMNS)
            for subset, r in self._images():
                writer.writerow((subset, os.path.abspath(r.path), r.pid, r.camera, self._row(r)))
        draft.replace(path)

    @classmethod
    def load(
        cls, path: str | Path, root: str | Path | None = None, *, present: bool = True
    ) -> "Split":
        """Read a manifest.

        Args:
            path: a file as written by `save`, or by hand; without rows, train identities get
                theirs in FastReID order.
            root: where to look for images that are not where the manifest says: for their
                `folder/name`, in `root` and in each folder of it.
            present: whether the images must be there, as they must to be read.

        Raises:
            InputError: a column, value or image file is missing.
        """
        lines = _read_lines(Path(path))
        images = [_record(Path(path), number, line) for number, line in lines]
        found = [image for _, image, _ in images]
        if present:
            found = _locate(found, root)
            _check_present(Path(path), found, root)
        parts: dict[str, list[ImageRecord]] = {subset: [] for subset in SUBSETS}
        for (subset, _, _), record in zip(images, found, strict=True):
            parts[subset].append(record)
        rows = {r.pid: row for subset, r, row in images if row is not None}
        labels = _labels(Path(path), parts["train"], rows)
        train, val, query, gallery = (tuple(parts[s]) for s in SUBSETS)
        made = SplitRecord("manifest", {"path": str(path)})
        return cls(train, val, query, gallery, labels, made)

    def _images(self) -> Iterator[tuple[Subset, ImageRecord]]:
        for subset in SUBSETS:
            for record in getattr(self, subset):
                yield subset, record

    def _row(self, record: ImageRecord) -> int | str:
        return self.labels.row(record.pid) if record.pid in self.labels else ""


def count_rankable(records: Sequence[ImageRecord]) -> int:
    """How many images have a match among the others: in another camera, or in their only one."""
    images = Counter(r.pid for r in records)
    cameras: dict[int, set[int]] = defaultdict(set)
    for record in records:
        cameras[record.pid].add(record.camera)
    if len({r.camera for r in records}) == 1:
        return sum(images[r.pid] > 1 for r in records)
    return sum(len(cameras[r.pid]) > 1 for r in records)


def _read_lines(path: Path) -> list[tuple[int, dict[str, str]]]:
    if not path.is_file():
        raise InputError(f"no split manifest at {path}; type split.manifest=FILE, a split.csv.")
    with path.open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        missing = [c for c in COLUMNS[:-1] if c not in (reader.fieldnames or ())]
        if missing:
            raise InputError(
                f"{path} is no split manifest: its header is {reader.fieldnames}, expected "
                f"{','.join(COLUMNS)} (row may be left out). Every run folder has one, split.csv."
            )
        return list(enumerate(reader, start=2))


def _record(
    path: Path, number: int, line: dict[str, str]
) -> tuple[Subset, ImageRecord, int | None]:
    subset = next((s for s in SUBSETS if s == line["subset"]), None)
    try:
        pid, camera = int(line["pid"]), int(line["camera"])
        row = int(line["row"]) if line.get("row") else None
    except (TypeError, ValueError):
        subset = None
    if subset is None or not line["path"]:
        raise InputError(
            f"line {number} of {path} reads {','.join(str(v) for v in line.values())}; expected "
            f"{','.join(COLUMNS)} with a subset of {', '.join(SUBSETS)} and whole numbers. "
            "Mend the line or make the manifest again."
        )
    name = parse_name(line["path"])
    sequence, frame = (name.sequence, name.frame) if name else (0, 0)
    return subset, ImageRecord(line["path"], pid, camera, sequence, frame), row


def _locate(records: list[ImageRecord], root: str | Path | None) -> list[ImageRecord]:
    """The records with the path at which each image was found, or as they are."""
    homes: list[Path] = []
    if root is not None and Path(root).is_dir():
        homes = [Path(root), *(Path(d.path) for d in os.scandir(root) if d.is_dir())]
        homes.sort(key=lambda home: not (home / records[0].name).exists() if records else 0)

    def at(record: ImageRecord) -> ImageRecord:
        places = (str(home / part) for home in homes for part in (record.name, record.path))
        path = next((p for p in (record.path, *places) if os.path.exists(p)), record.path)
        return ImageRecord(path, record.pid, record.camera, record.sequence, record.frame)

    return [at(record) for record in records]


def _check_present(path: Path, records: list[ImageRecord], root: str | Path | None) -> None:
    lost = [r.path for r in records if not os.path.exists(r.path)]
    if lost:
        raise InputError(
            f"{path} names {len(lost)} of {len(records)} images that are not there, such as "
            f"{', '.join(lost[:3])} (also looked for below data.root={root}). Type "
            "data.root=FOLDER with the folder that holds them, or make the manifest again."
        )


def _labels(path: Path, train: list[ImageRecord], rows: dict[int, int]) -> LabelMap:
    if not rows:
        return LabelMap.of(people(train), order="fastreid")
    ordered = sorted(rows, key=rows.__getitem__)
    without = [pid for pid in people(train) if pid not in rows]
    if [rows[pid] for pid in ordered] != list(range(len(ordered))) or without:
        raise InputError(
            f"the rows of {path} are not one for each train identity, from 0 without gaps: "
            f"{len(rows)} people have rows {min(rows.values())}..{max(rows.values())}"
            + (f", pids {without[:3]} have none" if without else "")
            + ". Mend the column or leave it out."
        )
    return LabelMap(tuple(ordered))
