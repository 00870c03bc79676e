import json
from collections.abc import Iterator

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from camreid.losses import TripletLoss
from camreid.models.osnet import OSBlock, OSNet
from tests.conftest import GOLDEN
from tests.golden.fill_rule import fill, images

RUN = json.loads((GOLDEN / "torchreid_osnet_x1_0.json").read_text())
TRAIN = np.load(GOLDEN / "torchreid_osnet_x1_0_train.npz")
TARGETS = torch.tensor(RUN["train"]["targets"])


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    # hundreds of tiny layers: two threads mostly wait for each other where a core is busy
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


class Classified(nn.Module):
    """torchreid's model for triplet and softmax."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = OSNet()
        self.classifier = nn.Linear(512, 7)
        for part, prefix in ((self.trunk, ""), (self.classifier, "classifier.")):
            filled = {k: fill(prefix + k, v.shape) for k, v in part.state_dict().items()}
            # torch.tensor, as fill gives a scalar array for shape ()
            part.load_state_dict({k: torch.tensor(v) for k, v in filled.items()})


def normalised(tag: str, n: int, height: int, width: int) -> torch.Tensor:
    mean, std = torch.tensor([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]]).view(2, 3, 1, 1)
    return (torch.from_numpy(images(tag, n, height, width)) / 255 - mean) / std


def error(found: torch.Tensor, expected: np.ndarray) -> float:
    assert found.shape == expected.shape
    difference = (found - torch.from_numpy(expected)).abs().max()
    return float(difference / np.abs(expected).max())


@pytest.mark.parametrize(
    ("norm", "name"),
    [("bn", "osnet_x1_0"), ("ibn", "osnet_ibn_x1_0"), ("ain", "osnet_ain_x1_0")],
)
def test_keys_shapes_and_order_are_torchreids(norm: str, name: str) -> None:
    listed = json.loads((GOLDEN / "keys" / f"torchreid_{name}.json").read_text())
    expected = [
        (key, tuple(entry["shape"]), f"torch.{entry['dtype']}")
        for key, entry in listed.items()
        if not key.startswith("classifier.")
    ]
    state = OSNet(norm=norm).state_dict()  # type: ignore[arg-type]
    assert [(k, tuple(v.shape), str(v.dtype)) for k, v in state.items()] == expected


def test_features_in_evaluation_are_torchreids() -> None:
    with torch.no_grad():
        features = Classified().eval().trunk(normalised("eval", 2, 256, 128))
    assert error(features, np.load(GOLDEN / "torchreid_osnet_x1_0_eval_feat.npy")) < 1e-4


def test_features_logits_and_losses_in_training_are_torchreids() -> None:
    model = Classified().train()
    with torch.no_grad():
        features = model.trunk(normalised("train", 8, 128, 64))
        logits = model.classifier(features)
    assert error(features, TRAIN["features"]) < 1e-3
    assert error(logits, TRAIN["logits"]) < 1e-3
    identity = F.cross_entropy(logits, TARGETS, label_smoothing=0.1).item()
    expected = RUN["train"]
    name = "cross_entropy(label smoothing .1, eps/K form)"
    assert identity == pytest.approx(expected[name], rel=1e-4)
    triplet = TripletLoss(0.3)(features, TARGETS).item()
    assert triplet == pytest.approx(expected["triplet(margin .3, hard)"], rel=1e-4)


@pytest.mark.parametrize(
    ("width", "norm"),
    [(1.0, "bn"), (0.75, "bn"), (0.5, "bn"), (0.25, "bn"), (0.25, "ibn"), (0.25, "ain")],
)
def test_every_variant_learns_in_all_its_weights(width: float, norm: str) -> None:
    torch.manual_seed(0)
    model = OSNet(width, norm)  # type: ignore[arg-type]
    if norm == "bn":  # the numbers of the paper
        millions = {1.0: 2.2, 0.75: 1.3, 0.5: 0.6, 0.25: 0.2}
        assert round(sum(p.numel() for p in model.parameters()) / 1e6, 1) == millions[width]
    batch = torch.randn(4, 3, 64, 32)
    assert model.forward_features(batch).shape == (4, 512 * width, 4, 2)
    features = model(batch)
    assert features.shape == (4, model.head_hidden_size) == (4, 512)
    (features * torch.randn(4, 512)).sum().backward()
    assert [k for k, p in model.named_parameters() if p.grad is None] == []
    assert all(p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize("instance", ["none", "inside", "after"])
def test_a_block_normalises_its_branch_or_its_sum(instance: str) -> None:
    torch.manual_seed(0)
    block = OSBlock(64, 64, instance, searched=False).eval()  # type: ignore[arg-type]
    x = torch.rand(2, 64, 8, 4)
    if instance != "none":
        nn.init.zeros_(block.IN.weight)  # what is normalised vanishes
    expected = {"inside": x, "after": torch.zeros_like(x)}
    with torch.no_grad():
        output = block(x)
    assert [torch.equal(output, e) for e in expected.values()] == [i == instance for i in expected]
