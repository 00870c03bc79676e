import json

import pytest
import torch
from torch import nn

from camreid.errors import InputError
from camreid.training import OptimizerConfig, Schedule
from tests.conftest import GOLDEN


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


def test_cosine_ends_where_it_is_told() -> None:
    schedule = Schedule(warmup=2, warmup_factor=0.1, decay="cosine", final_factor=0.02)
    assert schedule.factor(2, 12) == 1.0
    assert schedule.factor(7, 12) == pytest.approx(0.51)
    assert schedule.factor(12, 12) == pytest.approx(0.02)
    values = factors(schedule, 12)[2:]
    assert values == sorted(values, reverse=True)


# what FastReID does, in its own numbers: drops written as 40 and 90 happen at 49 and 99, because
# its counter starts after the warm-up of 2,000 steps
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
