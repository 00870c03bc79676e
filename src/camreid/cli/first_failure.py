"""The end of a training on several processes, one of which has failed."""

import os
import signal
import sys
import time
import traceback
from pathlib import Path

import pytorch_lightning as pl
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from camreid.cli.errors import paragraph
from camreid.cli.folder import ERROR, discard


class FirstFailure(pl.Callback):
    """Ends all processes when one fails, and prints the error of the first alone."""

    def __init__(self, config: DictConfig) -> None:
        self.config = config

    def on_exception(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException
    ) -> None:
        """Print the error of the first process to fail, and end this one and those it started."""
        if trainer.world_size == 1 or not isinstance(exception, Exception):
            return
        run, message = HydraConfig.get(), paragraph(exception, self.config)
        folder = Path(run.runtime.output_dir)
        try:  # a file in the folder, which all processes share, marks the first
            (folder / ERROR).open("x", encoding="utf-8").write(f"{message or repr(exception)}\n")
        except OSError:
            message = ""
            time.sleep(0.2)  # the first to fail may still print
        if message:
            print(f"camreid-{run.job.config_name}: {message}", file=sys.stderr)
        elif message is None:
            traceback.print_exception(exception)
        sys.stderr.flush()
        if trainer.strategy.launcher is not None:
            trainer.strategy.launcher.kill(signal.SIGKILL)
        if message is not None:
            discard(folder)
        os._exit(1)  # a process that waits for the others in an exit handler would not end
