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
from camreid.provenance import SplitRecord

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

    @property
    def lowest(self) -> dict[str, Any]:
        """The head with the lowest coverage, of those with identities to train."""
        return min(self.heads, key=lambda head: (not head["identities"], head["coverage"]))


@dataclass(frozen=True, kw_only=True)
class TestedRecord(Record):
    """What the numbers of a test come from.

    Attributes:
        evaluation: the options of the test.
        protocol: which gallery images a query sees.
        partial: whether only a part of the images was tested.
        split: the `SplitRecord` as JSON; None where it is unknown.
        origin: command, commit and versions.
    """

    evaluation: dict[str, Any]
    protocol: str = "cross-camera"
    partial: bool = False
    split: dict[str, Any] | None = None
    origin: dict[str, Any] | None = None

    @property
    def split_text(self) -> str:
        """The split in a few words."""
        return str(SplitRecord.from_json(self.split)) if self.split else "n/a"


@dataclass(frozen=True, kw_only=True)
class Metrics(TestedRecord):
    """`metrics.json`: the numbers of a test; shares are in 0..1.

    Attributes:
        retrieval: `mAP`, `mINP`, `rank1` ... over all valid queries.
        intervals: the 95 % interval of each.
        leak: the numbers over `all`, `seen` and `unseen` test identities.
        seen_complete: whether all training identities of the weights are known.
        dropped_queries: number of queries without a match.
        weights: the checkpoint; None for features without one.
        features: the file that was ranked, where no model was run.
        rows: classifier rows of the model.
        identity: closed-set `accuracy`, its `coverage` and `images`; None without a model.
        protocols: the numbers of each protocol; None where re-ranked.
        camera_pairs: mAP and Rank-1 of each query camera (rows) and gallery camera.
    """

    file = "metrics.json"
    retrieval: dict[str, float]
    intervals: dict[str, list[float | None]]
    leak: dict[str, dict[str, Any]]
    seen_complete: bool = True
    dropped_queries: int = 0
    weights: str | None = None
    features: str | None = None
    rows: int | None = None
    identity: dict[str, float] | None = None
    protocols: dict[str, dict[str, float]] | None = None
    camera_pairs: dict[str, Any] | None = None

    @property
    def rank_options(self) -> RankOptions:
        """The ranking part of `evaluation`."""
        known = {option.name for option in fields(RankOptions)}
        return RankOptions(**{k: v for k, v in self.evaluation.items() if k in known})


@dataclass(frozen=True, kw_only=True)
class Matrix(TestedRecord):
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
    compared: dict[str, Any]
    best: dict[str, dict[str, str | None]]
    differences: dict[str, dict[str, dict[str, float]]]
    left_out: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    @property
    def rows(self) -> dict[str, dict[str, Any]]:
        """All rows by name."""
        return {**self.experts, **self.baselines, **self.fusions}


R = TypeVar("R", bound=Record)


class RunFolder:
    """A run folder. Its content is read on first use, and None where the file is missing.

    Args:
        path: the folder; it need not exist to be written to.

    Raises:
        InputError: of every property: the file cannot be read.
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
        known = ("config.yaml", Metrics.file, Matrix.file)
        if not any((Path(path) / name).is_file() for name in known):
            runs = sorted(found.parent for found in Path(path).glob("*/config.yaml"))
            raise InputError(
                f"{path} is not a run folder: expected one of {', '.join(known)} in it"
                f"{f'; there are runs in it, such as {runs[0]}' if runs else ''}."
            )
        return cls(path)

    @property
    def split(self) -> Path:
        """The manifest of the split."""
        return self.path / "split.csv"

    @cached_property
    def config_text(self) -> str:
        """The resolved config as YAML; empty where there is none."""
        path = self.path / "config.yaml"
        return _read(path, str) if path.is_file() else ""

    @property
    def config(self) -> dict[str, Any]:
        """The resolved config; empty where there is none."""
        text = self.config_text
        return _read(self.path / "config.yaml", lambda _: dict(yaml.safe_load(text) or {}))

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
        metrics = self.metrics
        ranked = metrics and metrics.features
        path = Path(ranked) if ranked else self.path / "features.safetensors"
        if metrics is None or not path.is_file():
            return None
        table = FeatureTable.load(path)
        return table.normalized() if metrics.evaluation.get("normalize") else table

    @cached_property
    def result(self) -> RankingResult | None:
        """The ranking of `features`."""
        if self.features is None or self.metrics is None:
            return None
        return self.metrics.rank_options.rank(self.features)[0]

    @property
    def curves(self) -> dict[str, list[tuple[float, float]]]:
        """(epoch from 1, value) by the name of the logged number, without those of the test."""
        curves: dict[str, dict[float, float]] = {}
        epoch: float | None = None
        for line in reversed(self._metrics_lines):  # a learning rate has the epoch of the next line
            epoch = line.get("epoch", epoch)
            for name in [n for n in line if n not in ("epoch", "step") and "test/" not in n]:
                if epoch is not None:
                    curves.setdefault(name, {}).setdefault(epoch + 1, line[name])
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
        writer.writerows(lines)
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
            f"{path} is not a {path.name} of this version of camreid: found "
            f"{type(error).__name__}: {error}. Expected a file as a command wrote it: run the "
            "command again, in another folder."
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
