import json

import pytest
import torch
from pytorch_metric_learning.losses import SupConLoss
from torch import nn

from camreid.losses import PairLoss, TripletLoss, identity_loss
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


def embeddings() -> torch.Tensor:
    return torch.from_numpy(normal("loss.emb", 16, 32)).double().requires_grad_()


@pytest.mark.parametrize(
    ("smoothing", "name"), [(0.1, "eps0.1"), (0, "eps0"), ("adaptive", "adaptive_eps-1_alpha0.2")]
)
def test_identity_loss_is_fastreids(smoothing: float, name: str) -> None:
    logits = (3 * torch.from_numpy(normal("loss.logits", 16, 7)).double()).requires_grad_()
    check(f"ce.{name}", identity_loss(logits, TARGETS, smoothing), logits)


@pytest.mark.parametrize(("margin", "name"), [(0.3, "margin0.3"), ("soft", "margin0.0")])
@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("mining", ["hard", "weighted_fastreid"])
def test_triplet_loss_is_fastreids(margin: float, name: str, normalize: bool, mining: str) -> None:
    inputs = embeddings()
    loss = TripletLoss(margin, mining, normalize)(inputs, TARGETS)  # type: ignore[arg-type]
    check(f"triplet.{name}.norm_feat{normalize}.hard{mining == 'hard'}", loss, inputs)


@pytest.mark.parametrize("mining", ["hard", "weighted_fastreid"])
@pytest.mark.parametrize("scale", [1, 3, 100])
def test_soft_triplet_loss_of_long_embeddings(mining: str, scale: int) -> None:
    name = f"triplet.margin0.norm_featFalse.hard{mining == 'hard'}.embeddings_x{scale}"
    expected = VALUES["values"][name]
    double = expected["loss_computed_in_float64"]
    # the hard form does not overflow into another loss here
    single = double if mining == "hard" else expected["loss_computed_in_float32"]
    loss = TripletLoss("soft", mining)  # type: ignore[arg-type]
    assert loss(scale * embeddings(), TARGETS).item() == pytest.approx(double, rel=1e-6)
    assert loss(scale * embeddings().float(), TARGETS).item() == pytest.approx(single, rel=1e-6)


@pytest.mark.parametrize("form", ["circle", "cosface"])
def test_pair_losses_are_fastreids(form: str) -> None:
    inputs = embeddings()
    loss = PairLoss(form)(inputs, TARGETS)  # type: ignore[arg-type]
    check(f"{form}.m0.25.gamma128", loss, inputs)


def test_supervised_contrast_is_pytorch_metric_learnings() -> None:
    inputs = embeddings()
    expected = SupConLoss(temperature=0.1)(inputs, TARGETS)
    assert PairLoss("supcon", scale=10)(inputs, TARGETS).item() == pytest.approx(expected.item())


def test_the_weighted_triplet_loss_is_a_plain_loop() -> None:
    inputs = 30 * torch.randn(6, 5, generator=torch.Generator().manual_seed(0), dtype=torch.double)
    pids = [3, 3, 3, 8, 8, 5]
    expected = []
    for i in range(5):  # the last image has no company
        far = {j: (inputs[i] - inputs[j]).norm() for j in range(6)}
        positive = {j: d for j, d in far.items() if pids[j] == pids[i]}
        negative = {j: d for j, d in far.items() if pids[j] != pids[i]}
        dp = sum(d * d.exp() for d in positive.values()) / sum(d.exp() for d in positive.values())
        dn = sum(d * (-d).exp() for d in negative.values()) / sum(
            (-d).exp() for d in negative.values()
        )
        expected.append(max(0.0, (dp - dn + 0.3).item()))
    loss = TripletLoss(0.3, "weighted")(inputs, torch.tensor(pids))
    assert loss.item() == pytest.approx(sum(expected) / 5)


def test_unknown_identities_give_no_identity_loss() -> None:
    logits = torch.randn(4, 5, requires_grad=True)
    alone = identity_loss(logits[:2], torch.tensor([3, 1]), 0.1)
    assert torch.allclose(identity_loss(logits, torch.tensor([3, 1, -1, -1]), 0.1), alone)
    loss = identity_loss(logits, torch.full((4,), -1), 0.1)
    loss.backward()
    assert loss.item() == 0
    assert torch.equal(logits.grad, torch.zeros(4, 5))
    assert identity_loss(torch.zeros(2, 1), torch.tensor([0, 0]), 0.1).isfinite()


@pytest.mark.parametrize("pids", [[1, 1, 1], [1, 2, 3], [7]])
@pytest.mark.parametrize(
    "metric",
    [
        TripletLoss(0.3),
        TripletLoss("soft"),
        TripletLoss("soft", "weighted"),
        TripletLoss(0.3, "weighted_fastreid"),
        PairLoss("circle"),
        PairLoss("cosface"),
        PairLoss("supcon"),
    ],
)
def test_metric_losses_without_a_triplet_are_zero(pids: list[int], metric: nn.Module) -> None:
    embeddings = torch.randn(len(pids), 4, requires_grad=True)
    loss = metric(embeddings, torch.tensor(pids))
    loss.backward()
    assert loss.item() == 0
    assert embeddings.grad.abs().sum() == 0


@pytest.mark.parametrize("form", ["circle", "cosface"])
def test_pair_losses_are_single_precision_under_mixed_precision(form: str) -> None:
    inputs = embeddings().detach().float()
    loss = PairLoss(form)  # type: ignore[arg-type]
    with torch.autocast("cpu", torch.bfloat16):
        mixed = loss(inputs, TARGETS)
    assert mixed.item() == pytest.approx(loss(inputs, TARGETS).item(), rel=1e-6)
