"""The files of a run folder: their names, how they are read and how they are written."""

import csv
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Self, TypeVar

import yaml

from camreid.errors import InputError
from camreid.evaluation import FeatureTable, RankOptions
from camreid.files import write_text
from camreid.provenance import SplitRecord

T = TypeVar("T")


class Record:
    """The content of one JSON file; NaN is written as null."""

    file: ClassVar[str]

    def to_json(self) -> dict[str, Any]:
        """Nested plain values; NaN becomes None."""
        names = [f.name for f in fields(self)]  # type: ignore[arg-type]
        return {name: plain(getattr(self, name)) for name in names}

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Self:
        """From what `to_json` gave; TypeError or ValueError for anything else."""
        return cls(**content)


@dataclass(frozen=True)
class HeadCheckRecord(Record):
    """`head_check.json`.

    Attributes:
        unknown: the setting `model.unknown`.
        heads: the fields of each head's `HeadFit`.
        faults: why the run was refused.
    """

    file = "head_check.json"
    unknown: str
    heads: list[dict[str, Any]]
    faults: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Metrics(Record):
    """`metrics.json`: the numbers of a test; shares are in 0..1.

    Attributes:
        retrieval: `mAP`, `mINP`, `rank1` ... over all valid queries.
        intervals: the 95 % interval of each.
        leak: the numbers over `all`, `seen` and `unseen` test identities.
        evaluation: the options of the test.
        seen_complete: whether all training identities of the weights are known.
        partial: whether only a part of the images was tested.
        split: how the test was made.
        weights: the checkpoint; None for features without one.
        features: the file that was ranked, where no model was run.
        identity: closed-set accuracy; None without a classifier row for any image.
        protocols: the numbers of each protocol; None where re-ranked.
        camera_pairs: mAP and Rank-1 of each query camera (rows) and gallery camera.
        origin: command, commit and versions.
    """

    file = "metrics.json"
    retrieval: dict[str, float]
    intervals: dict[str, list[float | None]]
    leak: dict[str, dict[str, Any]]
    evaluation: dict[str, Any]
    seen_complete: bool = True
    partial: bool = False
    protocol: str = "cross-camera"
    precision: str = "float32"
    dropped_queries: int = 0
    split: dict[str, Any] | None = None
    weights: str | None = None
    features: str | None = None
    rows: int | None = None
    identity: dict[str, float] | None = None
    protocols: dict[str, dict[str, float]] | None = None
    camera_pairs: dict[str, Any] | None = None
    origin: dict[str, Any] | None = None

    @property
    def rank_options(self) -> RankOptions:
        """The ranking part of `evaluation`."""
        known = {option.name for option in fields(RankOptions)}
        return RankOptions(**{k: v for k, v in self.evaluation.items() if k in known})

    @property
    def split_text(self) -> str:
        """The split in a few words."""
        return str(SplitRecord.from_json(self.split)) if self.split else ""


@dataclass(frozen=True)
class Matrix(Record):
    """`matrix.json`: every row on every query camera.

    Attributes:
        experts: by name: `retrieval`, `intervals`, `by_camera`, `leak`, `seen_complete`, and of a
            checkpoint its path, `camera`, classifier `rows` and `coverage`.
        baselines: checkpoints that are not fused, likewise.
        fusions: the experts together, likewise.
        cameras: of the queries, 1-based.
        compared: the `identities` and `queries` that no row was trained on, and the numbers of the
            `rows` on them where they are not all.
        best: name of the expert with the largest `mAP` and `rank1`, by query camera and over `all`.
        differences: of each row from the best expert, with interval and p.
        left_out: fusions that these experts do not allow, with the reason.
        notes: limits of the comparison.
    """

    file = "matrix.json"
    experts: dict[str, dict[str, Any]]
    baselines: dict[str, dict[str, Any]]
    fusions: dict[str, dict[str, Any]]
    cameras: list[int]
    protocol: str
    evaluation: dict[str, Any]
    compared: dict[str, Any]
    best: dict[str, dict[str, str | None]]
    differences: dict[str, dict[str, dict[str, float]]]
    left_out: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    partial: bool = False
    split: dict[str, Any] | None = None
    origin: dict[str, Any] | None = None

    @property
    def rows(self) -> dict[str, dict[str, Any]]:
        """All rows by name."""
        return {**self.experts, **self.baselines, **self.fusions}


R = TypeVar("R", bound=Record)


