"""Callbacks of a training: moving average, frozen parts, and a warning of a collapse."""

import logging
from collections.abc import Sequence
from difflib import get_close_matches
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import WeightAveraging
from pytorch_lightning.trainer.states import TrainerFn
from torch import Tensor, nn

from camreid.errors import InputError, require_number
from camreid.training.optim import in_epochs, run_length

METRIC = "train/separation"


class EMA(WeightAveraging):
    """Exponential moving average of weights and running statistics.

    Validation, test, `state_dict` of checkpoints and the module after training have the average; a
    checkpoint has the trained weights as `current_model_state`. `decay` is the share of the average
    that a step keeps: after t steps at most (1 + t) / (10 + t), for short runs.
    """

    def __init__(self, decay: float = 0.999) -> None:
        require_number("decay", decay, 0, 1)
        super().__init__()
        self.decay = decay

    @torch.no_grad()
    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, *_: Any, **__: Any) -> None:
        """Update the average after an optimisation step, without waiting for the device."""
        done = self._latest_update_step
        if trainer.global_step == done or self._average_model is None:
            return
        decay = min(self.decay, (1 + done) / (10 + done)) if done else 0.0
        own, averages = _tensors(pl_module), _tensors(self._average_model.module)
        torch._foreach_lerp_(averages[True], own[True], 1 - decay)
        for average, now in zip(averages[False], own[False], strict=True):
            average.copy_(now)
        self._average_model.n_averaged += 1
        self._latest_update_step = trainer.global_step

    def on_load_checkpoint(self, trainer: pl.Trainer, pl_module: Any, checkpoint: Any) -> None:
        """Continue the average and the trained weights; a test keeps the average."""
        if trainer.state.fn == TrainerFn.FITTING:
            super().on_load_checkpoint(trainer, pl_module, checkpoint)

    def on_validation_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Evaluate the average, on all ranks with the running statistics of rank 0."""
        super().on_validation_epoch_start(trainer, pl_module)
        pl_module.on_validation_start()


def _tensors(module: nn.Module) -> dict[bool, list[Tensor]]:
    """Parameters and buffers, by whether they are of floating point."""
    tensors = [*module.parameters(), *module.buffers()]
    return {kind: [t for t in tensors if t.is_floating_point() == kind] for kind in (True, False)}


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


def separation(embeddings: Tensor, pids: Tensor) -> Tensor:
    """() 1 - p / n: mean distances p within identities and n between those of (B, d) embeddings.

    It is 0 where identities are not separated, and 1 for a batch that lacks one kind of pair.
    """
    values = embeddings.detach().float()
    distances, same = torch.cdist(values, values), pids[:, None] == pids
    pairs, others = same.sum() - len(pids), (~same).sum()  # no pair of an image and itself
    ratio = (distances * same).sum() / pairs / ((distances * ~same).sum() / others)
    return torch.where((pairs > 0) & (others > 0), torch.nan_to_num(1 - ratio, neginf=0.0), 1.0)


class CollapseWarning(pl.Callback):
    """Warns once if the mean `separation` of an epoch, after `start` epochs, is below `least`."""

    def __init__(self, least: float = 0.01, start: int = 1) -> None:
        self.least, self.start = least, start

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Look at the mean of the epoch."""
        found = float(trainer.callback_metrics.get(METRIC, 1.0))
        if trainer.is_global_zero and trainer.current_epoch >= self.start and found < self.least:
            self.least = -1.0  # warns once
            text = f"Epoch {trainer.current_epoch + 1}: the embedding has collapsed ({METRIC}"
            remedy = "Type +experiment=from_scratch, or init= or model.network.weights="
            logging.getLogger("camreid").warning(f"{text} {found:.3f}). {remedy}.")
