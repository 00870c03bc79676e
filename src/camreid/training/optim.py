"""Optimisers and learning-rate schedules; lengths are epochs or fractions of the run."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

import pytorch_lightning as pl
from timm.optim import create_optimizer_v2  # type: ignore[attr-defined]
from torch import nn, optim
from torch.optim.lr_scheduler import LRScheduler

from camreid.errors import InputError, require_choice, require_number
from camreid.training.checkpoint_io import conform

Optimizer = Literal["adam", "adamw", "sgd"]
Decay = Literal["multistep", "cosine", "cosine_steps", "constant"]


@dataclass(frozen=True)
class OptimizerConfig:
    """The optimiser."""

    name: Optimizer  # adam has coupled weight decay, as FastReID's
    lr: float  # after the warm-up
    weight_decay: float
    momentum: float = 0.9  # of sgd
    norm_weight_decay: float | None = None  # of biases, norms and exponents of pooling
    clip: float | None = None  # largest gradient norm of each single tensor

    def __post_init__(self) -> None:
        require_choice("optimizer.name", self.name, Optimizer)
        for name in ("lr", "weight_decay", "momentum", "norm_weight_decay", "clip"):
            if getattr(self, name) is not None:
                require_number(f"optimizer.{name}", getattr(self, name), least=0)

    def build(self, parameters: Iterable[nn.Parameter], fused: bool = False) -> optim.Optimizer:
        """The optimiser of the parameters with a gradient; `fused` steps them in one kernel."""
        trained = [p for p in parameters if p.requires_grad]
        groups: list[dict[str, Any]] = [{"params": trained}]
        if self.norm_weight_decay is not None:
            norms = [p for p in trained if p.ndim <= 1]
            groups = [{"params": [p for p in trained if p.ndim > 1]}]
            groups.append({"params": norms, "weight_decay": self.norm_weight_decay})
        name = "momentum" if self.name == "sgd" else self.name  # timm's sgd is Nesterov's
        how = (fused and all(p.device.type in ("cpu", "cuda") for p in trained)) or None
        own = self.lr, self.weight_decay, self.momentum
        return create_optimizer_v2(groups, name, *own, fused=how)


def clip_each(parameters: Iterable[nn.Parameter], norm: float) -> None:
    """Scale the gradient of each tensor to at most a norm, without waiting for a device."""
    for parameter in parameters:
        nn.utils.clip_grad_norm_(parameter, norm)


def run_length(trainer: pl.Trainer) -> tuple[int, float]:
    """Optimisation steps of an epoch, and epochs of the run, with fraction; may be infinite."""
    trainer.fit_loop.setup_data()
    batches = trainer.num_training_batches if trainer.limit_train_batches else 0
    if batches == math.inf:
        raise InputError("the train loader has no length.", limit_train_batches=200)
    steps = max(1, math.ceil(batches / trainer.accumulate_grad_batches))
    return steps, trainer.estimated_stepping_batches / steps


def in_epochs(length: float, epochs: float) -> float:
    """A length below 1 is a fraction of a run of `epochs`, one from 1 a number of epochs."""
    return length * epochs if 0 < length < 1 else length


@dataclass(frozen=True)
class Schedule:
    """The learning rate over a run, as a factor of the optimiser's.

    Linear warm-up by the step, then a decay by the epoch, or by the step for `cosine_steps`. See
    `in_epochs` for lengths.

    >>> s = Schedule(warmup=1, warmup_factor=0.1, decay="multistep", milestones=(0.5,), gamma=0.1)
    >>> [round(s.factor(epoch, epochs=4), 3) for epoch in (0, 0.5, 1, 2, 3)]
    [0.1, 0.55, 1.0, 0.1, 0.1]
    """

    warmup: float  # length; a fraction of the first epoch in a run without end
    warmup_factor: float  # where the warm-up starts
    decay: Decay
    milestones: tuple[float, ...] = ()  # where multistep multiplies by gamma
    gamma: float = 0.1
    final_factor: float = 0.0  # where cosine ends
    delay: float = 0.0  # length before cosine begins, at least the warm-up

    def __post_init__(self) -> None:
        require_choice("schedule.decay", self.decay, Decay)
        lengths = [("warmup", self.warmup), ("delay", self.delay)]
        for name, length in (*lengths, *(("milestones", m) for m in self.milestones)):
            require_number(f"schedule.{name}", length, least=0)

    def factor(self, epoch: float, epochs: float) -> float:
        """The factor after `epoch` of `epochs`, with fractions; `epochs` may be infinite."""
        warmup = in_epochs(self.warmup, epochs if epochs < math.inf else 1)
        if epoch < warmup:
            return self.warmup_factor + (1 - self.warmup_factor) * epoch / warmup
        done = epoch if self.decay == "cosine_steps" else math.floor(epoch + 1e-6)
        if self.decay == "multistep":
            return self.gamma ** sum(done >= in_epochs(m, epochs) for m in self.milestones)
        start = max(warmup, in_epochs(self.delay, epochs))
        if self.decay.startswith("cosine") and done > start:
            share = (done - start) / (epochs - start) if done < epochs else 1.0
            return self.final_factor + (1 - self.final_factor) * (1 + math.cos(math.pi * share)) / 2
        return 1.0


class ScheduleLR(LRScheduler):
    """Sets the learning rate of every step; a resumed run keeps its milestones, also if longer."""

    def __init__(
        self, optimizer: optim.Optimizer, schedule: Schedule, steps_per_epoch: int, epochs: float
    ) -> None:
        self.schedule, self.steps_per_epoch, self.epochs = schedule, steps_per_epoch, epochs
        super().__init__(optimizer)

    def get_lr(self) -> list[Any]:
        """See `Schedule.factor`."""
        factor = self.schedule.factor(self.last_epoch / self.steps_per_epoch, self.epochs)
        return [lr * factor for lr in self.base_lrs]

    def state_dict(self) -> dict[str, Any]:
        """Numbers only."""
        return {name: v for name, v in super().state_dict().items() if name != "schedule"}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """From a state of `state_dict`; InputError for another form."""
        super().load_state_dict(conform("lr_schedulers", self.state_dict(), state_dict))
        try:
            self.get_lr()
        except ArithmeticError as error:
            raise InputError(f"lr_schedulers gives no learning rate ({error})") from error
