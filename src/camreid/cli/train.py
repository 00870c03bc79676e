"""camreid-train: split, model, data, fit, test."""

import pytorch_lightning as pl
from omegaconf import DictConfig
from pytorch_lightning.callbacks import EarlyStopping
from pytorch_lightning.strategies import Strategy
from pytorch_lightning.utilities import rank_zero_only

from camreid.checkpoints.io import Checkpoint
from camreid.checkpoints.start import start_from
from camreid.cli import build, evaluate
from camreid.cli.cameras import fill_cameras
from camreid.cli.distill import read_teaching
from camreid.cli.provenance import notes
from camreid.cli.reading import read_checkpoint
from camreid.cli.start import read_start
from camreid.cli.terminal import be_quiet, say
from camreid.data import Split
from camreid.errors import InputError
from camreid.labels import HeadLabels, fit_camera_labels, fit_labels
from camreid.models.config import ModelConfig
from camreid.runs.folder import RunFolder
from camreid.training.module import ReIDModule


def train_run(config: DictConfig) -> None:
    """Build the parts, fit, test, and leave everything in the run folder."""
    be_quiet()
    build.check_run(config)
    build.seed(config)
    resumed = read_checkpoint(config.resume) if config.resume else None
    start = None if resumed else read_start(config)
    teaching = read_teaching(config, resumed)
    split = build.build_split(config)
    if config.test:
        evaluate.require_test(split, config.evaluation.protocol)
    build.require_validation(split)
    module = build_module(config, split, start, resumed)
    _check_sync(config, module)
    told = teaching.begin(module, split, build.data_root(config))
    evaluate.set_evaluation(module, config.evaluation)
    data = build.build_data(config, split, module.config)
    if module.config.unknown == "drop":
        data.keep_only(module.camera_labels or module.labels)
    data.setup("fit")  # refuses impossible batches before anything is written
    if resumed:
        _require_epochs(config, resumed)
    gather_metrics = rank_zero_only(RunFolder(build.run_folder()).gather_metrics)
    gather_metrics(resuming=True)
    loggers = build.build_loggers(config)
    module.notes = {**notes(config), **teaching.notes}
    callbacks = build.build_callbacks(config, split)
    trainer = build.build_trainer(config, callbacks=callbacks, logger=loggers)
    _announce(config, split, module, resumed)
    teaching.announce(told)
    _fit(trainer, module, data, config.resume)
    if config.test:
        evaluate.test(config, trainer, module, data, title="Test")
    gather_metrics()


def build_module(
    config: DictConfig, split: Split, start: Checkpoint | None, resumed: Checkpoint | None
) -> ReIDModule:
    """The module with its rows decided: fresh, started from weights, or as it was."""
    model = fill_cameras(config, build.build_model(config, start or resumed), split)
    if resumed is not None:
        _check_resumable(resumed, split)
        _check_same_model(model, resumed)
        return ReIDModule(model.without_weights(), resumed.camera_labels or resumed.labels)
    own_heads = bool(model.network.get("camera_heads"))
    if start is None:
        _say_fetching(model)
        return ReIDModule(model, split.camera_labels if own_heads else split.labels)
    labels: HeadLabels = fit_labels(start.labels, split.labels, model.unknown)
    if own_heads:
        given = start.camera_labels or start.labels
        labels = fit_camera_labels(given, split.camera_labels, model.unknown)
    module = ReIDModule(model.without_weights(), labels)
    start_from(module, start)
    return module


def _check_resumable(resumed: Checkpoint, split: Split) -> None:
    """Refuse to continue on another split."""
    then = resumed.provenance.split
    if then is not None and then.digest not in (None, split.digest):
        raise InputError(
            f"resume={resumed.path} was trained on another split ({then}) than this command makes "
            f"({split.record}). Type the same split options and data as then"
            f"{f' ({then.overrides})' if then.overrides else ''}, or init={resumed.path} to start "
            "a new run from its weights."
        )


