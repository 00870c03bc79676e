"""Read, write, import and export checkpoints."""

from camreid.checkpoints.experts import save_experts
from camreid.checkpoints.foreign.importing import import_weights
from camreid.checkpoints.io import Checkpoint, load, read_checkpoint, save
from camreid.checkpoints.start import start_from

__all__ = ["Checkpoint", "import_weights", "load", "read_checkpoint", "save"]
__all__ += ["save_experts", "start_from"]
