"""A loss that is not finite stops a training before the optimiser steps."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from camreid.errors import InputError
from camreid.files import write_whole
from camreid.losses.identity import identity_loss
from camreid.models.pixels import read_later
from camreid.training.checkpoint_io import not_finite


def loss_check(
    module: Any, batch: Any, losses: Any, pids: Tensor, output: Any, rows: Mapping[str, Tensor]
) -> Callable[[], None]:
    """A check of weighted `losses` for when the backward pass is queued: no GPU waits.

    InputError names the term, its heads, and `diverged.ckpt`: the weights and the optimiser before
    this step, and the names and pids of the batch. `rows` are (B,) by head.
    """
    module._check_loss()  # of the batch before, where gradients are accumulated
    read = read_later(torch.stack([value.detach() for _, value in losses.values()]))

    def check() -> None:
        module._check_loss = bool  # can be pickled
        values = dict(zip(losses, read().tolist(), strict=True))
        if term := next((name for name, v in values.items() if not abs(v) < torch.inf), None):
            metric = module.metric_losses.get(term, (0, lambda own, _: own.sum()))[1]
            heads = {name: metric(own, pids) for name, own in output.embeddings.items()}
            if term == "identity":
                heads = {k: identity_loss(output.logits[k], own) for k, own in rows.items()}
            where = ", ".join(name for name, value in heads.items() if not value.isfinite())
            found = f"the {term} loss of {where or 'all heads'} is {values[term]}"
            raise _stop(module, batch.get("img_paths", ()), pids, found)

    return check


def _stop(module: Any, paths: Any, pids: Tensor, found: str) -> InputError:
    """The error, its state saved in the folder of the trainer."""
    trainer, names = module._trainer, [str(path) for path in paths]
    remedy: dict[str, Any] = {"optimizer__lr": float(f"{module.optimizer_config.lr / 10:g}")}
    if trainer is not None:
        file = Path(trainer.default_root_dir, "checkpoints", "diverged.ckpt")
        state = {"state_dict": module.state_dict(), "hyper_parameters": dict(module.hparams)}
        state["optimizer_states"] = [own.state_dict() for own in trainer.optimizers]
        state["batch"] = {"img_paths": names, "pids": pids.cpu()}
        module.on_save_checkpoint(state)
        write_whole(file, lambda draft: torch.save(state, draft))
        found += f" in epoch {trainer.current_epoch + 1}, step {trainer.global_step + 1}, of images"
        found += f" such as {', '.join(names[:3])}. {file} has the state before this step"
        if broken := not_finite(module.state_dict()):
            found += f", where {broken} has NaN or infinity: the gradient of an earlier step did"
        remedy |= {"precision": "32-true"} if trainer.precision != "32-true" else {}
    return InputError(f"{found}.", **remedy)
