"""The end of a training on several processes, one of which has failed."""

import os
import signal
import sys
import threading
import time
import traceback
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig
from pytorch_lightning.trainer.states import TrainerStatus

from camreid.cli.errors import paragraph
from camreid.cli.folder import ERROR, discard, launched
from camreid.errors import InputError
from camreid.progress import is_first, printable


class FirstFailure(pl.Callback):
    """Ends all processes when one fails, and prints the error of the first alone."""

    def __init__(self, config: DictConfig) -> None:
        self.config, self._is_watching = config, False

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Watch the processes that this one has started, or the one that started it."""
        started = getattr(trainer.strategy.launcher, "procs", [])
        parent = os.getppid() if not (is_first() or launched()[0]) else None

        def watch() -> None:
            while not any(p.poll() for p in started) and parent in (None, os.getppid()):
                time.sleep(0.5)
            time.sleep(2)  # its own error comes first
            states = [TrainerStatus.RUNNING, *[TrainerStatus.FINISHED] * bool(started)]
            if trainer.state.status in states:
                reason = InputError("another process of this training was killed.")
                self.on_exception(trainer, pl_module, reason)

        if (started or parent) and not self._is_watching:
            self._is_watching = True
            for thread in threading.enumerate():  # Lightning's kills without a word
                if thread.name == "child-process-observer":
                    thread._child_processes = []  # type: ignore[attr-defined]
            threading.Thread(target=watch, daemon=True).start()

    def on_exception(self, trainer: pl.Trainer, pl_module: Any, exception: BaseException) -> None:
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
            print(f"camreid-{run.job.config_name}: {printable(message)}", file=sys.stderr)
        elif message is None:
            traceback.print_exception(exception)
        sys.stderr.flush()
        if trainer.strategy.launcher is not None:
            trainer.strategy.launcher.kill(signal.SIGKILL)
        if message is not None:
            discard(folder)
        os._exit(1)  # a process that waits for the others in an exit handler would not end
