"""camreid-evaluate: the numbers of a checkpoint, of several, or of saved features on a split."""

import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
import yaml
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning.utilities import rank_zero_only

from camreid.cli import build
from camreid.cli.checkpoints import check_dataset, read_checkpoint, read_experts, seen_identities
from camreid.cli.terminal import show
from camreid.data import ReIDDataModule, Split
from camreid.errors import ImageError, InputError, MissingDataset
from camreid.evaluation.features import FeatureTable, doubts
from camreid.evaluation.summary import EvaluationResult, RankOptions
from camreid.models.network import FeatureOptions
from camreid.progress import note
from camreid.provenance import origin
from camreid.runs.folder import RunFolder
from camreid.runs.metrics import Metrics
from camreid.training.evaluation_loop import is_partial
from camreid.training.module import ReIDModule


def evaluate_run(config: DictConfig) -> None:
    """Rank the split's query and gallery by a checkpoint, or features that were saved."""
    if config.features is not None:
        rank_features(config)
        return
    build.seed(config)
    split = build.build_split(config)
    module = read_module(config, split)
    require_test(split, config.evaluation.protocol)
    data = build.build_data(config, split, module.config)
    trainer = build.build_trainer(config, logger=False)
    keep(config, split)
    show_parts(split, module)
    run_test(config, trainer, module, data)


def read_module(config: DictConfig, split: Split) -> ReIDModule:
    """The model of `checkpoint=`, with the notes of its training, ready for a test."""
    checkpoint = read_checkpoint(config.checkpoint, split.datasets)
    module = checkpoint.module()
    module.notes = checkpoint.notes
    if resize := config.get("interpolation"):
        module.config = replace(module.config, interpolation=resize)
    set_evaluation(module, config.evaluation)
    return module


def rank_features(config: DictConfig) -> None:
    """Rank the features of a file, without their model."""
    options = RankOptions.of(config.evaluation)
    if config.evaluation.flip or config.evaluation.neck != "after":
        raise InputError("evaluation.flip and evaluation.neck need checkpoint=, not features=.")
    table = FeatureTable.load(config.features)
    table = table.normalized() if config.evaluation.normalize else table
    device, seen = torch.device(build.device_type(config)), table.notes.get("seen") or ()
    (result, protocols), found = options.rank(table, device), options.decisions(table, device)
    tested = EvaluationResult(result, frozenset(seen), None, protocols, found)
    _report(config, table, tested, features=str(Path(config.features).resolve()))


@rank_zero_only
def keep(config: DictConfig, split: Split, row: str = "") -> None:
    """Config and manifest into the run folder, or into that of one `row` of several."""
    text = OmegaConf.to_yaml(config, resolve=True)
    RunFolder(build.run_folder() / row).write_config(text, split)


def show_parts(split: Split, module: ReIDModule) -> None:
    """Print what is tested or trained on, the model, and the run folder."""
    parts = {name: getattr(split, name) for name in ("train", "val", "query", "gallery")}
    counts = ", ".join(f"{len(images)} {name}" for name, images in parts.items())
    height, width = module.config.image_size
    for data in split.datasets:
        cameras = ", ".join(f"{n} {name}" for name, n in data.cameras.items() if name != str(n))
        show(f"Data   {data.name}" + f", cameras: {cameras}" * bool(cameras))
    show(
        f"Split  {split.record}",
        f"       {len(split.labels)} train identities; images: {counts}",
        f"Model  {module.config.name}, {len(module.labels)} rows, images {height} x {width}",
        f"Run    {build.run_folder()}",
    )


def run_test(
    config: DictConfig, trainer: pl.Trainer, module: ReIDModule, data: ReIDDataModule, row: str = ""
) -> None:
    """Test the best weights of this run, or those at hand; see `_report`."""
    best = getattr(trainer.checkpoint_callback, "best_model_path", "") or None
    note(f"Testing {best or 'these weights'}")
    try:
        trainer.test(module, data, ckpt_path=best, verbose=False)
    except ImageError as error:
        text = error.message.rpartition("Error: ")[2].strip()  # also of a loader process
        done = f" The training is complete: type camreid-evaluate checkpoint={best}." * bool(best)
        raise ImageError(text + done) from None
    finally:  # the features are kept even if their ranking fails
        if trainer.is_global_zero and module.test_features is not None:
            path = build.run_folder() / row / "features.safetensors"
            weights = best or config.get("checkpoint")
            table = keep_features(config, module, data.split, path, weights=weights)
    if trainer.is_global_zero and module.test_result is not None:
        split, notes = module.provenance.split, module.notes
        training = {"split": split and split.to_json(), "head_check": notes.get("head_check")}
        options = yaml.safe_load(str(notes.get("config", "{}")))
        training["config"] = options if isinstance(options, dict) else {}
        about = {"skipped_images": data.split.skipped, "training": training}
        _report(config, table, module.test_result, row, rows=len(module.labels), **about)


