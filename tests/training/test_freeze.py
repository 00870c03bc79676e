"""Frozen parts stay as they are, and train later."""

from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch

from camreid.data import OriginalSplit, Records, ReIDDataModule
from camreid.errors import InputError
from camreid.training.callbacks import Freeze
from tests.conftest import tiny_module

Trainer = Callable[..., pl.Trainer]


class Watch(pl.Callback):
    """The parts that each step moves."""

    def on_fit_start(self, trainer: pl.Trainer, module: Any) -> None:
        self.moved: list[set[str]] = []
        self.last = deepcopy(module.model.state_dict())

    def on_train_batch_end(self, trainer: pl.Trainer, module: Any, *args: object) -> None:
        new, old = deepcopy(module.model.state_dict()), self.last
        self.moved.append({k.split(".")[0] for k, v in new.items() if not torch.equal(v, old[k])})
        self.last = new


@pytest.fixture
def data(records: Records) -> ReIDDataModule:
    split = OriginalSplit()(records)
    return ReIDDataModule(split, (64, 32), identities=4, instances=2, workers=0)


@pytest.mark.parametrize("length", [1, 0.5])
def test_frozen_parts_move_from_the_given_moment_on(
    data: ReIDDataModule, trainer: Trainer, length: float
) -> None:
    module, watch = tiny_module(data.split.labels), Watch()
    freeze = Freeze(["backbone.trunk"], length)
    runner = trainer(max_epochs=2, limit_train_batches=2, callbacks=[freeze, watch])
    runner.fit(module, data)
    assert watch.moved == [{"neck", "heads"}] * 2 + [{"backbone", "neck", "heads"}] * 2


def test_a_longer_resumed_run_does_not_freeze_again(
    data: ReIDDataModule, trainer: Trainer, tmp_path: Path
) -> None:
    module, last, watch = tiny_module(data.split.labels), tmp_path / "last.ckpt", Watch()
    options = {"limit_train_batches": 2, "callbacks": [Freeze(["backbone"], 0.5), watch]}
    first = trainer(max_epochs=2, **options)
    first.fit(module, data)
    first.save_checkpoint(last)
    trainer(max_epochs=8, max_steps=6, **options).fit(module, data, ckpt_path=last)
    assert ["backbone" in parts for parts in watch.moved] == [True, True]


def test_names_are_exact(data: ReIDDataModule, trainer: Trainer) -> None:
    freeze = Freeze(["backbone.trunks"], 1)
    with pytest.raises(InputError, match=r"try backbone\.trunk"):
        trainer(callbacks=[freeze]).fit(tiny_module(data.split.labels), data)
    with pytest.raises(InputError, match="expected a number of at least 0"):
        Freeze(["backbone"], -1)


def test_gradients_are_clipped_by_tensor(data: ReIDDataModule, trainer: Trainer) -> None:
    optimizer = {"name": "sgd", "lr": 1.0, "weight_decay": 0.0, "momentum": 0.0, "clip": 1e-3}
    schedule = {"warmup": 0, "warmup_factor": 1.0, "decay": "constant"}
    module = tiny_module(data.split.labels, optimizer=optimizer, schedule=schedule)
    before = {k: v.clone() for k, v in module.named_parameters()}
    trainer(limit_train_batches=1).fit(module, data)
    moves = {k: (v - before[k]).norm().item() for k, v in module.named_parameters()}
    assert max(moves.values()) == pytest.approx(1e-3, rel=1e-2)
    assert sum(m > 0.9e-3 for m in moves.values()) > 3
