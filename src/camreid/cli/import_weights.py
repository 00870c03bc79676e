"""camreid-import: another program's file as a camreid checkpoint."""

import json
import signal
from collections import Counter
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from camreid.checkpoints.foreign.importing import Import, import_file
from camreid.checkpoints.foreign.rows import check_rows
from camreid.checkpoints.io import save
from camreid.cli import stopped
from camreid.cli.build import run_folder
from camreid.cli.dataset import read_dataset
from camreid.cli.terminal import show
from camreid.data import OriginalSplit, Split
from camreid.data.records import identities
from camreid.errors import HeadMismatch, InputError
from camreid.files import write_text
from camreid.labels import LabelMap, Order
from camreid.progress import note
from camreid.provenance import SplitRecord
from camreid.runs.folder import RunFolder
from camreid.training.module import ReIDModule


def import_run(config: DictConfig) -> None:
    """Import, show the use of every key, check the rows, write the checkpoint."""
    labels, split = read_labels(config.labels, config.source, config.data)
    name = str(HydraConfig.get().runtime.choices["model"])
    imported = _import(config, name, labels)
    module, anonymous = imported.module, imported.module.labels.is_anonymous
    show(
        f"Import {config.path} as {name}: names of {imported.generation}",
        f"Stem   max-pool padding {module.config.network.get('stem_padding', '-')}",
        *(f"Trunk  {note}" for note in imported.notes),
        f"Keys   {len(imported.loaded)} loaded, {len(imported.needless)} not needed, "
        f"{len(imported.left_over)} left over, {len(imported.missing)} missing",
        f"Head   {len(module.labels)} rows{', without labels' if anonymous else ''}",
    )
    checked = split is not None and _check(config.labels.check, module, split)
    if split:
        module.provenance = replace(module.provenance, split=split.record, datasets=split.datasets)
    elif config.labels.camera is not None:
        record = SplitRecord("custom", {"camera": config.labels.camera})
        module.provenance = replace(module.provenance, split=record)
    out = run_folder() / "checkpoints" / "imported.ckpt"
    save(module.cpu(), out, {"imported": str(config.path), "generation": imported.generation})
    account = {f.name: getattr(imported, f.name) for f in fields(imported) if f.name != "module"}
    account |= {"rows": len(module.labels), "anonymous": anonymous, "rows_checked": checked}
    write_text(run_folder() / "import.json", json.dumps(account, indent=1) + "\n")
    how = " model.unknown=reinit" if anonymous else ""
    show(f"Written to {out}", f"Train it with camreid-train +split=SPLIT init={out}{how}")


def _import(config: DictConfig, name: str, labels: LabelMap | None) -> Import:
    """The file as a model; HeadMismatch names the cameras of `labels.root` with as many rows."""
    typed = [a.partition("=")[0].lstrip("+") for a in HydraConfig.get().overrides.task]
    keys = [key.removeprefix("model.") for key in typed if key.startswith("model.")]
    options = {key.replace(".", "__"): OmegaConf.select(config.model, key) for key in keys}
    options |= {"stem_padding": config.stem_padding, "allow_partial": config.allow_partial}
    note(f"Reading {config.path}")
    try:
        return import_file(config.path, config.source, name, labels, **options)
    except HeadMismatch as error:
        if error.rows is None or config.labels.root is None or config.labels.manifest is not None:
            raise
        train = read_dataset(config.data, config.labels.root).train
        counts = Counter(camera for camera, _ in {(r.camera, r.pid) for r in train})
        parts: dict[Any, int] = {**dict(sorted(counts.items())), "null": len(identities(train))}
        fit = [f"labels.camera={camera}" for camera, n in parts.items() if n == error.rows]
        found = ", ".join(f"{n} of labels.camera={camera}" for camera, n in parts.items())
        hint = f"The head fits {' or '.join(fit)}." if fit else f"There are {found}."
        raise HeadMismatch(f"{error} {hint}") from error


def _check(wanted: bool, module: ReIDModule, split: Split) -> bool:
    """Whether the rows were checked; HeadMismatch if they belong to other identities."""
    try:
        if wanted:
            show(check_rows(module, module.labels, split.train))
            return True
    except KeyboardInterrupt:
        if stopped[-1:] not in ([], [signal.SIGINT]):  # only Ctrl+C leaves the check out
            raise
        stopped.clear()
    reason = "interrupted" if wanted else "labels.check=false"
    show(f"UNCHECKED ROWS ({reason}): it is unknown whether they belong to these identities.")
    return False


def read_labels(
    config: DictConfig, source: str, data: DictConfig
) -> tuple[LabelMap | None, Split | None]:
    """The identities of the rows; their split where it is known."""
    given = {str(key) for key, value in config.items() if value is not None} - {"check"}
    if not given:
        return None, None
    if "pids" in given and given <= {"pids", "camera"}:
        try:
            pids = map(int, Path(config.pids).read_text(encoding="utf-8").split())
            return LabelMap(tuple(pids)), None
        except (OSError, ValueError) as error:
            expected = "expected one pid per line, in row order"
            raise InputError(f"labels.pids={config.pids}: {error}; {expected}.") from error
    if "manifest" in given and given <= {"manifest", "root", "outside_root"}:
        datasets = RunFolder(Path(config.manifest).parent).datasets
        split = Split.load(config.manifest, config.root, datasets, config.outside_root)
        return split.labels, split
    if "root" not in given or not given <= {"root", "camera", "order"}:
        found = " ".join(f"labels.{key}={config[key]}" for key in sorted(given))
        remedy = "labels.pids=FILE, labels.manifest=FILE or labels.root=FOLDER with labels.order="
        raise InputError(f"{found} do not go together. Type {remedy}.")
    order: Order = config.order or ("fastreid" if source == "fastreid" else "numeric")
    split = OriginalSplit(camera=config.camera)(read_dataset(data, config.root))
    return LabelMap.of(split.labels.pids, order=order), split
