"""Optimisers, and the learning rates and validations of a run."""

import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelCheckpoint
from torch import nn
from torch.utils.data import DataLoader, IterableDataset

from camreid.errors import InputError
from camreid.training import OptimizerConfig, ReIDModule, Schedule
from camreid.training.evaluation_loop import RetrievalModule
from tests.conftest import GOLDEN

Trainer = Callable[..., pl.Trainer]


class OneWeight(RetrievalModule):
    """Keeps the factor of each learning rate and the step of each validation."""

    configure_optimizers = ReIDModule.configure_optimizers

    def __init__(self, schedule: Schedule) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))
        self.schedule, self.optimizer_config = schedule, OptimizerConfig("sgd", 0.5, 0.0)
        self.factors: list[float] = []
        self.validated: list[int] = []

    def training_step(self, batch: torch.Tensor) -> torch.Tensor:
        return self.weight.sum()

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        self.factors.append(optimizer.param_groups[0]["lr"] / 0.5)

    def validation_step(self, batch: torch.Tensor, batch_idx: int) -> None:
        self.validated.append(self.global_step)

    def on_validation_epoch_end(self) -> None:
        self.log("val/mAP", float(self.global_step))


def run(trainer: pl.Trainer, schedule: Schedule, **options: object) -> OneWeight:
    """A run with 4 batches in an epoch."""
    module = OneWeight(schedule)
    loaders = DataLoader(torch.zeros(4, 1)), DataLoader(torch.zeros(1, 1))  # type: ignore[arg-type]
    trainer.fit(module, *loaders, **options)  # type: ignore[arg-type]
    return module


def factors(schedule: Schedule, epochs: int) -> list[float]:
    return [schedule.factor(epoch, epochs) for epoch in range(epochs)]


def test_milestones_are_epochs_or_fractions() -> None:
    for milestones in (40, 90), (1 / 3, 0.75):
        found = factors(Schedule(0, 0.1, "multistep", milestones=milestones), 120)
        assert found == pytest.approx([1] * 40 + [0.1] * 50 + [0.01] * 30)


@pytest.mark.parametrize("decay", ["multistep", "cosine", "constant"])
def test_a_run_without_end_leaves_its_warm_up_and_does_not_decay(decay: str) -> None:
    schedule = Schedule(0.5, 0.1, decay, milestones=(0.5,))  # type: ignore[arg-type]
    found = [schedule.factor(epoch, math.inf) for epoch in (0, 0.25, 0.5, 100)]
    assert found == pytest.approx([0.1, 0.55, 1, 1])


# FastReID's own numbers: drops written as 40 and 90 happen at 49 and 99, because its counter
# starts after the warm-up of 2,000 steps
WARMUP = 2000 / 202
FASTREID = {
    "bagtricks_R50": (Schedule(WARMUP, 0.1, "multistep", milestones=(49, 99)), 120),
    "sbs_R50-ibn": (Schedule(WARMUP, 0.1, "cosine", final_factor=2e-3, delay=30), 60),
}


@pytest.mark.parametrize("config", FASTREID)
def test_learning_rates_are_fastreids(config: str) -> None:
    golden = json.loads((GOLDEN / "fastreid_lr.json").read_text())[config]
    schedule, epochs = FASTREID[config]
    by_epoch = [3.5e-4 * f for f in factors(schedule, epochs)]
    assert by_epoch == pytest.approx(golden["lr_used_at_first_iter_of_epoch"], rel=1e-6)
    for iteration, rate in golden["lr_used_at_iter"].items():
        assert 3.5e-4 * schedule.factor(int(iteration) / 202, epochs) == pytest.approx(rate)


@pytest.mark.parametrize(
    ("options", "steps", "per_epoch"),
    [
        ({"max_epochs": 3}, 12, 4),
        ({"max_epochs": 100, "max_steps": 6}, 6, 4),
        ({"max_epochs": -1, "max_steps": 13}, 13, 4),
        ({"max_epochs": 7, "accumulate_grad_batches": 3}, 14, 2),
        ({"max_epochs": 50, "accumulate_grad_batches": 2, "max_steps": 9}, 9, 2),
    ],
)
def test_lengths_are_of_the_steps_that_run(
    trainer: Trainer, options: dict[str, int], steps: int, per_epoch: int
) -> None:
    schedule, epochs = Schedule(2, 0.1, "multistep", milestones=(0.5,)), steps / per_epoch
    found = run(trainer(**options), schedule).factors
    assert found == pytest.approx([schedule.factor(i / per_epoch, epochs) for i in range(steps)])


