"""How long to train, in images: so that models on one camera and on all can be told fairly."""

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from camreid.cli.terminal import say
from camreid.data import ReIDDataModule
from camreid.errors import InputError, require_whole


def spend_budget(config: DictConfig, data: ReIDDataModule) -> None:
    """Turn `budget`, a number of images, into `trainer.max_epochs`; nothing without one.

    Epochs are whole, so the nearest number of them is taken; what a run has seen in the end is in
    its checkpoints.

    Raises:
        InputError: no number, epochs typed besides, or less than half an epoch.
    """
    if config.budget is None:
        return
    require_whole("budget", config.budget, least=1)
    typed = [a.lstrip("+") for a in HydraConfig.get().overrides.task]
    epochs = next((a for a in typed if a.startswith("trainer.max_epochs=")), None)
    if epochs is not None:
        raise InputError(
            f"budget={config.budget} and {epochs} both say how long to train; type one of them."
        )
    images = data.epoch_images
    if 2 * config.budget < images:
        raise InputError(
            f"budget={config.budget} images are less than half an epoch of this split "
            f"({images} images). Type budget={images} or more, or trainer.max_epochs=1 "
            "trainer.limit_train_batches=0.1 for a part of an epoch."
        )
    config.trainer.max_epochs = round(config.budget / images)
    total = config.trainer.max_epochs * images
    say(f"Budget {config.budget} images: {config.trainer.max_epochs} epochs of {images}, {total}")
