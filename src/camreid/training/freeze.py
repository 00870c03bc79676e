"""Freezing parts of a network at the start of training."""

from collections.abc import Sequence
from difflib import get_close_matches
from typing import Any

import pytorch_lightning as pl
import torch
from torch import nn

from camreid.errors import InputError, require_number
from camreid.training.module import ReIDModule
from camreid.training.optim import RunLength, in_epochs


class Freeze(pl.Callback):
    """Keeps modules as they are until the new parts beside them have learnt something.

    Their batch norms use their running statistics and keep them; their gradients never reach the
    optimiser, nor a clipping of gradients. Modules are named exactly: in FastReID `b1` freezes
    every name that begins with it, all of MGN's heads among them. The moment to let go is counted
    from the start of the run, through a `resume=` too.

    Args:
        modules: dotted names within the network, such as `backbone.trunk`, or `trunk` and
            `branches` of MGN.
        length: in epochs, or a fraction of the run below 1.
    """

    def __init__(self, modules: Sequence[str], length: float) -> None:
        require_number("callbacks.freeze.length", length, least=0)
        self.modules, self.length = tuple(modules), length
        self._frozen: list[nn.Module] = []
        self._end = 0.0  # in optimisation steps

    def state_dict(self) -> dict[str, float]:
        """The step that ends the freezing, which a longer resumed run keeps."""
        return {"end": self._end}

    def load_state_dict(self, state_dict: dict[str, float]) -> None:
        """See `state_dict`."""
        self._end = state_dict["end"]

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Find the modules; InputError names those that there are."""
        if not isinstance(pl_module, ReIDModule):
            raise InputError("Freeze is for a camreid.models.ReIDModule.")
        there = dict(pl_module.model.named_modules())
        for name in self.modules:
            if not name or name not in there:
                near = get_close_matches(name, there, n=3) or list(there)[1:4]
                raise InputError(
                    f"callbacks.freeze.modules names {name!r}, which {pl_module.config.name} does "
                    f"not have; did you mean {', '.join(near)}?"
                )
        self._frozen = [there[name] for name in self.modules]
        if trainer.ckpt_path is None:
            run = RunLength.of(trainer)
            self._end = in_epochs(self.length, run.epochs) * run.steps_per_epoch

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Hold the modules in evaluation mode, or let them train."""
        train = trainer.global_step >= self._end
        for module in self._frozen:
            if module.training != train:
                module.train(train)

    def on_before_optimizer_step(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        """Take the gradients away; the parameters still take part in DDP's exchange."""
        if self._frozen and not self._frozen[0].training:
            for module in self._frozen:
                for parameter in module.parameters():
                    parameter.grad = None