@pytest.mark.parametrize("stop", [1, 3, 7, 8])
@pytest.mark.parametrize(
    "schedule",
    [
        Schedule(0.25, 0.1, "multistep", milestones=(0.5, 0.75)),
        Schedule(1, 0.1, "cosine", final_factor=0.01),
    ],
)
def test_more_epochs_do_not_raise_the_learning_rate(
    trainer: Trainer, tmp_path: Path, schedule: Schedule, stop: int
) -> None:
    whole = run(trainer(max_epochs=8), schedule).factors
    first = trainer(max_epochs=8, callbacks=[StopAt(4 * stop)])
    run(first, schedule)
    first.save_checkpoint(tmp_path / "last.ckpt")
    rest = run(trainer(max_epochs=16), schedule, ckpt_path=tmp_path / "last.ckpt").factors
    assert rest == pytest.approx(whole[4 * stop :] + [schedule.factor(8, 8)] * 32)


class StopAt(pl.Callback):
    """Ends a run after a number of steps."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_end(self, trainer: pl.Trainer, *_: object) -> None:
        trainer.should_stop = trainer.global_step >= self.step


@pytest.mark.parametrize(
    ("options", "validated"),
    [
        ({"max_epochs": 2, "check_val_every_n_epoch": 10}, [8]),
        ({"max_epochs": 3, "check_val_every_n_epoch": 2}, [8, 12]),
        ({"max_epochs": 2}, [4, 8]),
        ({"max_epochs": 9, "max_steps": 3}, [3]),
        ({"max_epochs": -1, "max_steps": 6}, [4, 6]),
        ({"max_epochs": 3, "check_val_every_n_epoch": 2, "max_steps": 10}, [8, 10]),
        ({"max_epochs": 2, "check_val_every_n_epoch": None, "val_check_interval": 5}, [5, 8]),
        ({"max_epochs": 1, "check_val_every_n_epoch": None, "val_check_interval": 50}, [4]),
        ({"max_epochs": 1, "val_check_interval": 3}, [3, 4]),
        ({"max_epochs": 2, "accumulate_grad_batches": 3, "max_steps": 3}, [2, 3]),
        ({"max_epochs": 3, "min_epochs": 3, "check_val_every_n_epoch": 2}, [8, 12]),
        ({"max_epochs": 9, "callbacks": [StopAt(2)]}, [2]),
        ({"max_epochs": 9, "callbacks": [StopAt(2)], "min_epochs": 2}, [4, 8]),
    ],
)
def test_the_last_step_is_validated_once(
    trainer: Trainer, tmp_path: Path, options: dict[str, Any], validated: list[int]
) -> None:
    best = ModelCheckpoint(tmp_path, "best", monitor="val/mAP", mode="max")
    callbacks = [*options.get("callbacks", ()), best]
    runner = trainer(**{**options, "enable_checkpointing": True, "callbacks": callbacks})
    assert run(runner, Schedule(0, 1.0, "constant")).validated == validated
    assert best.best_model_score == validated[-1]
    assert runner.check_val_every_n_epoch == options.get("check_val_every_n_epoch", 1)


def test_a_loader_without_a_length_is_refused(trainer: Trainer) -> None:
    class Endless(IterableDataset[torch.Tensor]):
        def __iter__(self) -> Iterator[torch.Tensor]:
            yield torch.zeros(1)

    with pytest.raises(InputError, match="limit_train_batches"):
        trainer().fit(OneWeight(Schedule(1, 0.1, "constant")), DataLoader(Endless()))


@pytest.mark.parametrize("name", ["adam", "adamw", "sgd"])
def test_norms_and_biases_may_decay_otherwise_and_frozen_ones_are_left_out(name: str) -> None:
    model = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3))
    model[0].bias.requires_grad_(False)
    config = OptimizerConfig(name, 0.1, 1e-4, norm_weight_decay=5e-4)  # type: ignore[arg-type]
    groups = config.build(model.parameters()).param_groups
    assert [(g["weight_decay"], len(g["params"])) for g in groups] == [(1e-4, 1), (5e-4, 2)]
