"""Soups of a matrix: made of the experts' weights, chosen on the split's validation images."""

from collections.abc import Sequence
from typing import Any

import pytorch_lightning as pl
from omegaconf import DictConfig

from camreid.checkpoints.average import check_alike, greedy, restate_batch_norm, soup
from camreid.checkpoints.io import Checkpoint, save
from camreid.cli import build, evaluate
from camreid.cli.experts import Expert
from camreid.cli.reading import read_checkpoint
from camreid.data import Split
from camreid.data.records import people
from camreid.errors import InputError
from camreid.training.module import ReIDModule

SOUPS = ("soup", "greedy_soup")


class Kitchen:
    """Where soups of experts are made.

    Args:
        config: of the command.
        split: whose train images give BatchNorm statistics, and whose val images choose.
        trainer: that computes features.
        experts: of the matrix.
    """

    def __init__(
        self, config: DictConfig, split: Split, trainer: pl.Trainer, experts: Sequence[Expert]
    ) -> None:
        self.config, self.split, self.trainer, self.experts = config, split, trainer, experts

    def make(self, how: str) -> tuple[ReIDModule, dict[str, Any]]:
        """A soup, written to `soups/`, and what there is to say about it.

        Args:
            how: one of `SOUPS`.

        Raises:
            InputError: these experts make no soup, or nothing is there to choose by.
        """
        if len(self.experts) < 2:
            raise InputError("there is one expert alone, and nothing to put together.")
        if how == "greedy_soup" and not self.split.val:
            raise InputError(
                "the split holds nobody out for validation, and a soup is not chosen on the test; "
                "type split.val_fraction=0.1."
            )
        checkpoints = [read_checkpoint(expert.path) for expert in self.experts]
        check_alike(checkpoints)
        about: dict[str, Any] = {}
        chosen: Sequence[int] = range(len(checkpoints))
        if how == "greedy_soup":
            build.require_validation(self.split)
            chosen, about = self._choose(checkpoints)
        module = self._cook([checkpoints[place] for place in chosen])
        about["ingredients"] = [self.experts[place].name for place in chosen]
        path = build.run_folder() / "soups" / f"{how}.ckpt"
        save(module, path, {"soup_of": [self.experts[place].path for place in chosen]})
        return module, {**about, "checkpoint": f"soups/{path.name}"}

    def _choose(self, checkpoints: Sequence[Checkpoint]) -> tuple[Sequence[int], dict[str, Any]]:
        """The ingredients of a greedy soup, and the mAP on the val images that led to them."""
        alone = [self._val(checkpoint.module()) for checkpoint in checkpoints]
        tried: dict[str, float] = {}

        def score(some: Sequence[int]) -> float:
            value = self._val(self._cook([checkpoints[place] for place in some]))
            tried["+".join(self.experts[place].name for place in some)] = value
            return value

        chosen = greedy(alone, score)
        val, seen = people(self.split.val), {pid for e in self.experts for pid in e.seen}
        names = [expert.name for expert in self.experts]
        return chosen, {
            "val_mAP": {**dict(zip(names, alone, strict=True)), **tried},
            "val_people": len(val),
            "val_people_seen": len(seen & set(val)),
        }

    def _val(self, module: ReIDModule) -> float:
        evaluate.set_evaluation(module, self.config.evaluation)
        data = build.build_data(self.config, self.split, module.config.image_size)
        (values,) = self.trainer.validate(module, data, verbose=False)
        return float(values["val/mAP"])

    def _cook(self, checkpoints: Sequence[Checkpoint]) -> ReIDModule:
        """A soup with BatchNorm statistics of train images, evenly chosen, in whole batches."""
        module = soup(checkpoints)
        if len(checkpoints) == 1:
            return module  # its statistics are its own
        data = build.build_data(self.config, self.split, module.config.image_size)
        size, train = data.eval_batch_size, self.split.train
        count = min(self.config.soup_images, len(train))
        count -= count % size if count > size else 0
        records = [train[place * len(train) // count] for place in range(count)]
        device = self.trainer.strategy.root_device
        module.to(device)
        loader = data.eval_dataloader(records, padded=False)
        restate_batch_norm(module.model, loader, device)
        return module
