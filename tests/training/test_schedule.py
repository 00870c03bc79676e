"""Optimisers, and learning rates over a run."""

import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch
from torch import nn
from torch.utils.data import DataLoader, IterableDataset

from camreid.errors import InputError
from camreid.training import OptimizerConfig, Schedule
from tests.conftest import GOLDEN
from tests.training.one_weight import OneWeight

Trainer = Callable[..., pl.Trainer]


def factors(schedule: Schedule, epochs: int) -> list[float]:
    return [schedule.factor(epoch, epochs) for epoch in range(epochs)]


def test_warm_up_is_linear_by_the_step() -> None:
    schedule = Schedule(warmup=10, warmup_factor=0.1, decay="constant")
    assert schedule.factor(0, 120) == pytest.approx(0.1)
    assert schedule.factor(2.5, 120) == pytest.approx(0.325)
    assert schedule.factor(10, 120) == schedule.factor(119.9, 120) == 1.0


def test_milestones_are_epochs_or_fractions() -> None:
    by_epoch = Schedule(0, 0.1, "multistep", milestones=(40, 90))
    by_fraction = Schedule(0, 0.1, "multistep", milestones=(1 / 3, 0.75))
    assert factors(by_epoch, 120) == pytest.approx(factors(by_fraction, 120))
    assert factors(by_epoch, 120)[39:41] == pytest.approx([1, 0.1])
    assert factors(by_epoch, 120)[-1] == pytest.approx(0.01)


def test_cosine_ends_at_its_final_factor() -> None:
    schedule = Schedule(warmup=2, warmup_factor=0.1, decay="cosine", final_factor=0.02)
    assert schedule.factor(2, 12) == 1.0
    assert schedule.factor(7, 12) == pytest.approx(0.51)
    assert schedule.factor(12, 12) == pytest.approx(0.02)
    values = factors(schedule, 12)[2:]
    assert values == sorted(values, reverse=True)


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


def run(trainer: pl.Trainer, schedule: Schedule, **options: object) -> list[float]:
    """The factor of each optimisation step, with 4 batches in an epoch."""
    module = OneWeight(schedule)
    trainer.fit(module, DataLoader(torch.zeros(4, 1)), **options)  # type: ignore[arg-type]
    return module.factors


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
    found = run(trainer(**options), schedule)
    assert found == pytest.approx([schedule.factor(i / per_epoch, epochs) for i in range(steps)])
    warm = min(steps, 2 * per_epoch)
    expected = [0.1 + 0.9 * step / (2 * per_epoch) for step in range(warm)]
    assert found[:warm] == pytest.approx(expected)


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
    whole = run(trainer(max_epochs=8), schedule)
    first = trainer(max_epochs=8, callbacks=[StopAfter(stop)])
    run(first, schedule)
    first.save_checkpoint(tmp_path / "last.ckpt")
    rest = run(trainer(max_epochs=16), schedule, ckpt_path=tmp_path / "last.ckpt")
    done = 4 * stop
    assert len(rest) == 64 - done
    assert rest[: 32 - done] == pytest.approx(whole[done:])
    assert rest[32 - done :] == pytest.approx([schedule.factor(8, 8)] * 32)


class StopAfter(pl.Callback):
    """Ends a run after a number of epochs."""

    def __init__(self, epochs: int) -> None:
        self.epochs = epochs

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        trainer.should_stop = trainer.current_epoch + 1 == self.epochs


def test_a_loader_without_a_length_is_refused(trainer: Trainer) -> None:
    class Endless(IterableDataset[torch.Tensor]):
        def __iter__(self) -> Iterator[torch.Tensor]:
            yield torch.zeros(1)

    loader, module = DataLoader(Endless()), OneWeight(Schedule(1, 0.1, "constant"))
    with pytest.raises(InputError, match="limit_train_batches"):
        trainer().fit(module, loader)
    trainer(limit_train_batches=1).fit(module, loader)


def test_norms_and_biases_may_decay_otherwise() -> None:
    model = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3))
    config = OptimizerConfig("sgd", 0.1, 1e-4, norm_weight_decay=5e-4)
    groups = config.build(model.parameters()).param_groups
    assert [(g["weight_decay"], len(g["params"])) for g in groups] == [(1e-4, 1), (5e-4, 3)]


@pytest.mark.parametrize(
    ("name", "kind"),
    [("adam", torch.optim.Adam), ("adamw", torch.optim.AdamW), ("sgd", torch.optim.SGD)],
)
def test_optimisers_leave_out_what_is_frozen(name: str, kind: type) -> None:
    model = nn.BatchNorm1d(3)
    model.bias.requires_grad_(False)
    optimizer = OptimizerConfig(name, lr=0.1, weight_decay=0.01).build(model.parameters())  # type: ignore[arg-type]
    assert type(optimizer) is kind
    assert sum(len(g["params"]) for g in optimizer.param_groups) == 1


def test_bad_options_are_refused() -> None:
    with pytest.raises(InputError, match="adam, adamw, sgd"):
        OptimizerConfig("lion", 0.1, 0.0)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="multistep, cosine, constant"):
        Schedule(1, 0.1, "linear")  # type: ignore[arg-type]
