"""What the commands do, step by step."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning.callbacks import EarlyStopping
from pytorch_lightning.utilities import rank_zero_only

from camreid.callbacks import Provenance
from camreid.checkpoints import Checkpoint, load, read_checkpoint, start_from
from camreid.cli import build
from camreid.cli.budget import spend_budget
from camreid.cli.cameras import fill_cameras
from camreid.cli.distill import read_teaching
from camreid.cli.lineage import image_leak, parents
from camreid.cli.provenance import join_metrics, notes
from camreid.cli.terminal import be_quiet, say
from camreid.data import Split
from camreid.errors import InputError
from camreid.evaluation.features import FeatureTable
from camreid.evaluation.report import Evidence, evidence_tables
from camreid.labels import fit_labels
from camreid.model.config import ModelConfig
from camreid.model.module import ReIDModule
from camreid.model.testing import is_partial


def train_run(config: DictConfig) -> None:
    """Build the parts, fit, test, and leave everything in the run folder."""
    be_quiet()
    build.check_run(config)
    _seed(config)
    resumed = read_checkpoint(config.resume) if config.resume else None
    start = read_checkpoint(config.init) if config.init and not resumed else None
    teaching = read_teaching(config, resumed)
    split = build.build_split(config)
    if config.test:
        build.require_test(split, config.evaluation.protocol)
    build.require_validation(split)
    module = build_module(config, split, start, resumed)
    teaching.begin(module, split, config.data.root)
    build.set_evaluation(module, config.evaluation)
    data = build.build_data(config, split, module.config.image_size)
    if module.config.unknown == "drop":
        data.keep_only(module.labels)
    data.setup("fit")  # refuses impossible batches before anything is written
    spend_budget(config, data)
    if resumed:
        _require_epochs(config, resumed)
    loggers = build.build_loggers(config)
    origin = {**notes(config), **teaching.notes, **parents(config, resumed)}
    callbacks = [*build.build_callbacks(config, split), Provenance(origin)]
    trainer = build.build_trainer(config, callbacks=callbacks, logger=loggers)
    _announce(config, split, module, resumed)
    teaching.announce()
    _fit(trainer, module, data, config.resume)
    if config.test:
        _test(config, trainer, module, data, title="Test")
    join_metrics(build.run_folder())


def build_module(
    config: DictConfig, split: Split, start: Checkpoint | None, resumed: Checkpoint | None
) -> ReIDModule:
    """The module with its rows decided: fresh, started from weights, or as it was."""
    model = fill_cameras(config, build.build_model(config, start or resumed), split)
    if resumed is not None:
        _check_resumable(config, resumed, split)
        return ReIDModule(model.without_weights(), resumed.labels)
    if start is None:
        _say_fetching(model)
        return _with_cameras(ReIDModule(model, split.labels), split)
    labels = fit_labels(start.labels, split.labels, model.unknown)
    module = ReIDModule(model.without_weights(), labels)
    start_from(module, start)
    return _with_cameras(module, split)


def _with_cameras(module: ReIDModule, split: Split) -> ReIDModule:
    """The module, its heads per camera (if any) told whom each camera has."""
    module.set_cameras((r.pid, r.camera) for r in split.train)
    return module


def evaluate_run(config: DictConfig) -> None:
    """Rank the split's query and gallery by a checkpoint, or features that were saved."""
    be_quiet()
    if config.features is not None:
        rank_features(config)
        return
    if OmegaConf.is_missing(config, "checkpoint"):
        raise InputError(
            "no checkpoint was given; type checkpoint=runs/RUN/checkpoints/best.ckpt, or "
            "features=runs/RUN/features.safetensors to rank saved features again."
        )
    _seed(config)
    module = load(config.checkpoint)
    build.set_evaluation(module, config.evaluation)
    split = build.build_split(config)
    build.require_test(split, config.evaluation.protocol)
    data = build.build_data(config, split, module.config.image_size)
    trainer = build.build_trainer(config, logger=False, callbacks=[])
    _keep(config, split)
    _say_parts(split, module)
    _test(config, trainer, module, data, title=f"Test of {config.checkpoint}")


