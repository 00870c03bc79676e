"""A loss that is not finite stops a training before the optimiser steps."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from camreid.errors import InputError
from camreid.files import write_whole
from camreid.losses.identity import identity_loss
from camreid.models.network import ReIDOutput
from camreid.models.pixels import read_later
from camreid.training.batch import Batch

Losses = Mapping[str, tuple[float, Tensor]]


class LossCheck:
    """Reads the loss of a step when its backward pass is queued, so that no GPU waits.

    InputError names the term and heads of a loss that is not finite. `diverged.ckpt` keeps the
    weights and the optimiser before that step, and the names and pids of its batch.
    """

    def __init__(self) -> None:
        self._pending: Callable[[], None] | None = None

    def __call__(self) -> None:
        """Check the last step, if it was not yet."""
        pending, self._pending = self._pending, None
        if pending is not None:
            pending()

    def expect(self, total: Tensor, losses: Losses, *step: Any) -> None:
        """Check `total` later; `step` is module, batch, `Batch`, output, and rows by head."""
        self()  # of a batch whose gradients are accumulated
        read = read_later(total.detach())

        def check() -> None:
            if not read().isfinite():
                values = {name: weight * value for name, (weight, value) in losses.items()}
                wrong = (name for name, value in values.items() if not value.isfinite())
                raise _stop(next(wrong, "sum"), float(read()), *step)

        self._pending = check


def _heads(
    term: str, module: Any, batch: Batch, output: ReIDOutput, rows: Mapping[str, Tensor]
) -> list[str]:
    """The heads of which a loss of this process is not finite."""
    if term == "identity":
        smoothing = module.loss.smoothing
        values = {n: identity_loss(output.logits[n], own, smoothing) for n, own in rows.items()}
    else:
        loss = module.metric_losses.get(term, (0, lambda embeddings, _: embeddings.sum()))[1]
        values = {name: loss(own, batch.pids) for name, own in output.embeddings.items()}
    return [name for name, value in values.items() if not value.isfinite()]


def _stop(
    term: str, value: float, module: Any, given: Mapping[str, Any], batch: Batch, *step: Any
) -> InputError:
    """The error, when the state is saved in the folder of the trainer."""
    paths, trainer = [str(path) for path in given.get("img_paths", ())], module._trainer
    found = f"the {term} loss of {', '.join(_heads(term, module, batch, *step)) or 'all heads'}"
    remedy: dict[str, Any] = {"optimizer__lr": module.optimizer_config.lr / 10}
    if trainer is None:
        return InputError(f"{found} is {value}.", **remedy)
    file = Path(trainer.default_root_dir, "checkpoints", "diverged.ckpt")
    state = {
        "state_dict": module.state_dict(),
        "hyper_parameters": dict(module.hparams),
        "optimizer_states": [own.state_dict() for own in trainer.optimizers],
        "batch": {"img_paths": paths, "pids": batch.pids.cpu()},
    }
    module.on_save_checkpoint(state)
    write_whole(file, lambda draft: torch.save(state, draft))
    remedy |= {"precision": "32-true"} if trainer.precision != "32-true" else {}
    return InputError(
        f"{found} is {value} in epoch {trainer.current_epoch + 1}, step {trainer.global_step + 1}, "
        f"of images such as {', '.join(paths[:3])}. {file} has the state before this step.",
        **remedy,
    )
