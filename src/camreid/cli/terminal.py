"""The terminal of a run, and its log."""

import io
import logging
import os
import warnings
from typing import Any

import torch
from pytorch_lightning.utilities import rank_zero_only
from rich.console import Console, RenderableType

from camreid.data.cache import cores
from camreid.progress import note, printable

_NOISE = (
    ".*does not have many workers.*",  # loaders get one process a core, which Lightning finds few
    ".*it is recommended to use .*devices=1.*",  # repeats are counted once, by index
    "Experiment logs directory .* exists and is not empty.*",  # the run folder, on purpose
    "Checkpoint directory .* exists and is not empty.*",  # of a run that is continued
    "The dirpath has changed from .*",  # of a run that is continued elsewhere
    ".*`isinstance\\(treespec, LeafSpec\\)` is deprecated.*",  # Lightning 2.6 on torch 2.15
    "Total length of `list` across ranks is zero.*",  # no validation, which was announced
    "The number of training batches .* is smaller than the logging interval.*",  # logged by epoch
    "You're resuming from a checkpoint that ended before the epoch ended.*",  # our sampler goes on
    "Grad strides do not match bucket view strides.*",  # of 1 x 1 convolutions; costs a copy
)


@rank_zero_only
def show(*parts: RenderableType) -> None:
    """Print lines or tables once, and keep them in the run's log."""
    record = io.StringIO()
    parts = tuple(printable(part) if isinstance(part, str) else part for part in parts)
    for console in (Console(soft_wrap=True), Console(file=record, width=120)):
        console.print(*parts, sep="\n", highlight=False, markup=False, emoji=False)
    logging.getLogger("camreid").info(record.getvalue().rstrip())


def be_quiet() -> None:
    """Leave the terminal to the command's own lines."""
    for message in _NOISE:
        warnings.filterwarnings("ignore", message=message)


def set_threads(trainer: Any) -> None:
    """Set PyTorch's threads by `trainer.threads`; without it, a hint if the machine is busy."""
    threads = trainer and trainer.get("threads")
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0
    if threads is not None:
        torch.set_num_threads(threads)
    elif load > cores() and torch.get_num_threads() > 1:
        remedy = "type trainer.threads=1" if trainer else "set OMP_NUM_THREADS=1"
        note(f"The load is {load:.1f} on {cores()} cores: one thread may be faster, {remedy}.")
