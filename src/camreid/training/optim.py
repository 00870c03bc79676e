"""Optimisers and learning-rate schedules, all lengths in epochs or fractions of the run."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import nn

from camreid.errors import InputError, require_number

Optimizer = Literal["adam", "adamw", "sgd"]
Decay = Literal["multistep", "cosine", "constant"]


@dataclass(frozen=True)
class OptimizerConfig:
    """Which optimiser.

    Attributes:
        name: `adam` (coupled weight decay, as FastReID's), `adamw` or `sgd`.
        lr: the learning rate after the warm-up.
        weight_decay: of all tensors alike, but for `norm_weight_decay`.
        momentum: of `sgd`.
        norm_weight_decay: of all tensors of one dimension: biases, norms, exponents of pooling;
            None for `weight_decay`.
        clip: largest gradient norm of each tensor by itself; None for any.
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
                require_number(f"model.optimizer.{name}", getattr(self, name), least=0)
        if self.name not in get_args(Optimizer) or not self.lr > 0 or self.weight_decay < 0:
            raise InputError(
                f"{self}: expected model.optimizer.name= one of {', '.join(get_args(Optimizer))}, "
                "lr above 0 and weight_decay of at least 0."
            )

    def build(self, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        """The optimiser of the parameters that want a gradient."""
        trained = self._groups([p for p in parameters if p.requires_grad])
        if self.name == "adam":
            return torch.optim.Adam(trained, self.lr, weight_decay=self.weight_decay)
        if self.name == "adamw":
            return torch.optim.AdamW(trained, self.lr, weight_decay=self.weight_decay)
        return torch.optim.SGD(
            trained, self.lr, momentum=self.momentum, weight_decay=self.weight_decay
        )

    def _groups(self, trained: list[nn.Parameter]) -> list[Any]:
        if self.norm_weight_decay is None:
            return trained
        return [
            {"params": [p for p in trained if p.ndim > 1]},
            {
                "params": [p for p in trained if p.ndim <= 1],
                "weight_decay": self.norm_weight_decay,
            },
        ]


@dataclass(frozen=True)
class Schedule:
    """The learning rate over a run, as a factor of the optimiser's.

    Linear warm-up by the step, then a decay by the epoch. A length below 1 is a fraction of the
    run, one from 1 a number of epochs.

    Attributes:
        warmup: length of the warm-up.
        warmup_factor: where the warm-up starts.
        decay: `multistep`, `cosine` or `constant`.
        milestones: lengths after which `multistep` multiplies by `gamma`.
        gamma: see `milestones`.
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
        if (
            self.decay not in get_args(Decay)
            or min((self.warmup, self.delay, *self.milestones)) < 0
        ):
            raise InputError(
                f"{self}: expected model.schedule.decay= one of {', '.join(get_args(Decay))}, and "
                "lengths in epochs (from 1) or fractions of the run (below 1)."
            )

    def factor(self, epoch: float, epochs: int) -> float:
        """The factor at a moment of the run.

        Args:
            epoch: epochs done, with fraction.
            epochs: length of the run.
        """
        warmup = _epochs(self.warmup, epochs)
        ramp = 1.0
        if epoch < warmup:
            ramp = self.warmup_factor + (1 - self.warmup_factor) * epoch / warmup
        return ramp * self._decayed(math.floor(epoch + 1e-6), warmup, epochs)

    def _decayed(self, epoch: int, warmup: float, epochs: int) -> float:
        if self.decay == "multistep":
            return self.gamma ** sum(epoch >= _epochs(m, epochs) for m in self.milestones)
        start = max(warmup, _epochs(self.delay, epochs))
        if self.decay == "cosine" and epoch > start:
            done = min(1.0, (epoch - start) / max(1.0, epochs - start))
            return self.final_factor + (1 - self.final_factor) * (1 + math.cos(math.pi * done)) / 2
        return 1.0


def _epochs(length: float, epochs: int) -> float:
    return length * epochs if length < 1 else length
