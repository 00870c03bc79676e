"""The files of a run folder: the one place that reads and writes them."""

import csv
import io
import json
import os
from collections.abc import Callable
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import yaml

from camreid.data import Split
from camreid.errors import InputError
from camreid.evaluation import FeatureTable, RankingResult
from camreid.files import read_plain, write_text
from camreid.provenance import BROKEN, Dataset
from camreid.runs.matrix import Matrix
from camreid.runs.metrics import HeadCheckRecord, Metrics, as_config

T = TypeVar("T")
R = TypeVar("R", HeadCheckRecord, Matrix, Metrics)
_METRICS = ("metrics.before.csv", "metrics.csv")


class RunFolder:
    """A run folder; its files are read on first use, with InputError for a broken one."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.name = str(path)

    def __str__(self) -> str:
        return self.name

    @classmethod
    def existing(cls, path: str | Path) -> "RunFolder":
        """The folder of a run; InputError for one without any file of a run."""
        files = ("config.yaml", Metrics.file, Matrix.file)
        if not any((Path(path) / name).is_file() for name in files):
            raise InputError(f"{path} is no run folder: expected one of {', '.join(files)} in it.")
        return cls(path)

    @cached_property
    def config(self) -> dict[str, Any]:
        """The resolved config; empty where there is none."""
        parse = lambda text: as_config(read_plain(text, yaml.safe_load))  # noqa: E731
        return _read(self.path / "config.yaml", parse, {})

    @cached_property
    def metrics(self) -> Metrics | None:
        """The numbers of the test; None without the file."""
        return self._record(Metrics)

    @cached_property
    def head_check(self) -> HeadCheckRecord | None:
        """The head check; None without the file."""
        return self._record(HeadCheckRecord)

    @property
    def training(self) -> dict[str, Any]:
        """Of the tested weights: `split` and `head_check`, None if unknown, and `config`."""
        if self.metrics and self.metrics.training:
            return self.metrics.training
        check = self.head_check.to_json() if self.head_check else None
        split = self.metrics.split if self.metrics and "checkpoint" not in self.config else None
        return {"split": split, "config": self.config, "head_check": check}

    @cached_property
    def datasets(self) -> tuple[Dataset, ...]:
        """The names behind the numbers of identities and cameras; empty without the file."""
        parse = lambda text: tuple(map(Dataset.from_json, read_plain(text)))  # noqa: E731
        return _read(self.path / "names.json", parse, ())

    @cached_property
    def matrix(self) -> Matrix | None:
        """The numbers of a matrix; None without the file."""
        return self._record(Matrix)

    @cached_property
    def ranked(self) -> tuple[FeatureTable, RankingResult] | None:
        """Features of the test, its own or those that it ranked again, and their ranking."""
        metrics = self.metrics
        path = Path((metrics and metrics.features) or self.path / "features.safetensors")
        if metrics is None or not os.path.isfile(path):  # False for a name that is too long
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
                known = 0 <= epoch < 10**9 and abs(value) < 10**99  # False for NaN
                if known and not name.endswith(("epoch", "step")) and "test/" not in name:
                    curves.setdefault(name, {}).setdefault(epoch + 1, value)
        return {name: sorted(points.items()) for name, points in sorted(curves.items())}

    @property
    def _metrics_lines(self) -> list[dict[str, float]]:
        """What was logged before the run was resumed, and since."""
        none: list[dict[str, float]] = []
        return [line for name in _METRICS for line in _read(self.path / name, _logged, none)]

    def gather_metrics(self, resuming: bool = False) -> None:
        """Join the parts; `resuming` keeps them aside, as the logger starts `metrics.csv` anew."""
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

    def write(self, record: HeadCheckRecord | Matrix | Metrics) -> Path:
        """Write a record whole; the path of its file."""
        path = self.path / record.file
        write_text(path, json.dumps(record.to_json(), indent=1, allow_nan=False) + "\n")
        return path

    def write_config(self, text: str, split: Split) -> None:
        """Write the resolved config, the manifest, and the names of identities and cameras."""
        write_text(self.path / "config.yaml", text)
        split.save(self.path / "split.csv")
        names = json.dumps([asdict(own) for own in split.datasets], indent=1, ensure_ascii=False)
        write_text(self.path / "names.json", names + "\n")

    def _record(self, kind: type[R]) -> R | None:
        def parse(text: str) -> R | None:
            record = kind.from_json(read_plain(text))
            used = [name for name, own in vars(kind).items() if isinstance(own, property)]
            _ = record.tables(), [getattr(record, name) for name in used]  # fails now, not later
            return record

        return _read(self.path / kind.file, parse, None)


def _logged(text: str) -> list[dict[str, float]]:
    rows = csv.DictReader(text.splitlines())
    return [{name: float(value) for name, value in row.items() if value} for row in rows]


def _read(path: Path, parse: Callable[[str], T], missing: T) -> T:
    try:
        return parse(path.read_text(encoding="utf-8")) if path.exists() else missing
    except (*BROKEN, OSError, csv.Error) as error:
        found = f"{path} is not a {path.name} of this version of camreid ({error!r})"
        raise InputError(f"{found}. Run its command again, in another folder.") from error
