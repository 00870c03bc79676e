"""Where a training is, and when it ends: a bar for the batches, a line for every epoch."""

import math
import time
from collections.abc import Mapping
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import TQDMProgressBar
from torch import Tensor
from tqdm import tqdm

from camreid.progress import Progress, note


def log_losses(module: pl.LightningModule, values: Mapping[str, Tensor], size: int) -> None:
    """Log means over the epoch and, every `log_every_n_steps` steps, values as `NAME_step`."""
    log = module.log_dict
    log(values, prog_bar=True, on_step=False, on_epoch=True, sync_dist=True, batch_size=size)
    steps = {f"{name}_step": value.detach() for name, value in values.items()}
    log(steps, on_step=True, on_epoch=False, batch_size=size)


class Clock:
    """Place and time left of a training, by its steps since the clock was made."""

    def __init__(self, trainer: pl.Trainer) -> None:
        self._trainer, self._first, self._start = trainer, trainer.global_step, time.monotonic()

    def __str__(self) -> str:
        """The epoch from 1 and, where steps limit the run, the step."""
        run, epochs = self._trainer, self._trainer.max_epochs or -1
        place = f"Epoch {run.current_epoch + 1}" + f"/{epochs}" * (epochs > 0)
        return place + f", step {run.global_step}/{run.max_steps}" * (run.max_steps > 0)

    @property
    def left(self) -> str:
        """Hours, minutes and seconds that the whole training takes from here, with validations."""
        step, total = self._trainer.global_step, self._trainer.estimated_stepping_batches
        if step == self._first or math.isinf(total):
            return "? left"
        left = (time.monotonic() - self._start) / (step - self._first) * max(0, total - step)
        return f"{tqdm.format_interval(left)} left"


class EpochLines(pl.Callback):
    """Notes for every epoch its loss, val mAP, images per second, learning rate and time left."""

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Note the start."""
        self._clock = Clock(trainer)
        note(f"Training: {self._clock}, {trainer.num_training_batches} batches in each epoch")
        self.on_train_epoch_start(trainer, pl_module)  # Lightning does not, within an epoch

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Count images and seconds anew; note the learning rate of the first step."""
        self._images, self._start, self._score = 0, time.monotonic(), ""
        self._rate = trainer.optimizers[0].param_groups[0]["lr"]

    def on_train_batch_end(self, trainer: pl.Trainer, *step: Any) -> None:
        """Count the images; the time of a validation does not count."""
        self._images += len(step[2]["images"]) * trainer.world_size
        self._seconds = time.monotonic() - self._start

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Keep the score of this epoch."""
        self._score = f"val mAP {float(trainer.callback_metrics['val/mAP']):.1%}, "

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Note the epoch; all processes read the loss, which they share."""
        loss = float(trainer.callback_metrics["train/loss"])
        speed = f"{self._images / self._seconds:.1f} images/s, lr {self._rate:.2e}"
        note(f"{self._clock}: loss {loss:.4f}, {self._score}{speed}, {self._clock.left}")


class RunBar(TQDMProgressBar):
    """Lightning's bars as `Progress`, with the time left of the whole training."""

    def init_train_tqdm(self) -> Any:
        """A bar of batches."""
        return Progress(None, "Batches", late=True, unit="batch")

    init_validation_tqdm = init_test_tqdm = init_train_tqdm

    def on_train_start(self, trainer: pl.Trainer, *_: Any) -> None:
        """Start the clock."""
        super().on_train_start(trainer)
        self._clock, self._loss = Clock(trainer), math.nan

    def on_train_epoch_start(self, trainer: pl.Trainer, *_: Any) -> None:
        """Begin the bar of an epoch."""
        super().on_train_epoch_start(trainer)
        self.train_progress_bar.set_description(str(self._clock))

    def on_test_batch_start(self, *batch: Any) -> None:
        """Name the images of a test."""
        super().on_test_batch_start(*batch)
        images = "gallery" if batch[4:] == (1,) else "query"
        self.test_progress_bar.set_description(f"Test, {images}", refresh=False)

    def get_metrics(self, trainer: pl.Trainer, model: pl.LightningModule) -> dict[str, Any]:
        """What stands beside the bar: the loss of the last step that was logged, and the time."""
        if trainer.global_step % max(1, trainer.log_every_n_steps) == 0:  # type: ignore[attr-defined]
            self._loss = float(trainer.callback_metrics.get("train/loss_step", math.nan))
        self.train_progress_bar.set_description(str(self._clock), refresh=False)
        return {"loss": self._loss, "whole training": self._clock.left}