def keep_features(
    config: DictConfig, module: ReIDModule, split: Split, path: Path, **notes: object
) -> FeatureTable:
    """The features of the last test with notes, in a file if they are to be saved."""
    known, options = module.provenance, config.evaluation
    notes |= {"model": module.config.name, "split": split.record.to_json()}
    notes |= {"seen": sorted(known.seen), "seen_complete": known.complete}
    notes |= {"computed": vars(module.feature_options), "partial": is_partial(module.trainer)}
    assert module.test_features is not None
    table = replace(module.test_features, notes=notes)
    if options.save_features:
        table.save(path)
        note(f"Features {path}")
    return table


def _report(
    config: DictConfig, table: FeatureTable, result: EvaluationResult, row: str = "", **about: Any
) -> None:
    """Write metrics.json; unless it is of a `row` of several, print its tables and warnings."""
    known = table.notes
    about |= {key: known.get(key) for key in ("split", "weights")} | {"origin": origin()}
    about["evaluation"] = {**config.evaluation, **(known.get("computed") or {})}
    complete, partial = known.get("seen_complete", bool(result.seen)), bool(known.get("partial"))
    metrics = Metrics(**result.summary(), **about, seen_complete=complete, partial=partial)
    path = RunFolder(build.run_folder() / row).write(metrics)
    if not row:
        file = config.get("features") or config.get("checkpoint")
        title = "Test" + f" of {file}" * bool(file) + " on a part of the images only" * partial
        warnings = metrics.warnings(Path(metrics.weights or "the model").name)
        warnings += doubts(query=table.query.features, gallery=table.gallery.features)
        show(*metrics.tables(title), *warnings, f"Written to {path}")


def set_evaluation(module: ReIDModule, options: DictConfig) -> None:
    """What is compared in validation and test, and how."""
    module.rank_options = RankOptions.of(options)
    module.feature_options = FeatureOptions(options.flip, options.normalize, options.neck)
    module.val_metric.distance = module.test_metric.distance = options.metric


def require_test(split: Split, protocol: str = "cross-camera") -> None:
    """Refuse a split without query or gallery, or without any match under the protocol."""
    if not split.query or not split.gallery:
        found = f"{len(split.query)} query and {len(split.gallery)} gallery images"
        raise MissingDataset(f"the split has {found}. Type +split=resplit, or test=false.")
    if protocol == "cross-camera" and not split.rankable["query"]:
        found = f"none of the {len(split.query)} query images has a match in another camera"
        raise InputError(f"{found}. Type evaluation.protocol=within-camera, or test=false.")


def compare_checkpoints(
    paths: Sequence[str], command: list[str], finish: Callable[..., None], config: DictConfig
) -> None:
    """Test the checkpoints, or those of run folders, and `finish` with their folders and names."""
    sys.argv[1:] = command  # as it was typed, for the record
    build.seed(config)
    config.split = {"_target_": "camreid.data.OriginalSplit"}
    official = build.build_split(config)
    files = [checkpoint_of(path) for path in paths]
    experts = read_experts("RUN", files, by_camera=False, datasets=official.datasets)
    own = [expert.path for expert in experts.values()]
    if len(own) < 2:
        raise InputError(f"{own[0]} is the only checkpoint: expected two or more.")
    check_dataset(experts, config.data)
    split, words = unseen_test(config, official, own)
    trainer = build.build_trainer(config, logger=False)
    keep(config, split)
    show(f"Test   {words}", f"Run    {build.run_folder()}")
    for place, (name, config.checkpoint) in enumerate(zip(experts, own, strict=True), 1):
        show(f"Test of {name} ({place} of {len(own)}): {config.checkpoint}")
        keep(config, split, name)
        module = read_module(config, split)
        run_test(config, trainer, module, build.build_data(config, split, module.config), name)
    finish([build.run_folder() / name for name in experts], list(experts))


def checkpoint_of(path: str) -> str:
    """The checkpoint itself, or that of a run folder."""
    best = Path(path, "checkpoints", "best.ckpt")
    if not Path(path).is_dir() or best.is_file():
        return str(best) if best.is_file() else path
    if (metrics := RunFolder.existing(path).metrics) and metrics.weights:
        return metrics.weights
    raise InputError(f"{path} names no checkpoint: type that of its weights in its place.")


def unseen_test(config: DictConfig, official: Split, paths: list[str]) -> tuple[Split, str]:
    """The official test if no identity of it is seen, else one of all unseen identities."""
    seen = {*seen_identities(paths, official.datasets)}
    none = f"none of the {len(paths)} checkpoints was trained on"
    tested, pids = {record.pid for record in official.query}, official.labels.pids
    if tested and not tested & seen:
        return official, f"the official one; {none} any of its {len(tested)} identities"
    # a split has two train identities at least
    share = 2 / max(3, len(pids), len(tested)) if len(seen & {*pids}) < 2 else 0.002
    options = {"train_fraction": share, "val_fraction": 0.0, "exclude_seen": paths}
    config.split = {"_target_": "camreid.data.Resplit", **options}
    split = build.build_split(config)
    return split, f"re-split, {len({r.pid for r in split.query})} identities that {none}"
