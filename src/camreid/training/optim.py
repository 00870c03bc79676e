"""Optimisers and learning-rate schedules; lengths are epochs or fractions of the run."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal, get_args

import pytorch_lightning as pl
import torch
from timm.optim import create_optimizer_v2  # type: ignore[attr-defined]
from torch import nn
from torch.optim.lr_scheduler import LRScheduler

from camreid.errors import InputError, require_number
from camreid.training.checkpoint_io import conform

Optimizer = Literal["adam", "adamw", "sgd"]
Decay = Literal["multistep", "cosine", "constant"]


@dataclass(frozen=True)
class OptimizerConfig:
    """The optimiser.

    Attributes:
        name: `adam` (coupled weight decay, as FastReID's), `adamw` or `sgd`.
        lr: the learning rate after the warm-up.
        weight_decay: of all tensors, except for `norm_weight_decay`.
        momentum: of `sgd`.
        norm_weight_decay: of tensors with one dimension: biases, norms, exponents of pooling;
            None for `weight_decay`.
        clip: largest gradient norm of each single tensor; None for no limit.
    """

    name: Optimizer
    lr: float
    weight_decay: float
    momentum: float = 0.9
    norm_weight_decay: float | None = None
    clip: float | None = None

    def __post_init__(self) -> None:
        for name in ("norm_weight_decay", "clip"):
            if getattr(self, name) is not None:
                require_number(f"optimizer.{name}", getattr(self, name), least=0)
        if self.name not in get_args(Optimizer) or not self.lr > 0 or self.weight_decay < 0:
            raise InputError(
                f"{self}: expected a name among {', '.join(get_args(Optimizer))}, lr above 0 and "
                "weight_decay of at least 0."
            )

    def build(self, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        """The optimiser of the parameters that require a gradient."""
        trained = [p for p in parameters if p.requires_grad]
        groups: list[dict[str, Any]] = [{"params": trained}]
        if self.norm_weight_decay is not None:
            norms = {"weight_decay": self.norm_weight_decay}
            groups = [
                {"params": [p for p in trained if p.ndim > 1]},
                {"params": [p for p in trained if p.ndim <= 1], **norms},
            ]
        name = "momentum" if self.name == "sgd" else self.name  # timm's sgd is Nesterov's
        return create_optimizer_v2(groups, name, self.lr, self.weight_decay, self.momentum)


@dataclass(frozen=True)
class RunLength:
    """The length of a run.

    Attributes:
        steps_per_epoch: optimisation steps of one pass over the train loader.
        epochs: of the run, with fraction; infinite for a run without end.
    """

    steps_per_epoch: int
    epochs: float

    @classmethod
    def of(cls, trainer: pl.Trainer) -> "RunLength":
        """By `max_epochs`, `max_steps` and `accumulate_grad_batches` of a trainer.

        Raises:
            InputError: the train loader has no length.
        """
        trainer.fit_loop.setup_data()
        batches = trainer.num_training_batches if trainer.limit_train_batches else 0
        if batches == math.inf:
            raise InputError(
                "the train loader has no length, and the schedule counts epochs; limit the "
                "batches of an epoch.",
                limit_train_batches=200,
            )
        steps = max(1, math.ceil(batches / trainer.accumulate_grad_batches))
        return cls(steps, trainer.estimated_stepping_batches / steps)


def in_epochs(length: float, epochs: float) -> float:
    """A length below 1 is a fraction of a run of `epochs`, one from 1 a number of epochs.

    >>> in_epochs(0.25, epochs=60), in_epochs(10, epochs=60)
    (15.0, 10)
    """
    return length * epochs if 0 < length < 1 else length


@dataclass(frozen=True)
class Schedule:
    """The learning rate over a run, as a factor of the optimiser's.

    Linear warm-up by the step, then a decay by the epoch. See `in_epochs` for lengths.

    Attributes:
        warmup: length of the warm-up; a fraction of the first epoch in a run without end.
        warmup_factor: where the warm-up starts.
        decay: `multistep`, `cosine` or `constant`.
        milestones: where `multistep` multiplies by `gamma`.
        gamma: the factor of each milestone.
        final_factor: where `cosine` ends.
        delay: length before `cosine` begins, at least the warm-up.

    >>> s = Schedule(warmup=1, warmup_factor=0.1, decay="multistep", milestones=(0.5,), gamma=0.1)
    >>> [round(s.factor(epoch, epochs=4), 3) for epoch in (0, 0.5, 1, 2, 3)]
    [0.1, 0.55, 1.0, 0.1, 0.1]
    """

    warmup: float
    warmup_factor: float
    decay: Decay
    milestones: tuple[float, ...] = ()
    gamma: float = 0.1
    final_factor: float = 0.0
    delay: float = 0.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "milestones", tuple(self.milestones))
        lengths = (self.warmup, self.delay, *self.milestones)
        if self.decay not in get_args(Decay) or min(lengths) < 0:
            raise InputError(
                f"{self}: expected a decay among {', '.join(get_args(Decay))}, and lengths in "
                "epochs (from 1) or fractions of the run (below 1)."
            )

    def factor(self, epoch: float, epochs: float) -> float:
        """The factor at a moment of the run.

        Args:
            epoch: epochs done, with fraction.
            epochs: length of the run; may be infinite.
        """
        warmup = in_epochs(self.warmup, epochs if epochs < math.inf else 1)
        if epoch < warmup:
            return self.warmup_factor + (1 - self.warmup_factor) * epoch / warmup
        done = math.floor(epoch + 1e-6)
        if self.decay == "multistep":
            return self.gamma ** sum(done >= in_epochs(m, epochs) for m in self.milestones)
        start = max(warmup, in_epochs(self.delay, epochs))
        if self.decay == "cosine" and done > start:
            share = min(1.0, (done - start) / max(1.0, epochs - start))
            return self.final_factor + (1 - self.final_factor) * (1 + math.cos(math.pi * share)) / 2
        return 1.0


class ScheduleLR(LRScheduler):
    """Sets the learning rate of every step by a `Schedule`.

    Its state holds the length of the run: a resumed run keeps the warm-up and the milestones that
    it started with, also if it becomes longer.
    """

    def __init__(
        self, optimizer: torch.optim.Optimizer, schedule: Schedule, run: RunLength
    ) -> None:
        self.schedule = schedule
        self.steps_per_epoch, self.epochs = run.steps_per_epoch, run.epochs
        super().__init__(optimizer)

    def get_lr(self) -> list[Any]:
        """The learning rate of each parameter group."""
        factor = self.schedule.factor(self.last_epoch / self.steps_per_epoch, self.epochs)
        return [lr * factor for lr in self.base_lrs]

    def state_dict(self) -> dict[str, Any]:
        """Numbers only."""
        return {name: v for name, v in super().state_dict().items() if name != "schedule"}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """From a state of `state_dict`; ValueError for another form."""
        super().load_state_dict(conform("lr_schedulers", self.state_dict(), state_dict))
        try:
            self.get_lr()
        except ArithmeticError as error:
            raise ValueError(f"lr_schedulers gives no learning rate ({error})") from error
