"""camreid-train: split, model, data, fit, test."""

from typing import Any

import torch
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning.callbacks import LambdaCallback
from pytorch_lightning.strategies import Strategy
from pytorch_lightning.utilities import rank_zero_only
from timm.layers.norm_act import convert_sync_batchnorm

from camreid.checkpoints.io import Checkpoint
from camreid.checkpoints.start import start_from
from camreid.cli import build, evaluate
from camreid.cli.checkpoints import read_checkpoint, read_start
from camreid.cli.distill import add_distillation, read_teachers
from camreid.cli.provenance import notes
from camreid.cli.terminal import show
from camreid.data import IdentitySampler, ReIDDataModule, Split
from camreid.errors import InputError, require_whole
from camreid.labels import HeadLabels, fit_camera_labels, fit_labels
from camreid.models.config import ModelConfig
from camreid.runs.folder import RunFolder
from camreid.training.module import ReIDModule
from camreid.training.step import has_bf16, memory_format


def train_run(config: DictConfig) -> float | None:
    """Build the parts, fit, test, fill the run folder; the best validation mAP, for a sweeper."""
    epochs, steps = config.trainer.max_epochs, config.trainer.max_steps
    if epochs != -1 or steps == -1:
        require_whole("max_epochs", epochs, least=1)
    build.seed(config)
    split = build.build_split(config)
    resumed = read_checkpoint(config.resume, split.datasets) if config.resume else None
    start = None if resumed else read_start(config, split.datasets)
    known = (start and start.provenance.datasets) or split.datasets
    teachers = read_teachers(config, resumed, known)
    if config.test:
        evaluate.require_test(split, config.evaluation.protocol)
    if split.val and not split.rankable["val"]:
        raise InputError("no validation image has a match among the others.", val_fraction=0)
    model = build.build_model(config, split, start or resumed)
    if resumed is not None:
        _check_resumable(resumed, split, model, epochs)
    module = build_module(model, split, start, resumed)
    if config.trainer.sync_batchnorm:  # Lightning's would drop the activations of timm's norms
        convert_sync_batchnorm(module)  # type: ignore[no-untyped-call]
    add_distillation(config, module, teachers)
    evaluate.set_evaluation(module, config.evaluation)
    if config.compile:
        module.compile_network("default" if config.compile is True else str(config.compile))
    data = _build_data(config, split, module)
    loggers = [instantiate(options) for options in (config.get("logger") or {}).values()]
    module.notes = notes(config)
    callbacks = build.build_callbacks(config, split)
    trainer = build.build_trainer(config, callbacks=callbacks, logger=loggers)
    batches = data.train_sampler(world_size=trainer.world_size)
    data.setup("fit")  # refuses impossible batches before anything is written
    if config.test:
        data.setup("test")
    gather_metrics = rank_zero_only(RunFolder(build.run_folder()).gather_metrics)
    gather_metrics(resuming=True)
    _announce(config, split, module, batches, resumed)
    _fit(trainer, module, data, config.resume)
    if config.test:
        evaluate.test(config, trainer, module, data, "Test", folder=None)
    gather_metrics()
    best = getattr(trainer.checkpoint_callback, "best_model_score", None)
    return None if best is None else float(best)


def show_config(config: DictConfig) -> None:
    """Print the config of a run that starts from a checkpoint, with the model that will run."""
    build.choose_model(config, read_checkpoint(config.resume or config.init))
    print(OmegaConf.to_yaml(config), end="")


def _build_data(config: DictConfig, split: Split, module: ReIDModule) -> ReIDDataModule:
    """The loaders; with `unknown=drop`, of images with a row alone."""
    data = build.build_data(config, split, module.config)
    if module.config.unknown == "drop":
        data.keep_only(module.camera_labels or module.labels)
    return data


def build_module(
    model: ModelConfig, split: Split, start: Checkpoint | None, resumed: Checkpoint | None
) -> ReIDModule:
    """The module with its rows decided: fresh, started from weights, or as it was."""
    if resumed is not None:
        return ReIDModule(model.without_weights(), resumed.camera_labels or resumed.labels)
    own_heads = bool(model.network.get("camera_heads"))
    if start is None:
        return ReIDModule(model, split.camera_labels if own_heads else split.labels)
    labels: HeadLabels = fit_labels(start.labels, split.labels, model.unknown)
    if own_heads:
        given = start.camera_labels or start.labels
        labels = fit_camera_labels(given, split.camera_labels, model.unknown)
    module = ReIDModule(model.without_weights(), labels)
    start_from(module, start)
    return module


