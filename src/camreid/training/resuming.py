"""Runs that are stopped, and go on as if they were not."""

import math
import os
import signal
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelCheckpoint

from camreid.data.transforms import stream
from camreid.errors import require_whole
from camreid.training.checkpoint_io import conform


def seed_step(trainer: pl.Trainer, batch_idx: int) -> None:
    """Seed what a step draws, such as dropout, by its place in the run and a datamodule's seed."""
    seed = getattr(trainer.datamodule, "seed", None)  # type: ignore[attr-defined]
    if seed is not None:
        key = (seed, trainer.current_epoch, batch_idx, trainer.global_rank)
        torch.manual_seed(stream(*key, -1).initial_seed())  # -1: not the stream of augmentation


def position(checkpoint: Mapping[str, Any]) -> tuple[int, int]:
    """Epochs with all batches done, and batches done of the next; ValueError for another form."""
    ready = int(checkpoint.get("epoch", -1)) + 1
    own = {
        "epoch_progress": {"current": {"processed": 0, "ready": ready}},
        "epoch_loop.batch_progress": {"current": {"ready": 0}, "is_last_batch": True},
    }
    loop = conform("loops", {"fit_loop": own}, checkpoint.get("loops", {}))["fit_loop"]
    epochs, batches = loop["epoch_progress"]["current"], loop["epoch_loop.batch_progress"]
    done = max(epochs["processed"], epochs["ready"] - (not batches["is_last_batch"]))
    return done, batches["current"]["ready"] if done < epochs["ready"] else 0


def resume(trainer: pl.Trainer, checkpoint: Mapping[str, Any]) -> None:
    """Set the place of the loader, and Lightning's counts, which would leave out an epoch."""
    data, loop = trainer.datamodule, checkpoint["loops"]["fit_loop"]  # type: ignore[attr-defined]
    if hasattr(data, "start"):
        data.start = position(checkpoint)
    epochs, batches = loop["epoch_progress"], loop["epoch_loop.batch_progress"]
    if trainer.max_steps != -1 and epochs["current"]["processed"] == epochs["current"]["ready"]:
        for progress in epochs.values():
            progress["completed"] = progress["processed"]
        batches.update(current=dict.fromkeys(batches["current"], 0), is_last_batch=False)
        loop["epoch_loop.state_dict"]["_batches_that_stepped"] -= 1  # the restart adds one


class LastCheckpoint(ModelCheckpoint):
    """Saves `last.ckpt` after every epoch, every N steps, and when a signal stops the run.

    The first SIGINT, SIGTERM or SIGHUP stops the run after an optimisation step, the second at
    once. Several ranks stop together, at a logging interval. `stopped_by` is the signal's number.
    """

    def __init__(self, dirpath: str | Path, every_n_train_steps: int | None = None) -> None:
        how: dict[str, Any] = {"save_on_train_epoch_end": True, "enable_version_counter": False}
        super().__init__(dirpath, "last", **how)
        require_whole("every_n_train_steps", every_n_train_steps or 0, least=0)
        self.steps = every_n_train_steps or math.inf
        self.stopped_by: int | None = None

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Handle the signals, until the trainer restores their handlers."""
        if threading.current_thread() is threading.main_thread():
            for name in ("SIGINT", "SIGTERM", "SIGHUP"):  # Windows has no SIGHUP, nohup ignores it
                number = getattr(signal, name, signal.SIGINT)
                if signal.getsignal(number) != signal.SIG_IGN:
                    signal.signal(number, self._stop)

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, *step: Any) -> None:
        """Save after a step; the last one of an epoch is saved with the epoch."""
        done, steps = step[-1] + 1, trainer.global_step
        if done % trainer.accumulate_grad_batches or done == trainer.num_training_batches:
            return
        interval = trainer.log_every_n_steps if trainer.world_size > 1 else 1  # type: ignore[attr-defined]
        stops = steps % max(1, interval) == 0 and self._stops(trainer)
        if stops or steps % self.steps == 0:
            trainer.save_checkpoint(Path(str(self.dirpath)) / "last.ckpt", weights_only=False)
        if stops:
            raise KeyboardInterrupt

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Stop between epochs."""
        if self._stops(trainer):
            raise KeyboardInterrupt

    on_train_end = on_train_epoch_start

    def _stop(self, number: int, frame: object) -> None:
        self.stopped_by = number
        signal.signal(number, signal.default_int_handler)
        try:
            os.write(2, b"\nStopping after this step; Ctrl+C stops at once.\n")  # print() may fail
        except OSError:  # the terminal is gone: write nothing more there
            for stream in (1, 2):
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream)

    def _stops(self, trainer: pl.Trainer) -> bool:
        return trainer.strategy.reduce_boolean_decision(self.stopped_by is not None, all=False)
