"""camreid-train: split, model, data, fit, test."""

import signal
from pathlib import Path
from typing import Any, NoReturn

import torch
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning.callbacks import LambdaCallback
from pytorch_lightning.loggers import Logger
from pytorch_lightning.strategies import Strategy
from pytorch_lightning.utilities import rank_zero_only
from timm.layers.norm_act import convert_sync_batchnorm

from camreid.checkpoints.io import Checkpoint
from camreid.checkpoints.start import start_from
from camreid.cli import build, checkpoints, evaluate
from camreid.cli.checkpoints import Start
from camreid.cli.errors import leaves, override
from camreid.cli.terminal import show
from camreid.data import IdentitySampler, ReIDDataModule, Split
from camreid.errors import InputError, require_whole
from camreid.labels import LabelMap, fit_camera_labels, fit_labels
from camreid.models.config import ModelConfig
from camreid.parts import make
from camreid.provenance import source
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
    start = checkpoints.read_start(config, split.datasets)
    known = (start and start.provenance.datasets) or split.datasets
    teachers = checkpoints.read_teachers(config, start, known)
    if config.test:
        evaluate.require_test(split, config.evaluation.protocol)
    if split.val and not split.rankable["val"]:
        raise InputError("no validation image has a match among the others.", val_fraction=0)
    model = build.build_model(config, start, split)
    if start is not None and config.resume:
        _check_resume(start, split, model, config)
    module = build_module(config, model, split, start)
    checkpoints.add_distillation(config, module, teachers)
    evaluate.set_evaluation(module, config.evaluation)
    data = build.build_data(config, split, module.config)
    if model.unknown == "drop":
        data.keep_only(module.camera_labels or module.labels)
    loggers = [make(Logger, own) for own in (config.get("logger") or {}).values() if own]
    module.notes = {"config": OmegaConf.to_yaml(config, resolve=True), **source()}
    callbacks = build.build_callbacks(config, split)
    trainer = build.build_trainer(config, callbacks=callbacks, logger=loggers)
    batches = data.train_sampler(world_size=trainer.world_size)
    data.setup("fit")  # refuses impossible batches before anything is written
    if config.test:
        data.setup("test")
        if 0 < trainer.limit_test_batches < 1 / min(map(len, data.test_dataloader())):
            raise InputError("limit_test_batches is less than a batch.", limit_test_batches=1.0)
    gather_metrics = rank_zero_only(RunFolder(build.run_folder()).gather_metrics)
    gather_metrics(resuming=True)
    _announce(config, split, module, batches, start)
    _fit(trainer, module, data, config.resume)
    if config.test:
        evaluate.run_test(config, trainer, module, data)
    gather_metrics()
    best = getattr(trainer.checkpoint_callback, "best_model_score", None)
    return None if best is None else float(best)


def show_config(config: DictConfig) -> None:
    """Print the config of a run that starts from a checkpoint, with the model that will run."""
    build.build_model(config, checkpoints.read_checkpoint(config.resume or config.init))
    print(OmegaConf.to_yaml(config), end="")


def build_module(config: DictConfig, model: ModelConfig, split: Split, start: Start) -> ReIDModule:
    """The module with its rows decided: fresh, started from weights, or as it was."""
    own_heads = bool(model.network.get("camera_heads"))
    labels: LabelMap | dict[int, LabelMap] = split.camera_labels if own_heads else split.labels
    given = (start.camera_labels or start.labels) if start else labels
    if config.resume:
        labels = given
    elif own_heads:
        labels = fit_camera_labels(given, split.camera_labels, model.unknown)
    elif start:
        labels = fit_labels(start.labels, split.labels, model.unknown)
    module = ReIDModule(model.without_weights() if start else model, labels)
    if start and not config.resume:
        start_from(module, start)
    if config.trainer.sync_batchnorm:  # Lightning's would drop the activations of timm's norms
        convert_sync_batchnorm(module)  # type: ignore[no-untyped-call]
    if config.compile:
        module.compile_network("default" if config.compile is True else str(config.compile))
    return module


