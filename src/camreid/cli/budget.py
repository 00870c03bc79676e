"""How long to train, in images: so that models on one camera and on all can be told fairly."""

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from camreid.cli import build
from camreid.cli.terminal import say
from camreid.data import ReIDDataModule
from camreid.errors import InputError, require_whole

# the trainer's other ways to say when training ends, and their values that do not
_OTHER_ENDS = {
    "overfit_batches": (None, 0),
    "max_steps": (None, -1),
    "max_time": (None,),
    "fast_dev_run": (None, False),
}


def spend_budget(config: DictConfig, data: ReIDDataModule) -> None:
    """Turn `budget`, a number of images, into `trainer.max_epochs`; nothing without one.

    Epochs are whole, so the nearest number of them is taken; what a run has seen in the end is in
    its checkpoints.

    Raises:
        InputError: no number, another end of training besides, or less than half an epoch.
    """
    if config.budget is None:
        return
    require_whole("budget", config.budget, least=1)
    _refuse_other_ends(config)
    images = _epoch_images(config, data)
    if 2 * config.budget < images:
        raise InputError(
            f"budget={config.budget} images are less than half an epoch of this split "
            f"({images} images). Type budget={images} or more, or trainer.max_epochs=1 "
            "trainer.limit_train_batches=0.1 for a part of an epoch."
        )
    config.trainer.max_epochs = round(config.budget / images)
    total = config.trainer.max_epochs * images
    say(f"Budget {config.budget} images: {config.trainer.max_epochs} epochs of {images}, {total}")


def _refuse_other_ends(config: DictConfig) -> None:
    typed = [a.lstrip("+") for a in HydraConfig.get().overrides.task]
    ends = [a for a in typed if a.startswith("trainer.max_epochs=")]
    for name, unused in _OTHER_ENDS.items():
        value = config.trainer.get(name)
        if value not in unused:
            ends.append(f"trainer.{name}={value}")
    if ends:
        raise InputError(
            f"budget={config.budget} and {ends[0]} both say how long to train; type one of them."
        )


def _epoch_images(config: DictConfig, data: ReIDDataModule) -> int:
    """Images of an epoch of all processes, cut by `trainer.limit_train_batches` as Lightning does.

    Each process has as many batches, so that several may have more images than one.

    Raises:
        InputError: nothing is left of it.
    """
    limit = config.trainer.get("limit_train_batches")
    limit = 1.0 if limit is None else limit
    trainer = build.build_trainer(config, logger=False, callbacks=[])  # refuses bad limits
    processes = trainer.num_devices * trainer.num_nodes
    batch = data.identities * data.instances
    whole = -(-data.epoch_images // (batch * processes))  # batches of each process, rounded up
    batches = min(limit, whole) if isinstance(limit, int) else int(whole * limit)
    if not batches:
        raise InputError(
            f"trainer.limit_train_batches={limit} leaves nothing of an epoch of {whole} batches. "
            "Type a whole number of batches, or a larger share."
        )
    return batches * batch * processes