class RunFolder:
    """A run folder. What it holds is read when it is asked for, and is None where it is missing.

    Args:
        path: the folder; it need not exist to be written to.

    Raises:
        InputError: of every property: the file cannot be read.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    @classmethod
    def existing(cls, path: str | Path) -> "RunFolder":
        """The folder of a run.

        Raises:
            InputError: no folder, or one without any file of a run.
        """
        folder = cls(path)
        if not folder.path.is_dir():
            found = "is a file" if folder.path.exists() else "does not exist"
            raise InputError(f"{path} {found}: expected a run folder, such as runs/RUN.")
        if not folder._is_run:
            runs = [p for p in sorted(folder.path.iterdir()) if p.is_dir() and cls(p)._is_run]
            inside = f"; there are runs in it, such as {runs[0]}" if runs else ""
            raise InputError(f"{path} is not a run folder{inside}.")
        return folder

    @property
    def _is_run(self) -> bool:
        known = (Metrics.file, HeadCheckRecord.file, Matrix.file, "config.yaml", "metrics.csv")
        more = ("checkpoints", "features", "features.safetensors")
        return any((self.path / name).exists() for name in (*known, *more))

    @property
    def split(self) -> Path:
        """The manifest of the split."""
        return self.path / "split.csv"

    @property
    def checkpoint(self) -> Path | None:
        """The best checkpoint, or the last."""
        kept = (self.path / "checkpoints" / f"{name}.ckpt" for name in ("best", "last"))
        return next(filter(Path.is_file, kept), None)

    @cached_property
    def config_text(self) -> str:
        """The resolved config as YAML; empty where there is none."""
        paths = (self.path / "config.yaml", self.path / ".hydra" / "config.yaml")
        return next((_read(path, str) for path in paths if path.is_file()), "")

    @cached_property
    def config(self) -> dict[str, Any]:
        """The resolved config; empty where there is none."""
        text = self.config_text
        return _parsed(self.path / "config.yaml", lambda: dict(yaml.safe_load(text) or {}))

    @cached_property
    def overrides(self) -> list[str]:
        """The arguments of the command."""
        path = self.path / ".hydra" / "overrides.yaml"
        return _read(path, yaml.safe_load) or [] if path.is_file() else []

    @cached_property
    def metrics(self) -> Metrics | None:
        """The numbers of the test."""
        return self._record(Metrics)

    @cached_property
    def head_check(self) -> HeadCheckRecord | None:
        """The head check."""
        return self._record(HeadCheckRecord)

    @cached_property
    def matrix(self) -> Matrix | None:
        """The numbers of a matrix."""
        return self._record(Matrix)

    @cached_property
    def features(self) -> FeatureTable | None:
        """Features of the test, its own or those that it ranked again."""
        ranked = self.metrics and self.metrics.features
        paths = [self.path / "features.safetensors", *([Path(ranked)] if ranked else [])]
        return next((FeatureTable.load(path) for path in paths if path.is_file()), None)

    @property
    def row_features(self) -> dict[str, Path]:
        """Feature files of a matrix by the name of their row."""
        return {p.stem: p for p in sorted((self.path / "features").glob("*.safetensors"))}

    @cached_property
    def curves(self) -> dict[str, list[tuple[float, float]]]:
        """(epoch from 1, value) by the name of the logged number; parts of a resumed run joined."""
        parts = sorted(self.path.glob("metrics.*.csv"), key=lambda p: int(p.name.split(".")[1]))
        curves: dict[str, dict[float, float]] = {}
        for path in (*parts, *self.path.glob("metrics.csv")):  # of two values, the later
            for name, epoch, value in _read(path, _points):
                curves.setdefault(name, {})[epoch + 1] = value
        return {name: sorted(points.items()) for name, points in curves.items()}

    def write(self, record: Record) -> Path:
        """Write a record whole; the path of its file."""
        path = self.path / record.file
        write_text(path, json.dumps(record.to_json(), indent=1, allow_nan=False) + "\n")
        return path

    def write_config(self, text: str) -> None:
        """Write the resolved config."""
        write_text(self.path / "config.yaml", text)

    def _record(self, kind: type[R]) -> R | None:
        path = self.path / kind.file
        return _read(path, lambda text: kind.from_json(json.loads(text))) if path.exists() else None


def _points(text: str) -> list[tuple[str, float, float]]:
    """(name, epoch, value) of all cells; a learning rate takes the epoch of the next line."""
    found: list[tuple[str, float, float]] = []
    epoch = ""
    for row in reversed(list(csv.DictReader(text.splitlines()))):
        epoch = row.pop("epoch") or epoch
        found += [
            (name, float(epoch), float(value))
            for name, value in row.items()
            if value and epoch and name != "step" and "test/" not in name
        ]
    return found[::-1]


def _read(path: Path, parse: Callable[[str], T]) -> T:
    return _parsed(path, lambda: parse(path.read_text(encoding="utf-8")))


def _parsed(path: Path, parse: Callable[[], T]) -> T:
    try:
        return parse()
    except (OSError, ValueError, TypeError, KeyError, yaml.YAMLError, csv.Error) as error:
        raise InputError(
            f"{path} is incomplete or was written by another version ({type(error).__name__}); "
            "run the command again, in another folder."
        ) from error


def plain(value: Any) -> Any:
    """Nested dicts and lists with None for NaN, which JSON does not have.

    >>> plain({"low": math.nan, "ends": (0.5, math.nan)})
    {'low': None, 'ends': [0.5, None]}
    """
    if isinstance(value, Mapping):
        return {str(name): plain(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [plain(part) for part in value]
    return None if isinstance(value, float) and math.isnan(value) else value