def _check_resume(resumed: Checkpoint, split: Split, model: ModelConfig, config: Any) -> None:
    """Refuse another split, another network with tensors of equal shapes, or a finished run."""
    done, given, then = resumed.epochs, f"resume={resumed.path}", resumed.provenance.split
    if 1 <= (epochs := config.trainer.max_epochs) <= done:
        raise InputError(f"{given} has finished {done} epochs of {epochs}.", max_epochs=2 * done)
    if then is not None and then.digest not in (None, split.digest):
        found = f"{given} was trained on another split ({then}) than this one ({split.record})"
        raise InputError(f"{found}. Type {then.overrides or 'its split options'}, or init=.")
    same_network = model.without_weights().network == resumed.config.network
    if not same_network or model.image_size != resumed.config.image_size:
        raise InputError(f"{given} has another model. Leave model= out, or type init=.")
    _check_parts(resumed, config)


def _check_parts(resumed: Checkpoint, config: DictConfig) -> None:
    """Refuse a run with another class of loss, augmentation or sampler than this command types."""
    then = dict(leaves(RunFolder(Path(resumed.path).absolute().parents[1]).config))
    now = dict(leaves(OmegaConf.to_container(config)))
    for name in ("model.loss.extra", "data.augment", "data.sampler"):
        was, target = then.get(name), f"{name}._target_"
        if name in then and then.get(target) != now.get(target):
            found = f"resume={resumed.path} was trained with {override(name, was)}"
            raise InputError(f"{found}. Type the same, or init= to start a new run.")


@rank_zero_only
def _announce(
    config: DictConfig, split: Split, module: ReIDModule, batches: IdentitySampler, start: Start
) -> None:
    evaluate.keep(config, split)
    evaluate.show_parts(split, module)
    step = str(config.trainer.precision)
    if step.startswith("bf16") and not has_bf16(build.device_type(config)):
        step += " (slower than 32-true here: no bf16 instructions)"
    step += ", channels_last" * (memory_format(module.model) == torch.channels_last)
    step += ", compiled, which takes minutes at first" * bool(config.compile)
    ranks = f" in each of {batches.world_size} processes" * (batches.world_size > 1)
    show(f"Step   {step}, {module.optimizer_config.name}")
    show(f"Batch  {batches.identities} identities x {batches.instances} images{ranks}")
    if start and config.resume:
        more = f" and {start.batches} batches" * bool(start.batches)
        show(f"Resume {start.path}: {start.epochs} epochs{more} done")
    elif start:
        inherited = module.provenance.inherited or {}
        rows = len({pid for pids in inherited.values() for pid in pids})
        show(f"Init   {start.path}: the trunk, and {rows} of {len(module.labels)} rows")
    if not split.val:
        show("No validation identities: best.ckpt is the last epoch and has no calibration.")
    elif split.val_within_camera:
        camera = split.val[0].camera
        show(f"Validation and calibration are within camera {camera}, across its sequences.")


def _fit(trainer: Any, module: ReIDModule, data: ReIDDataModule, resume: str | None) -> None:
    begun: list[bool] = []  # once everything is restored
    trainer.callbacks.insert(0, LambdaCallback(on_train_start=lambda *_: begun.append(True)))
    if resume and type(trainer.strategy).load_checkpoint is not Strategy.load_checkpoint:
        raise InputError("resume= works only on one device or with trainer=ddp.")
    try:
        trainer.fit(module, data, ckpt_path=resume)
    except (SystemExit, Exception) as error:
        numbers = [getattr(callback, "stopped_by", None) for callback in trainer.callbacks]
        # a loader process may have died of the signal
        is_stopped = trainer.interrupted if isinstance(error, SystemExit) else any(numbers)
        if not is_stopped or isinstance(error, InputError):
            _raise(error, begun, resume)
        last = build.run_folder() / "checkpoints" / "last.ckpt"
        same = "the same options except init="
        how = f"Continue with {same} and resume={last}" if last.exists() else "Start over"
        if trainer.current_epoch == trainer.max_epochs or trainer.global_step == trainer.max_steps:
            how = f"The training is complete: test it by camreid-evaluate checkpoint={last}"
        show(f"Interrupted after {trainer.current_epoch} whole epochs. {how}.")
        raise SystemExit(128 + (next(filter(None, numbers), None) or signal.SIGINT)) from None


def _raise(error: BaseException, begun: object, resume: str | None) -> NoReturn:
    if not resume or begun or isinstance(error, InputError | SystemExit):
        raise error
    reason = " ".join(str(error).split())[:200]
    raise InputError(f"the state of resume={resume} does not fit: {reason}.") from error


if __name__ == "__main__":
    from camreid.cli._entry import train

    train()
