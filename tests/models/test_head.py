import json

import pytest
import torch
from torch.nn import functional

from camreid.errors import HeadMismatch
from camreid.labels import LabelMap
from camreid.losses import identity_loss
from camreid.models import RemapHead
from camreid.models.head import Classifier
from tests.conftest import GOLDEN
from tests.golden.fill_rule import normal

GOLDEN_HEADS = {
    "head.Linear.s1.m0.0": ("linear", 1, 0.0),
    "head.CosSoftmax.s30.m0.35": ("cosine", 30, 0.35),
    "head.ArcSoftmax.s30.m0.35": ("arc", 30, 0.35),
    "head.CircleSoftmax.s64.m0.35": ("circle", 64, 0.35),
}


@pytest.mark.parametrize("name", GOLDEN_HEADS)
def test_logits_are_fastreids(name: str) -> None:
    golden = json.loads((GOLDEN / "fastreid_losses.json").read_text())
    expected, targets = golden["values"][name], torch.tensor(golden["inputs"]["targets"])
    classifier, scale, margin = GOLDEN_HEADS[name]
    head = RemapHead(32, LabelMap(range(7)), classifier, scale, margin).double()
    head.weight.data = torch.from_numpy(normal("loss.w", 7, 32)).double()
    features = torch.from_numpy(normal("loss.emb", 16, 32)).double().requires_grad_()
    logits = head(features, targets)
    loss = identity_loss(logits, targets, smoothing=0.1)
    loss.backward()
    assert logits[0].tolist() == pytest.approx(expected["cls_outputs_first_row"], rel=1e-6)
    plain = head(features)[0].tolist()
    assert plain == pytest.approx(expected["pred_class_logits_first_row"], rel=1e-6)
    assert loss.item() == pytest.approx(expected["ce_eps0.1"], rel=1e-6)
    assert features.grad.norm().item() == pytest.approx(expected["grad_norm"], rel=1e-6)


def test_images_without_a_row_get_no_margin() -> None:
    head = RemapHead(8, LabelMap((5, 3)), "cosine", scale=10, margin=0.3)
    features = torch.randn(4, 8)
    assert torch.equal(head(features, torch.full((4,), -1)), head(features))
    assert not torch.equal(head(features, torch.zeros(4, dtype=torch.int64)), head(features))


def test_rows_and_biases_are_copied_by_identity() -> None:
    source, head = (RemapHead(4, pids, bias=True) for pids in ((10, 2, 7), (7, 99, 10)))
    source.bias.data = torch.tensor([1.0, 2.0, 3.0])
    before = head.weight.detach().clone()
    head.take(source.weight, source.labels, source.bias)
    assert torch.equal(head.weight[[0, 2]], source.weight[[2, 0]])
    assert torch.equal(head.weight[1], before[1])
    assert head.bias.tolist() == [3.0, 0.0, 1.0]
    with pytest.raises(HeadMismatch, match=r"\(702, 4\), but its label map names 751 identities"):
        head.take(torch.zeros(702, 4), LabelMap(range(751)))


def test_started_rows_point_at_the_features_and_are_as_long_as_the_others() -> None:
    head = RemapHead(6, LabelMap((1, 2, 3, 4)))
    directions = torch.randn(2, 6) * 9
    old = head.weight.detach().clone()
    head.start_rows(torch.tensor([4, 2]), directions)
    assert torch.allclose(
        functional.cosine_similarity(head.weight[[3, 1]], directions), torch.ones(2)
    )
    length = old[[0, 2]].norm(dim=1).mean()
    assert torch.allclose(head.weight[[3, 1]].norm(dim=1), length.expand(2))
    assert torch.equal(head.weight[[0, 2]], old[[0, 2]])


def test_cosines_are_single_precision_under_mixed_precision() -> None:
    torch.manual_seed(0)
    head = RemapHead(16, LabelMap(range(5)), "circle", scale=64.0, margin=0.35)
    features, rows = torch.randn(8, 16), torch.arange(8) % 5
    with torch.autocast("cpu", torch.bfloat16):
        mixed = head(features, rows)
    assert torch.allclose(mixed, head(features, rows), rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("margin", [0.35, 0.5, 1.5])
@pytest.mark.parametrize("classifier", ["cosine", "arc"])
def test_the_true_logit_rises_with_the_cosine(classifier: Classifier, margin: float) -> None:
    head = RemapHead(2, LabelMap((1,)), classifier, margin=margin)
    head.weight.data = torch.tensor([[1.0, 0.0]])
    angles = torch.linspace(0.001, torch.pi, 500)
    features = torch.stack((angles.cos(), angles.sin()), dim=1)
    logits = head(features, torch.zeros(500, dtype=torch.int64))[:, 0]
    assert (logits.diff() < 0).all()
