import json

import pytest
import torch

from camreid.errors import InputError
from camreid.model import LossConfig, TripletLoss, identity_loss
from tests.conftest import GOLDEN
from tests.golden.fill_rule import normal

VALUES = json.loads((GOLDEN / "fastreid_losses.json").read_text())
TARGETS = torch.tensor(VALUES["inputs"]["targets"])


def check(name: str, loss: torch.Tensor, inputs: torch.Tensor) -> None:
    loss.backward()
    expected = VALUES["values"][name]
    assert loss.item() == pytest.approx(expected["loss"], rel=1e-6)
    assert inputs.grad.norm().item() == pytest.approx(expected["grad_norm"], rel=1e-6)
    assert inputs.grad.flatten()[:3].tolist() == pytest.approx(expected["grad_first"], rel=1e-5)


@pytest.mark.parametrize("smoothing", [0.1, 0])
def test_identity_loss_is_fastreids(smoothing: float) -> None:
    logits = (3 * torch.from_numpy(normal("loss.logits", 16, 7)).double()).requires_grad_()
    check(f"ce.eps{smoothing}", identity_loss(logits, TARGETS, smoothing), logits)


@pytest.mark.parametrize(("margin", "name"), [(0.3, "margin0.3"), ("soft", "margin0.0")])
def test_triplet_loss_is_fastreids(margin: float, name: str) -> None:
    embeddings = torch.from_numpy(normal("loss.emb", 16, 32)).double().requires_grad_()
    loss = TripletLoss(margin)(embeddings, TARGETS)  # type: ignore[arg-type]
    check(f"triplet.{name}.norm_featFalse.hardTrue", loss, embeddings)


def test_unknown_people_give_no_identity_loss_but_the_others_are_as_before() -> None:
    logits = torch.randn(4, 5)
    alone = identity_loss(logits[:2], torch.tensor([3, 1]), 0.1)
    assert torch.allclose(identity_loss(logits, torch.tensor([3, 1, -1, -1]), 0.1), alone)


def test_a_batch_of_unknowns_gives_zero_and_a_gradient() -> None:
    logits = torch.randn(4, 5, requires_grad=True)
    loss = identity_loss(logits, torch.full((4,), -1), 0.1)
    loss.backward()
    assert loss.item() == 0
    assert torch.equal(logits.grad, torch.zeros(4, 5))


@pytest.mark.parametrize("pids", [[1, 1, 1], [1, 2, 3], [7]])
@pytest.mark.parametrize("margin", [0.3, "soft"])
def test_triplet_loss_without_a_triplet_is_zero(pids: list[int], margin: float) -> None:
    embeddings = torch.randn(len(pids), 4, requires_grad=True)
    loss = TripletLoss(margin)(embeddings, torch.tensor(pids))  # type: ignore[arg-type]
    loss.backward()
    assert loss.item() == 0
    assert embeddings.grad.abs().sum() == 0


def test_one_row_can_be_smoothed() -> None:
    assert identity_loss(torch.zeros(2, 1), torch.tensor([0, 0]), 0.1).isfinite()


def test_bad_options_are_refused() -> None:
    with pytest.raises(InputError, match="triplet_margin=hard: type a number"):
        LossConfig(1.0, 0.1, 1.0, "hard")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="expected weights of at least 0"):
        LossConfig(1.0, 1.5, 1.0, 0.3)
