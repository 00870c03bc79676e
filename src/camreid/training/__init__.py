"""Training with Lightning: module, callbacks, optimiser."""

from camreid.training.batch import Batch, read_batch
from camreid.training.head_check import HeadCheck
from camreid.training.module import ReIDModule
from camreid.training.optim import OptimizerConfig, Schedule

__all__ = ["Batch", "HeadCheck", "OptimizerConfig", "ReIDModule", "Schedule", "read_batch"]
