"""A run folder as data: what is there, and how to get what is not."""

import csv
import json
import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import yaml

from camreid.checkpoints import read_checkpoint
from camreid.errors import InputError
from camreid.evaluation.features import FeatureTable

T = TypeVar("T")
# any of these makes a folder a run
_MARKS = ("config.yaml", "metrics.json", "metrics.csv", "features.safetensors", "head_check.json")


@dataclass(frozen=True)
class Run:
    """What a run folder holds.

    Attributes:
        path: the folder.
        metrics: `metrics.json`, None where the run was not tested.
        curves: (epoch, value) points by the name of the logged number.
        head_check: `head_check.json`, None where no head was checked.
        config: the resolved config as text, empty where it is not known.
        overrides: what was typed.
        command: the command, empty where it is not known.
        notes: of the checkpoint: split, versions, commit.
        features: of the test, None where they were not saved.
        missing: what is not there, and how to get it, a sentence or two each.
    """

    path: Path
    metrics: dict[str, Any] | None
    curves: Mapping[str, list[tuple[float, float]]]
    head_check: dict[str, Any] | None
    config: str
    overrides: tuple[str, ...]
    command: str
    notes: Mapping[str, Any]
    features: FeatureTable | None
    missing: tuple[str, ...]

    @property
    def split(self) -> Mapping[str, Any]:
        """Digest and strategy of the split that was tested or trained on."""
        known = (self.metrics or {}).get("split") or self.notes.get("split")
        return known or (self.features.notes.get("split") if self.features else None) or {}


def read_run(path: Path) -> Run:
    """Read a run folder, whether the run is finished or not.

    Raises:
        InputError: the folder is not that of a run, or one of its files is broken.
    """
    _require_run(path)
    metrics = _read(path / "metrics.json", _object("retrieval", "leak"))
    head_check = _read(path / "head_check.json", _object("unknown", "heads"))
    curves = read_curves(path)
    weights = _weights(path, metrics)
    notes, missing = _notes(weights)
    overrides = _read(path / ".hydra" / "overrides.yaml", _overrides) or ()
    hydra = _read(path / ".hydra" / "hydra.yaml", yaml.safe_load) or {}
    job = hydra.get("hydra", {}).get("job", {}).get("name", "camreid-train")
    command = shlex.join([job, *overrides]) if overrides else str(notes.get("command", ""))
    features = _features(path, metrics)
    return Run(
        path=path,
        metrics=metrics,
        curves=curves,
        head_check=head_check,
        config=_read(path / "config.yaml", str) or str(notes.get("config", "")),
        overrides=overrides,
        command=command,
        notes=notes,
        features=features,
        missing=(*_absent(path, metrics, features), *missing),
    )


def read_curves(folder: Path) -> dict[str, list[tuple[float, float]]]:
    """The numbers logged by epoch, with the files that a continued run has put aside."""
    aside = sorted(folder.glob("metrics.*.csv"), key=lambda p: p.suffixes[0])
    curves: dict[str, dict[float, float]] = {}
    for path in (*folder.glob("metrics.csv"), *reversed(aside)):  # of two, the later number
        epoch = ""
        rows = _read(path, lambda text: list(csv.DictReader(text.splitlines()))) or []
        for row in reversed(rows):  # the learning rate is logged before its epoch is
            epoch = row.get("epoch") or epoch
            _add_row(curves, {**row, "epoch": epoch}, path)
    return {name: sorted(points.items()) for name, points in curves.items()}


def _add_row(curves: dict[str, dict[float, float]], row: dict[str, str], path: Path) -> None:
    for name, value in row.items():
        if name in ("epoch", "step") or not value or not row.get("epoch") or "test/" in name:
            continue
        try:
            curves.setdefault(name, {}).setdefault(float(row["epoch"]) + 1, float(value))
        except ValueError as error:
            raise InputError(f"{path} holds {value!r} under {name}: expected a number.") from error


def _require_run(path: Path) -> None:
    if not path.is_dir():
        found = "is a file" if path.exists() else "is not there"
        raise InputError(f"{path} {found}; type the folder of a run, such as runs/RUN.")
    if any((path / mark).exists() for mark in (*_MARKS, "checkpoints")):
        return
    inside = sorted(p.name for p in path.iterdir() if any((p / mark).exists() for mark in _MARKS))
    if inside:
        typed = " ".join(str(path / name) for name in inside[:6])
        raise InputError(f"{path} is no run, but holds {len(inside)} of them; type {typed}.")
    raise InputError(
        f"{path} is no run: none of {', '.join(_MARKS)} is in it. Type the folder that "
        "camreid-train or camreid-evaluate wrote to, such as runs/RUN."
    )


def _read(path: Path, parse: Callable[[str], T]) -> T | None:
    """What a file says, None where there is none."""
    if not path.is_file():
        return None
    try:
        return parse(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError, csv.Error) as error:
        raise InputError(
            f"{path} ({path.stat().st_size} bytes) can't be read ({type(error).__name__}): it is "
            "cut short, or not what a run writes. Put it right, or move it away to report on the "
            "rest."
        ) from error


def _object(*keys: str) -> Callable[[str], dict[str, Any]]:
    """Reads JSON objects that have these keys."""

    def parse(text: str) -> dict[str, Any]:
        content = json.loads(text)
        if not isinstance(content, dict) or not set(keys) <= content.keys():
            raise ValueError(f"expected {', '.join(keys)}")
        return content

    return parse


def _overrides(text: str) -> tuple[str, ...]:
    return tuple(map(str, yaml.safe_load(text) or ()))


def _weights(path: Path, metrics: Mapping[str, Any] | None) -> Path | None:
    """The checkpoint that was tested, or the last that was written."""
    named = (metrics or {}).get("weights")
    here = [path / "checkpoints" / f"{name}.ckpt" for name in ("best", "last")]
    known = [*([Path(named)] if named else []), *here]
    return next((p for p in known if p.is_file()), None)


def _notes(weights: Path | None) -> tuple[Mapping[str, Any], tuple[str, ...]]:
    if weights is None:
        return {}, ("No checkpoint was found, so versions and commit are not known.",)
    try:
        return read_checkpoint(weights).notes, ()
    except InputError as error:
        return {}, (f"Versions and commit are not known: {error}",)


def _features(path: Path, metrics: Mapping[str, Any] | None) -> FeatureTable | None:
    """Those of the folder, or those that it ranked again."""
    ranked = (metrics or {}).get("features")
    known = [path / "features.safetensors", *([Path(ranked)] if ranked else [])]
    found = next((p for p in known if p.is_file()), None)
    return None if found is None else FeatureTable.load(found)


def _absent(
    path: Path, metrics: Mapping[str, Any] | None, features: FeatureTable | None
) -> tuple[str, ...]:
    """What a finished run would have."""
    last, best = (path / "checkpoints" / f"{name}.ckpt" for name in ("last", "best"))
    evaluate = f"camreid-evaluate checkpoint={best if best.exists() else last} +split=..."
    if metrics is None:
        how = "No epoch was kept: start the run anew."
        if last.exists() or best.exists():
            how = (
                f"To finish it, type its command again with resume={last}; to test the weights "
                f"as they are, {evaluate}."
            )
        return (f"This run has not been tested: there is no metrics.json. {how}",)
    if features is None:
        return (
            "There is no features.safetensors, so CMC and ROC curves and ranked lists are left "
            f"out. To get them, type {evaluate} with evaluation.save_features=true, and report on "
            "its folder.",
        )
    return ()