def rank_features(config: DictConfig) -> None:
    """Rank the features of a file, without their model."""
    options = build.rank_options(config.evaluation)
    if config.evaluation.flip or config.evaluation.neck != "after":
        raise InputError(
            "evaluation.flip and evaluation.neck say what the model computes, and features= has no "
            "model; type checkpoint=runs/RUN/checkpoints/best.ckpt with them."
        )
    table = FeatureTable.load(config.features)
    if config.evaluation.normalize:
        table = table.normalized()
    on_gpu = torch.cuda.is_available() and config.trainer.accelerator in ("auto", "gpu", "cuda")
    result, protocols = options.rank(table, torch.device("cuda" if on_gpu else "cpu"))
    evidence = Evidence(result, frozenset(table.notes.get("seen") or ()), protocols=protocols)
    counts = f"{len(table.query.pids)} query and {len(table.gallery.pids)} gallery images"
    say(f"Features {config.features}: {counts}, {table.query.features.shape[1]} wide")
    content = {
        "split": table.notes.get("split"),
        "features": str(Path(config.features).resolve()),
        "weights": table.notes.get("weights"),
        "seen_complete": table.notes.get("seen_complete", bool(table.notes.get("seen"))),
        "partial": bool(table.notes.get("partial")),
        "evaluation": {**config.evaluation, **(table.notes.get("computed") or {})},
    }
    _report(content, evidence, f"Test of {config.features}")


def _seed(config: DictConfig) -> None:
    if not isinstance(config.seed, int) or not 0 <= config.seed < 2**32:
        raise InputError(f"seed={config.seed}: expected a whole number from 0, such as seed=1.")
    pl.seed_everything(config.seed, workers=True, verbose=False)


def _check_resumable(config: DictConfig, resumed: Checkpoint, split: Split) -> None:
    """Refuse to continue on another split."""
    then = resumed.notes.get("split", {})
    if then.get("digest") not in (None, split.digest):
        raise InputError(
            f"resume={resumed.path} was trained on {then.get('strategy')} ({then['digest']}), and "
            f"this command makes {split.strategy} ({split.digest}). Type the same split options "
            f"and data as then ({resumed.notes.get('split_overrides')}), or init={resumed.path} "
            "to start a new run from its weights."
        )


def _require_epochs(config: DictConfig, resumed: Checkpoint) -> None:
    """Refuse to continue what is finished."""
    if resumed.epochs >= config.trainer.max_epochs:
        raise InputError(
            f"resume={resumed.path} has {resumed.epochs} epochs behind it, and "
            f"trainer.max_epochs={config.trainer.max_epochs} asks for no more. Type a larger "
            "trainer.max_epochs, or camreid-evaluate to test it."
        )


def _say_fetching(model: ModelConfig) -> None:
    if model.network.get("pretrained") and not model.network.get("weights"):
        say(f"Weights of {model.network.get('backbone')}: from timm's cache, or fetched now")


@rank_zero_only
def _keep(config: DictConfig, split: Split) -> None:
    """Config and manifest into the run folder."""
    folder = build.run_folder()
    (folder / "config.yaml").write_text(OmegaConf.to_yaml(config, resolve=True), encoding="utf-8")
    split.save(folder / "split.csv")


@rank_zero_only
def _announce(
    config: DictConfig, split: Split, module: ReIDModule, resumed: Checkpoint | None
) -> None:
    """Say what is about to happen, and keep the means to do it again."""
    _keep(config, split)
    _say_parts(split, module)
    if config.init and not resumed:
        carried = len((module.labels - module.new_people) & module.started_with)
        say(f"Init   {config.init}: the trunk, and {carried} of {len(module.labels)} rows")
    if resumed:
        say(f"Resume {resumed.path}: {resumed.epochs} epochs done")
    if not split.val:
        say("No identities are held out for validation: best.ckpt is the last epoch.")
    elif split.val_within_camera:
        camera = split.val[0].camera
        say(
            f"Validation ranks within camera {camera}, the query image itself removed: one camera "
            "can't be validated across cameras."
        )