def _check_same_model(model: ModelConfig, resumed: Checkpoint) -> None:
    """Refuse to continue as another network, which the tensors' names and shapes need not show."""
    ours, theirs = model.without_weights().network, resumed.config.network
    differing = sorted(k for k in ours.keys() | theirs.keys() if ours.get(k) != theirs.get(k))
    if differing or model.image_size != resumed.config.image_size:
        key = f"network.{differing[0]}" if differing else "image_size"
        raise InputError(
            f"resume={resumed.path} continues the same model, and this command builds another: "
            f"model.{key} differs. Leave model= out, or type init={resumed.path} to start a new "
            "run from its weights."
        )


def _check_sync(config: DictConfig, module: ReIDModule) -> None:
    """Refuse statistics over processes where they would not be taken."""
    if config.trainer.get("sync_batchnorm") and module.config.network.get("camera_norm"):
        raise InputError(
            "trainer.sync_batchnorm=true has no effect on model.network.camera_norm=true, whose "
            "processes normalise their own images. Leave one of the two out."
        )


def _require_epochs(config: DictConfig, resumed: Checkpoint) -> None:
    """Refuse to continue what is finished."""
    if 1 <= config.trainer.max_epochs <= resumed.epochs:
        raise InputError(
            f"resume={resumed.path} has {resumed.epochs} epochs behind it, and "
            f"trainer.max_epochs={config.trainer.max_epochs} asks for no more. Type a larger "
            "trainer.max_epochs, or camreid-evaluate to test it."
        )


class _Begun(pl.Callback):
    """Whether training has begun, which is after everything is restored."""

    is_true = False

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Training begins."""
        self.is_true = True


def _say_fetching(model: ModelConfig) -> None:
    if model.network.get("pretrained") and not model.network.get("weights"):
        say(f"Weights of {model.network.get('backbone')}: from timm's cache, or fetched now")


@rank_zero_only
def _announce(
    config: DictConfig, split: Split, module: ReIDModule, resumed: Checkpoint | None
) -> None:
    """Say what is about to happen, and keep the means to do it again."""
    evaluate.keep(config, split)
    evaluate.say_parts(split, module)
    if config.init and not resumed:
        inherited = module.provenance.inherited or {}
        rows = len({pid for pids in inherited.values() for pid in pids})
        say(f"Init   {config.init}: the trunk, and {rows} of {len(module.labels)} rows")
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


def _fit(
    trainer: pl.Trainer, module: ReIDModule, data: pl.LightningDataModule, resume: str | None
) -> None:
    """Fit, and say why if it ended early.

    Raises:
        InputError: the training state of `resume` does not fit this run.
    """
    begun = _Begun()
    trainer.callbacks.insert(0, begun)  # type: ignore[attr-defined]
    if resume and type(trainer.strategy).load_checkpoint is not Strategy.load_checkpoint:
        raise InputError("resume= needs a strategy that reads one file: one device or ddp.")
    try:
        trainer.fit(module, data, ckpt_path=resume)
    except SystemExit:
        if not trainer.interrupted:
            raise
        last = build.run_folder() / "checkpoints" / "last.ckpt"
        how = f"Continue with the same options and resume={last}" if last.exists() else "Start anew"
        say(f"Interrupted in epoch {trainer.current_epoch + 1}. {how}.")
        raise SystemExit(130) from None
    except Exception as error:
        if not resume or begun.is_true or isinstance(error, InputError):
            raise
        raise InputError(
            f"resume={resume} can't be continued: its training state does not fit this run "
            f"({' '.join(str(error).split())[:200]})."
        ) from error
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(callback, EarlyStopping) and callback.stopped_epoch:
            say(
                f"Stopped after epoch {callback.stopped_epoch + 1}: {callback.monitor} has not "
                f"risen for {callback.patience} validations."
            )


if __name__ == "__main__":
    from camreid.cli._entry import train

    train()
