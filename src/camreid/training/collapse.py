"""Notice while a network trains that its embedding does not separate identities."""

import logging

import pytorch_lightning as pl
import torch
from torch import Tensor

METRIC = "train/separation"


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