def _say_parts(split: Split, module: ReIDModule) -> None:
    parts = ("train", "val", "query", "gallery")
    counts = ", ".join(f"{len(getattr(split, part))} {part}" for part in parts)
    some = next(r for part in parts for r in getattr(split, part))
    say(
        f"Data   {Path(some.path).parents[1]}",
        f"Split  {split.strategy}, digest {split.digest}",
        f"       {len(split.labels)} train identities; images: {counts}",
        f"Model  {module.config.name}, {len(module.labels)} rows, images "
        f"{module.config.image_size[0]} x {module.config.image_size[1]}",
        f"Run    {build.run_folder()}",
    )


def _fit(
    trainer: pl.Trainer, module: ReIDModule, data: pl.LightningDataModule, resume: str | None
) -> None:
    """Fit, and say why if it ended early."""
    try:
        trainer.fit(module, data, ckpt_path=resume)
    except SystemExit:
        if not trainer.interrupted:
            raise
        last = build.run_folder() / "checkpoints" / "last.ckpt"
        how = f"Continue with the same options and resume={last}" if last.exists() else "Start anew"
        say(f"Interrupted in epoch {trainer.current_epoch + 1}. {how}.")
        raise SystemExit(130) from None
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(callback, EarlyStopping) and callback.stopped_epoch:
            say(
                f"Stopped after epoch {callback.stopped_epoch + 1}: {callback.monitor} has not "
                f"risen for {callback.patience} validations."
            )


def _test(
    config: DictConfig,
    trainer: pl.Trainer,
    module: ReIDModule,
    data: pl.LightningDataModule,
    title: str,
) -> None:
    """Test with the best weights of this run, or those at hand, and write metrics.json."""
    best = getattr(trainer.checkpoint_callback, "best_model_path", "") or None
    partial = is_partial(trainer)
    split: Split = data.split  # type: ignore[attr-defined]
    content = {
        "split": {"digest": split.digest, "strategy": split.strategy},
        "rows": len(module.labels),
        "weights": best or config.get("checkpoint"),
        "partial": partial,
        "evaluation": OmegaConf.to_container(config.evaluation),
    }
    try:
        trainer.test(module, data, ckpt_path=best, verbose=False)
    finally:  # whatever becomes of the ranking, the features are kept
        # of the weights that are tested
        content.update(seen_complete=module.seen_complete, images_seen=module.images_seen)
        if trainer.is_global_zero and config.evaluation.save_features:
            _save_features(config, module, content)
    if trainer.is_global_zero and module.evidence is not None:
        where = " on a part of the images only" if partial else ""
        images = image_leak(split, best or config.get("checkpoint"))
        _report(content, replace(module.evidence, images=images), title + where)
    elif trainer.is_global_zero:
        say("There is no match among the part of the test images that was ranked.")


def _save_features(config: DictConfig, module: ReIDModule, content: dict[str, Any]) -> None:
    if module.test_features is None:
        return
    origin = {key: content[key] for key in ("split", "weights", "partial")}
    computed = {key: config.evaluation[key] for key in ("flip", "normalize", "neck")}
    notes = {
        "seen": sorted(module.seen),
        "seen_complete": module.seen_complete,
        "model": module.config.name,
        "computed": computed,
    }
    path = build.run_folder() / "features.safetensors"
    replace(module.test_features, notes={**notes, **origin}).save(path)
    say(f"Features {path}")


def _report(content: dict[str, Any], evidence: Evidence, title: str) -> None:
    """Write metrics.json and print the tables."""
    summary = evidence.summary()
    path = build.run_folder() / "metrics.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({**content, **summary}, indent=1) + "\n", encoding="utf-8")
    say(*evidence_tables(summary, title))
    if not content["seen_complete"]:
        say("Nobody knows all of the people whom these weights were trained on: it may leak.")
    say(f"Written to {path}")
