"""The moving average of the weights, which is evaluated and saved in place of the last ones."""

from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import WeightAveraging
from pytorch_lightning.trainer.states import TrainerFn
from torch import Tensor, nn

from camreid.errors import require_number


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
