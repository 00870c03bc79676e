"""The uniform soup of the experts' weights."""

from collections.abc import Sequence
from typing import Any

import pytorch_lightning as pl
from omegaconf import DictConfig

from camreid.checkpoints.average import restate_batch_norm, soup
from camreid.checkpoints.io import save
from camreid.cli import build
from camreid.cli.checkpoints import read_checkpoint
from camreid.cli.experts import Expert
from camreid.data import Split
from camreid.errors import InputError
from camreid.training.module import ReIDModule


def make_soup(
    config: DictConfig, split: Split, trainer: pl.Trainer, experts: Sequence[Expert]
) -> tuple[ReIDModule, dict[str, Any]]:
    """The soup, written to `soups/soup.ckpt`, and its entry in matrix.json.

    Its BatchNorm statistics are those of train images, evenly chosen, in whole batches.

    Args:
        config: of the command.
        split: of the run.
        trainer: its device computes the statistics.
        experts: at least two.

    Raises:
        InputError: there is one expert, or their weights can't be averaged.
    """
    if len(experts) < 2:
        raise InputError("a soup needs two experts or more, and there is one.")
    module = soup([read_checkpoint(expert.path) for expert in experts])
    data = build.build_data(config, split, module.config)
    size, train = data.eval_batch_size, split.train
    count = min(config.soup_images, len(train))
    count -= count % size if count > size else 0
    records = [train[place * len(train) // count] for place in range(count)]
    device = trainer.strategy.root_device
    loader = data.eval_dataloader(records, padded=False)
    restate_batch_norm(module.to(device).model, loader, device)
    path = build.run_folder() / "soups" / "soup.ckpt"
    save(module, path)
    ingredients = [expert.name for expert in experts]
    return module, {"ingredients": ingredients, "checkpoint": f"soups/{path.name}"}
