"""The files of a run folder: the one place that reads and writes them."""

import csv
import io
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Self, TypeVar

import yaml

from camreid.errors import InputError
from camreid.evaluation import FeatureTable, RankingResult, RankOptions
from camreid.files import write_text

T = TypeVar("T")
_METRICS = ("metrics.before.csv", "metrics.csv")


class Record:
    """The content of one JSON file; NaN is written as null."""

    file: ClassVar[str]

    def to_json(self) -> dict[str, Any]:
        """Nested plain values; NaN becomes None."""
        return dict(plain(asdict(self)))  # type: ignore[call-overload]

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Self:
        """From what `to_json` gave; TypeError for other names."""
        return cls(**content)


@dataclass(frozen=True)
class HeadCheckRecord(Record):
    """`head_check.json`."""

    file = "head_check.json"
    unknown: str  # the setting `model.unknown`
    heads: list[dict[str, Any]]  # the fields of each head's `HeadFit`
    faults: list[str] = field(default_factory=list)  # why the run was refused

    @property
    def lowest(self) -> dict[str, Any]:
        """The head with the lowest coverage, of those with identities to train."""
        return min(self.heads, key=lambda head: (not head["identities"], head["coverage"]))


@dataclass(frozen=True, kw_only=True)
class Metrics(Record):
    """`metrics.json`: the numbers of a test; shares are in 0..1."""

    file = "metrics.json"
    retrieval: dict[str, float]  # mAP, mINP, rank1 ... over all valid queries
    intervals: dict[str, list[float | None]]  # of 95 %
    leak: dict[str, dict[str, Any]]  # the numbers over all, seen and unseen identities
    evaluation: dict[str, Any]  # the options of the test
    protocol: str = "cross-camera"
    partial: bool = False  # whether only a part of the images was tested
    seen_complete: bool = True  # whether all training identities of the weights are known
    dropped_queries: int = 0  # without a match
    weights: str | None = None  # the checkpoint; None for features without one
    features: str | None = None  # the file that was ranked, where no model was run
    rows: int | None = None  # of the classifier
    identity: dict[str, float] | None = None  # closed-set accuracy and its coverage
    protocols: dict[str, dict[str, float]] | None = None  # None where re-ranked
    camera_pairs: dict[str, Any] | None = None  # mAP, rank1: query cameras by gallery cameras
    split: dict[str, Any] | None = None  # a `SplitRecord`; None where it is unknown
    origin: dict[str, Any] | None = None  # command, commit and versions

    @property
    def rank_options(self) -> RankOptions:
        """The ranking part of `evaluation`."""
        known = {option.name for option in fields(RankOptions)}
        return RankOptions(**{k: v for k, v in self.evaluation.items() if k in known})


@dataclass(frozen=True, kw_only=True)
class Matrix(Record):
    """`matrix.json`: every row on every query camera."""

    file = "matrix.json"
    experts: dict[str, dict[str, Any]]  # numbers by name; of a checkpoint also path, camera, rows
    baselines: dict[str, dict[str, Any]]  # checkpoints that are not fused, likewise
    fusions: dict[str, dict[str, Any]]  # the experts together, likewise
    cameras: list[int]  # of the queries, 1-based
    compared: dict[str, Any]  # identities and queries that no row was trained on; rows on them
    strongest: str | None  # expert with the largest mAP on the compared identities
    differences: dict[str, dict[str, dict[str, float]]]  # of each row from the strongest expert
    evaluation: dict[str, Any]  # the options of the test, and below as in `Metrics`
    protocol: str
    partial: bool = False
    split: dict[str, Any] | None = None
    origin: dict[str, Any] | None = None
    left_out: dict[str, str] = field(default_factory=dict)  # fusions, with the reason
    notes: list[str] = field(default_factory=list)  # limits of the comparison

    @property
    def rows(self) -> dict[str, dict[str, Any]]:
        """All rows by name."""
        return {**self.experts, **self.baselines, **self.fusions}


R = TypeVar("R", bound=Record)


class RunFolder:
    """A run folder; it need not exist to be written to.

    Its content is read on first use, and None where a file is missing. Every property raises
    InputError where a file cannot be read.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    def __str__(self) -> str:
        return str(self.path)

    @classmethod
    def existing(cls, path: str | Path) -> "RunFolder":
        """The folder of a run.

        Raises:
            InputError: no folder, or one without any file of a run.
        """
        files = ("config.yaml", Metrics.file, Matrix.file)
        if not any((Path(path) / name).is_file() for name in files):
            runs = ", ".join(str(found.parent) for found in Path(path).glob("*/config.yaml"))
            runs = runs and f" There are runs in it: {runs}."
            raise InputError(f"{path} is no run folder: expected one of {', '.join(files)}.{runs}")
        return cls(path)

    @property
    def split(self) -> Path:
        """The manifest of the split."""
        return self.path / "split.csv"

    @cached_property
    def config(self) -> dict[str, Any]:
        """The resolved config; empty where there is none."""
        path = self.path / "config.yaml"
        return _read(path, lambda text: dict(yaml.safe_load(text))) if path.is_file() else {}

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
    def ranked(self) -> tuple[FeatureTable, RankingResult] | None:
        """Features of the test, its own or those that it ranked again, and their ranking."""
        metrics = self.metrics
        path = Path((metrics and metrics.features) or self.path / "features.safetensors")
        if metrics is None or not path.is_file():
            return None
        table = FeatureTable.load(path)
        table = table.normalized() if metrics.evaluation.get("normalize") else table
        return table, metrics.rank_options.rank(table)[0]

    @property
    def curves(self) -> dict[str, list[tuple[float, float]]]:
        """(epoch from 1, value) by the name of the logged number, without those of the test."""
        curves: dict[str, dict[float, float]] = {}
        epoch = -1.0
        for line in reversed(self._metrics_lines):  # a learning rate has the epoch of the next line
            epoch = line.get("epoch", epoch)
            for name, value in line.items():
                if epoch >= 0 and name not in ("epoch", "step") and "test/" not in name:
                    curves.setdefault(name, {}).setdefault(epoch + 1, value)
        return {name: sorted(points.items()) for name, points in sorted(curves.items())}

    @property
    def _metrics_lines(self) -> list[dict[str, float]]:
        """What was logged before the run was resumed, and since."""
        paths = [self.path / name for name in _METRICS]
        return [line for path in paths if path.is_file() for line in _read(path, _csv)]

    def gather_metrics(self, resuming: bool = False) -> None:
        """Join what was logged before a run was resumed, and since, in one file.

        Args:
            resuming: keep it aside, as the logger of a resumed run starts `metrics.csv` anew.
        """
        lines = self._metrics_lines
        if not lines:
            return
        other, path = (self.path / name for name in (reversed(_METRICS) if resuming else _METRICS))
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, sorted({name for line in lines for name in line}))
        writer.writeheader()
        writer.writerows({k: repr(v).removesuffix(".0") for k, v in line.items()} for line in lines)
        write_text(path, text.getvalue())
        other.unlink(missing_ok=True)

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


def _csv(text: str) -> list[dict[str, float]]:
    rows = csv.DictReader(text.splitlines())
    return [{name: float(value) for name, value in row.items() if value} for row in rows]


def _read(path: Path, parse: Callable[[str], T]) -> T:
    try:
        return parse(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, TypeError, KeyError, yaml.YAMLError, csv.Error) as error:
        raise InputError(
            f"{path} is not a {path.name} of this version of camreid ({error}). Run the command "
            "that writes it again, in another folder."
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
