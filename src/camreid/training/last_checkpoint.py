"""The checkpoint that a stopped run goes on from."""

import os
import signal
import threading
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.utilities import rank_zero_only

from camreid.errors import require_whole

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class LastCheckpoint(ModelCheckpoint):
    """Saves `last.ckpt` after every epoch, every N steps, and when SIGINT or SIGTERM stops the run.

    The first signal stops the run after the optimisation step; a second stops it at once. Several
    ranks stop together, at the next logging interval.

    Args:
        dirpath: the folder of the file.
        every_n_train_steps: N; None for epochs alone.
    """

    def __init__(self, dirpath: str | Path, every_n_train_steps: int | None = None) -> None:
        self.steps = every_n_train_steps or 0
        require_whole("every_n_train_steps", self.steps, least=0)
        super().__init__(
            dirpath, "last", save_on_train_epoch_end=True, enable_version_counter=False
        )
        self._is_stopping = False

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Handle the signals, until the trainer restores their handlers."""
        super().on_train_start(trainer, pl_module)
        self._is_stopping = False
        if threading.current_thread() is threading.main_thread():
            for number in _SIGNALS:
                signal.signal(number, self._stop)

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Save after a step; that of an epoch's last batch is saved when the epoch ends."""
        done, step = batch_idx + 1, trainer.global_step
        if done % trainer.accumulate_grad_batches or done == trainer.num_training_batches:
            return
        interval = trainer.log_every_n_steps if trainer.world_size > 1 else 1  # type: ignore[attr-defined]
        stops = step % max(1, interval) == 0 and self._stops(trainer)
        if stops or (self.steps and step % self.steps == 0):
            trainer.save_checkpoint(Path(str(self.dirpath)) / "last.ckpt")
        if stops:
            raise KeyboardInterrupt

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Stop between epochs."""
        if self._stops(trainer):
            raise KeyboardInterrupt

    on_train_end = on_train_epoch_start

    def _stop(self, *_: object) -> None:
        self._is_stopping = True
        for number in _SIGNALS:
            signal.signal(number, signal.default_int_handler)
        if (
            getattr(rank_zero_only, "rank", 0) == 0
        ):  # print() fails where the signal interrupts another print()
            os.write(2, b"\nStopping after this step. Press Ctrl+C again to stop at once.\n")

    def _stops(self, trainer: pl.Trainer) -> bool:
        return trainer.strategy.reduce_boolean_decision(self._is_stopping, all=False)