def _check_resumable(resumed: Checkpoint, split: Split, model: ModelConfig, epochs: int) -> None:
    """Refuse another split, another network with tensors of equal shapes, or a finished run."""
    if 1 <= epochs <= resumed.epochs:
        raise InputError(
            f"resume={resumed.path} has finished {resumed.epochs} epochs of max_epochs={epochs}.",
            max_epochs=2 * resumed.epochs,
        )
    then = resumed.provenance.split
    if then is not None and then.digest not in (None, split.digest):
        raise InputError(
            f"resume={resumed.path} was trained on another split ({then}). This command makes "
            f"({split.record}). Type {then.overrides or 'the same split options and data'}, or "
            f"init={resumed.path} to start a new run."
        )
    same_network = model.without_weights().network == resumed.config.network
    if not same_network or model.image_size != resumed.config.image_size:
        raise InputError(
            f"this command builds another model than that of resume={resumed.path}. "
            f"Leave model= out, or type init={resumed.path} to start a new run."
        )


def _step(config: DictConfig, module: ReIDModule) -> str:
    """How steps are computed, as a line."""
    precision, device = str(config.trainer.precision), build.device_type(config)
    slow = precision.startswith("bf16") and not has_bf16(device)
    parts = [precision + " (slower than 32-true here: no bf16 instructions)" * slow]
    if memory_format(module.model) == torch.channels_last:
        parts.append("channels_last")
    parts.append("fused " * (precision != "16-mixed") + module.optimizer_config.name)
    return ", ".join([*parts, *["compiled, which takes minutes at first"] * bool(config.compile)])


@rank_zero_only
def _announce(
    config: DictConfig,
    split: Split,
    module: ReIDModule,
    batches: IdentitySampler,
    resumed: Checkpoint | None,
) -> None:
    """Print what is about to happen, and keep the config and the split."""
    evaluate.keep(config, split)
    evaluate.show_parts(split, module)
    show(f"Step   {_step(config, module)}")
    ranks = f" in each of {batches.world_size} processes" if batches.world_size > 1 else ""
    show(f"Batch  {batches.identities} identities x {batches.instances} images{ranks}")
    if config.init and not resumed:
        inherited = module.provenance.inherited or {}
        rows = len({pid for pids in inherited.values() for pid in pids})
        show(f"Init   {config.init}: the trunk, and {rows} of {len(module.labels)} rows")
    if resumed:
        more = f" and {resumed.batches} batches" if resumed.batches else ""
        show(f"Resume {resumed.path}: {resumed.epochs} epochs{more} done")
    if not split.val:
        show("No identities are held out for validation: best.ckpt is the last epoch.")
    elif split.val_within_camera:
        show(f"Validation ranks within camera {split.val[0].camera}, across its sequences.")


def _fit(trainer: Any, module: ReIDModule, data: ReIDDataModule, resume: str | None) -> None:
    """Fit, and print why if it ended early."""
    begun: list[bool] = []  # once everything is restored
    trainer.callbacks.insert(0, LambdaCallback(on_train_start=lambda *_: begun.append(True)))
    if resume and type(trainer.strategy).load_checkpoint is not Strategy.load_checkpoint:
        raise InputError("resume= works only on one device or with trainer=ddp.")
    try:
        trainer.fit(module, data, ckpt_path=resume)
    except SystemExit:
        if not trainer.interrupted:
            raise
        last = build.run_folder() / "checkpoints" / "last.ckpt"
        how = f"Continue with the same options and resume={last}" if last.exists() else "Start over"
        if trainer.current_epoch == trainer.max_epochs or trainer.global_step == trainer.max_steps:
            how = f"The training is complete: test it by camreid-evaluate checkpoint={last}"
        show(f"Interrupted after {trainer.current_epoch} whole epochs. {how}.")
        raise SystemExit(130) from None
    except Exception as error:
        if not resume or begun or isinstance(error, InputError):
            raise
        raise InputError(
            f"resume={resume} cannot be continued: its training state does not fit this run "
            f"({' '.join(str(error).split())[:200]})."
        ) from error


if __name__ == "__main__":
    from camreid.cli._entry import train

    train()
