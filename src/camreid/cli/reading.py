"""Checkpoints as the commands read them: networks of other packages only if the user names them."""

from pathlib import Path

from camreid.checkpoints import io
from camreid.cli.errors import trusted
from camreid.training.module import ReIDModule


def read_checkpoint(path: str | Path) -> io.Checkpoint:
    """See `camreid.checkpoints.read_checkpoint`."""
    return io.read_checkpoint(path, trusted)


def load(path: str | Path) -> ReIDModule:
    """The model of a checkpoint, in evaluation mode on the CPU."""
    return read_checkpoint(path).module()
