"""A run folder as data: what is there, and how to get what is not."""

import csv
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from camreid.checkpoints import read_checkpoint
from camreid.errors import InputError
from camreid.evaluation.features import FeatureTable
from camreid.reporting.files import job_name, object_with, read_file, read_overrides, require_run


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
    require_run(path)
    metrics = read_file(path / "metrics.json", object_with("retrieval", "leak"))
    head_check = read_file(path / "head_check.json", object_with("unknown", "heads"))
    curves = read_curves(path)
    weights = _weights(path, metrics)
    notes, missing = _notes(weights)
    overrides = read_overrides(path)
    job = job_name(path, "camreid-train")
    command = shlex.join([job, *overrides]) if overrides else str(notes.get("command", ""))
    features = _features(path, metrics)
    return Run(
        path=path,
        metrics=metrics,
        curves=curves,
        head_check=head_check,
        config=read_file(path / "config.yaml", str) or str(notes.get("config", "")),
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
        rows = read_file(path, lambda text: list(csv.DictReader(text.splitlines()))) or []
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
