"""camreid-evaluate: the numbers of a checkpoint or of saved features on a split."""

from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
import yaml
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning.utilities import rank_zero_only

from camreid.cli import build
from camreid.cli.checkpoints import read_checkpoint
from camreid.cli.provenance import origin
from camreid.cli.terminal import show
from camreid.data import ReIDDataModule, Split
from camreid.errors import InputError, MissingDataset
from camreid.evaluation.features import FeatureTable
from camreid.evaluation.options import RankOptions
from camreid.evaluation.summary import EvaluationResult
from camreid.models.network import FeatureOptions
from camreid.progress import note
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
    test(config, trainer, module, data, f"Test of {config.checkpoint}", None)


def read_module(config: DictConfig, split: Split) -> ReIDModule:
    """The model of `checkpoint=`, with the notes of its training, ready for a test."""
    checkpoint = read_checkpoint(config.checkpoint, split.datasets)
    module = checkpoint.module()
    module.notes = checkpoint.notes
    set_evaluation(module, config.evaluation)
    return module


def rank_features(config: DictConfig) -> None:
    """Rank the features of a file, without their model."""
    options = rank_options(config.evaluation)
    if config.evaluation.flip or config.evaluation.neck != "after":
        raise InputError(
            "evaluation.flip and evaluation.neck need a model: type checkpoint=, not features=."
        )
    table = FeatureTable.load(config.features)
    if config.evaluation.normalize:
        table = table.normalized()
    _warn(table)
    result, protocols = options.rank(table, torch.device(build.device_type(config)))
    seen = frozenset(table.notes.get("seen") or ())
    content = {
        "split": table.notes.get("split"),
        "features": str(Path(config.features).resolve()),
        "weights": table.notes.get("weights"),
        "seen_complete": table.notes.get("seen_complete", bool(seen)),
        "partial": bool(table.notes.get("partial")),
        "evaluation": {**config.evaluation, **(table.notes.get("computed") or {})},
        "origin": origin(),
    }
    tested = EvaluationResult(result, seen, protocols=protocols)
    _report(content, tested, f"Test of {config.features}")


@rank_zero_only
def keep(config: DictConfig, split: Split, path: Path | None = None) -> None:
    """Config and manifest into the run folder."""
    folder = RunFolder(path or build.run_folder())
    folder.write_config(OmegaConf.to_yaml(config, resolve=True))
    split.save(folder.split)
    folder.write_datasets(split.datasets)


def show_parts(split: Split, module: ReIDModule) -> None:
    """Print what is tested or trained on, the model, and the run folder."""
    parts = {name: getattr(split, name) for name in ("train", "val", "query", "gallery")}
    counts = ", ".join(f"{len(images)} {name}" for name, images in parts.items())
    height, width = module.config.image_size
    for data in split.datasets:
        cameras = [f"{n} {name}" for name, n in data.cameras.items() if name != str(n)]
        show(f"Data   {data.name}" + f", cameras: {', '.join(cameras)}" * bool(cameras))
    show(
        f"Split  {split.record}",
        f"       {len(split.labels)} train identities; images: {counts}",
        f"Model  {module.config.name}, {len(module.labels)} rows, images {height} x {width}",
        f"Run    {build.run_folder()}",
    )


def test(
    config: DictConfig,
    trainer: pl.Trainer,
    module: ReIDModule,
    data: ReIDDataModule,
    title: str,
    folder: Path | None,
) -> None:
    """Test with the best weights of this run, or those at hand, and write metrics.json.

    Without a `folder`, that of the run; its numbers are printed.
    """
    best = getattr(trainer.checkpoint_callback, "best_model_path", "") or None
    content = {
        "split": data.split.record.to_json(),
        "weights": best or config.get("checkpoint"),
        "partial": is_partial(trainer),
    }
    note(f"Testing {best or 'these weights'}")
    try:
        trainer.test(module, data, ckpt_path=best, verbose=False)
    finally:  # the features are kept even if their ranking fails
        if trainer.is_global_zero and config.evaluation.save_features and module.test_features:
            path = (folder or build.run_folder()) / "features.safetensors"
            notes = {**feature_notes(module, config.evaluation), **content}
            replace(module.test_features, notes=notes).save(path)
            show(f"Features {path}")
        if module.test_features:
            _warn(module.test_features)
    content |= {
        "rows": len(module.labels),
        "seen_complete": module.provenance.complete,
        "evaluation": OmegaConf.to_container(config.evaluation),
        "origin": origin(),
        "training": _training(module),
    }
    if trainer.is_global_zero and module.test_result is not None:
        where = " on a part of the images only" if content["partial"] else ""
        _report(content, module.test_result, title + where, folder)


def _training(module: ReIDModule) -> dict[str, Any]:
    """Split, config and head check of the training of a module's weights."""
    split = module.provenance.split
    config = yaml.safe_load(str(module.notes.get("config", "{}")))
    return {
        "split": split and split.to_json(),
        "config": config if isinstance(config, dict) else {},
        "head_check": module.notes.get("head_check"),
    }


def _warn(table: FeatureTable) -> None:
    """Print signs of broken features."""
    for doubt in table.doubts():
        show(f"Warning: {doubt}")


def feature_notes(module: ReIDModule, options: DictConfig) -> dict[str, Any]:
    """The identities seen by the model of features, and how they were computed."""
    computed = {key: options[key] for key in ("flip", "normalize", "neck")}
    seen, complete = sorted(module.provenance.seen), module.provenance.complete
    name = module.config.name
    return {"seen": seen, "seen_complete": complete, "model": name, "computed": computed}


def _report(
    content: dict[str, Any], result: EvaluationResult, title: str, folder: Path | None = None
) -> None:
    """Write metrics.json; print the tables of the run itself."""
    metrics = Metrics(**content, **result.summary())
    path = RunFolder(folder or build.run_folder()).write(metrics)
    if folder is None:
        weights = Path(metrics.weights).name if metrics.weights else "the model"
        show(*metrics.tables(title), *metrics.warnings(weights), f"Written to {path}")


def set_evaluation(module: ReIDModule, options: DictConfig) -> None:
    """What is compared in validation and test, and how."""
    module.rank_options = rank_options(options)
    module.feature_options = FeatureOptions(options.flip, options.normalize, options.neck)
    module.val_metric.distance = module.test_metric.distance = options.metric


def rank_options(options: DictConfig) -> RankOptions:
    """How a test is ranked."""
    return RankOptions(**{field.name: options[field.name] for field in fields(RankOptions)})


def require_test(split: Split, protocol: str = "cross-camera") -> None:
    """Refuse a split without query or gallery, or without any match under the protocol."""
    if not split.query or not split.gallery:
        raise MissingDataset(
            f"the split has {len(split.query)} query and {len(split.gallery)} gallery images. "
            "Type +split=resplit to divide all images, or test=false to train on all. Or give the "
            "dataset query/ and bounding_box_test/, or its CSV file the column subset."
        )
    if protocol == "cross-camera" and not split.rankable["query"]:
        raise InputError(
            f"none of the {len(split.query)} query images has a match in another camera. Choose "
            "another split, evaluation.protocol=within-camera, or test=false."
        )
