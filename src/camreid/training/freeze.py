"""Freezing parts of a network at the start of training."""

from collections.abc import Sequence
from difflib import get_close_matches
from typing import Any

import pytorch_lightning as pl

from camreid.errors import InputError, require_number
from camreid.training.optim import in_epochs, run_length


class Freeze(pl.Callback):
    """Freezes modules at the start, so that the new parts of a network train first.

    Frozen batch norms use and keep their running statistics. `modules` are exact dotted names, such
    as `backbone.trunk`. `length` is in epochs, or a fraction of the run below 1.
    """

    def __init__(self, modules: Sequence[str], length: float) -> None:
        require_number("length", length, least=0)
        self.modules, self.length, self._end = tuple(modules), length, 0.0  # end in steps

    def state_dict(self) -> dict[str, float]:
        """The step that ends the freezing."""
        return {"end": self._end}

    def load_state_dict(self, state_dict: dict[str, float]) -> None:
        """See `state_dict`."""
        self._end = state_dict["end"]

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Find the modules; InputError suggests names."""
        found = dict(pl_module.model.named_modules())  # type: ignore[union-attr]
        for name in self.modules:
            if name not in found:
                near = ", ".join(get_close_matches(name, found, n=3) or list(found)[1:4])
                raise InputError(f"modules={name}: the network has no such part; try {near}.")
        self._frozen = [found[name] for name in self.modules]
        if trainer.ckpt_path is None:
            steps_per_epoch, epochs = run_length(trainer)
            self._end = in_epochs(self.length, epochs) * steps_per_epoch

    def on_train_batch_start(self, trainer: pl.Trainer, *_: Any) -> None:
        """Keep the modules in evaluation mode, or let them train."""
        train = trainer.global_step >= self._end
        for module in (frozen for frozen in self._frozen if frozen.training != train):
            module.train(train)

    def on_before_optimizer_step(self, trainer: pl.Trainer, *_: Any) -> None:
        """Drop the gradients; the parameters still take part in DDP's exchange."""
        if trainer.global_step < self._end:
            for module in self._frozen:
                module.zero_grad()
