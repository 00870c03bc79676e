import pytest
import torch
from torch import nn

from camreid.errors import InputError
from camreid.model import OptimizerConfig, Schedule


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
