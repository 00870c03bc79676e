"""A run folder as data: what is there, and how to get what is not."""

import csv
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from camreid.errors import InputError
from camreid.evaluation.features import FeatureTable
from camreid.runs.comparing.contents import FEATURE_NOTES, HEAD_CHECK, METRICS, ORIGIN_NOTES
from camreid.runs.comparing.forms import FormError
from camreid.runs.report.files import (
    Trying,
    job_name,
    json_of,
    metrics_parts,
    read_config,
    read_file,
    read_overrides,
    require_run,
)


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
        own: whether that checkpoint is of this run, and not one that it tested alone.
        features: of the test, None where they were not saved.
        missing: what is not there, and how to get it, a sentence or two each.
        broken: what is wrong with files that can't be read, a paragraph each.
    """

    path: Path
    metrics: dict[str, Any] | None
    curves: Mapping[str, list[tuple[float, float]]]
    head_check: dict[str, Any] | None
    config: str
    overrides: tuple[str, ...]
    command: str
    notes: Mapping[str, Any]
    own: bool
    features: FeatureTable | None
    missing: tuple[str, ...]
    broken: tuple[str, ...] = ()

    @property
    def has_something(self) -> bool:
        """Whether there is anything to be shown but notes."""
        parts = (self.metrics, self.curves, self.head_check, self.config)
        return any(parts) or self.features is not None

    @property
    def split(self) -> Mapping[str, Any]:
        """Digest and strategy of the split that was tested or trained on."""
        tested = {} if self.features is None else self.features.notes
        trained = self.notes if self.own else {}
        said = ((content or {}).get("split") for content in (self.metrics, tested, trained))
        return next(filter(None, said), {})

    @property
    def origin(self) -> Mapping[str, Any]:
        """Commit and versions that this run is of; empty where they are not known."""
        return (self.metrics or {}).get("origin") or (self.notes if self.own else {})


def read_run(path: Path) -> Run:
    """Read a run folder, whether the run is finished or not; what is broken is left out.

    Raises:
        InputError: the folder is not that of a run.
    """
    require_run(path)
    tried = Trying()
    metrics = tried(lambda: read_file(path / "metrics.json", json_of(METRICS)))
    head_check = tried(lambda: read_file(path / "head_check.json", json_of(HEAD_CHECK)))
    curves = read_curves(path, tried)
    weights = _weights(path, metrics)
    notes, missing = _notes(weights)
    own = weights is not None and weights.resolve().parent == (path / "checkpoints").resolve()
    overrides = tried(lambda: read_overrides(path)) or ()
    job = tried(lambda: job_name(path, "camreid-train"))
    command = shlex.join([job, *overrides]) if job and overrides else ""
    config = tried(lambda: read_config(path))
    features = tried(lambda: _features(path, metrics))
    said, trained = (metrics or {}).get("origin"), notes if own else {}
    return Run(
        path=path,
        metrics=metrics,
        curves=curves,
        head_check=head_check,
        config=config or str(trained.get("config") or ""),
        overrides=overrides,
        command=command or str((said or trained).get("command") or ""),
        notes=notes,
        own=own,
        features=features,
        missing=(*_absent(path, metrics), *missing),
        broken=tried.broken,
    )


def read_curves(folder: Path, tried: Trying) -> dict[str, list[tuple[float, float]]]:
    """The numbers logged by epoch, with the files that a continued run has put aside."""
    curves: dict[str, dict[float, float]] = {}
    paths = [*folder.glob("metrics.csv"), *reversed(metrics_parts(folder))]
    for path in paths:  # of two, the later number
        for name, epoch, value in tried(lambda path=path: read_file(path, _points)) or ():  # type: ignore[misc]
            curves.setdefault(name, {}).setdefault(epoch + 1, value)
    return {name: sorted(points.items()) for name, points in curves.items()}


def _points(text: str) -> list[tuple[str, float, float]]:
    """(name, epoch, value) of what was logged, the last first."""
    found = []
    epoch = ""
    rows = list(csv.DictReader(text.splitlines()))
    for row in reversed(rows):  # the learning rate is logged before its epoch is
        if None in row:
            raise FormError(f"a line has {len(row[None])} cells more than there are columns")
        epoch = row.get("epoch") or epoch
        found += [
            (name, _number(epoch, "epoch"), _number(value, name))
            for name, value in row.items()
            if value and epoch and name not in ("epoch", "step") and "test/" not in name
        ]
    return found


def _number(cell: str, name: str) -> float:
    try:
        return float(cell)
    except ValueError as error:
        raise FormError(f"{cell!r} is under {name}, expected a number") from error


def _weights(path: Path, metrics: Mapping[str, Any] | None) -> Path | None:
    """The checkpoint that was tested, or the last that was written."""
    named = (metrics or {}).get("weights")
    here = [path / "checkpoints" / f"{name}.ckpt" for name in ("best", "last")]
    known = [*([Path(named)] if named else []), *here]
    return next((p for p in known if p.is_file()), None)


def _notes(weights: Path | None) -> tuple[Mapping[str, Any], tuple[str, ...]]:
    if weights is None:
        return {}, ("There is no checkpoint to say versions and commit of the weights.",)
    try:
        content = torch.load(weights, map_location="cpu", weights_only=True)
        notes = content["camreid"]
        ORIGIN_NOTES(notes, "camreid")
    except FormError as error:
        return {}, (f"Versions and commit of the weights are not known: in {weights}, {error}.",)
    except Exception as error:  # a checkpoint may hold anything, and is not needed for the page
        return {}, (
            f"Versions and commit of the weights are not known, as {weights} is not what a "
            f"run writes ({type(error).__name__}).",
        )
    return notes, ()


def _features(path: Path, metrics: Mapping[str, Any] | None) -> FeatureTable | None:
    """Those of the folder, or those that it ranked again.

    Raises:
        InputError: the file is broken.
    """
    ranked = (metrics or {}).get("features")
    known = [path / "features.safetensors", *([Path(ranked)] if ranked else [])]
    found = next((p for p in known if p.is_file()), None)
    return None if found is None else load_features(found)


def load_features(path: Path) -> FeatureTable:
    """Features whose notes are as a run writes them.

    Raises:
        InputError: the file is broken.
    """
    table = FeatureTable.load(path)
    try:
        FEATURE_NOTES(table.notes, "")
    except FormError as error:
        raise InputError(
            f"{path} has notes that a run does not write: {error}. Run camreid-evaluate again "
            "with evaluation.save_features=true, and report on its folder."
        ) from error
    return table


def _absent(path: Path, metrics: Mapping[str, Any] | None) -> tuple[str, ...]:
    """What a finished run would have."""
    last, best = (path / "checkpoints" / f"{name}.ckpt" for name in ("last", "best"))
    evaluate = f"camreid-evaluate checkpoint={best if best.exists() else last} +split=..."
    if not (path / "metrics.json").is_file():
        how = "No epoch was kept: start the run anew."
        if last.exists() or best.exists():
            how = (
                f"To finish it, type its command again with resume={last}; to test the weights "
                f"as they are, {evaluate}."
            )
        return (f"This run has not been tested: there is no metrics.json. {how}",)
    ranked = str((metrics or {}).get("features") or "")
    if not (path / "features.safetensors").is_file() and not (ranked and Path(ranked).is_file()):
        return (
            "There is no features.safetensors, so CMC curves and ranked lists are left "
            f"out. To get them, type {evaluate} with evaluation.save_features=true, and report on "
            "its folder.",
        )
    return ()
