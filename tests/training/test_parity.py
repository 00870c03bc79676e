"""Numbers of FastReID itself, from weights and inputs that a rule fills."""

import json
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import Tensor

from camreid.checkpoints.foreign.names import fastreid_names
from camreid.labels import LabelMap
from camreid.losses import TripletLoss, identity_loss
from camreid.models import MGN, Baseline, FeatureOptions, ReIDNetwork, ReIDOutput
from camreid.models.mgn import PARTS
from tests.conftest import GOLDEN
from tests.golden.fill_rule import fill, images

LABELS = LabelMap(tuple(range(100, 107)))
TARGETS = torch.tensor([0, 0, 3, 3, 5, 5, 6, 6])
CIRCLE = {"classifier": "circle", "scale": 64, "margin": 0.35}
SBS = {"ibn": True, "non_local": True, "pool": "gem_learned", "metric_feature": "after", **CIRCLE}
CONFIGS = {
    "bagtricks_R50": (Baseline, {"last_stride": 1}),
    "sbs_R50-ibn": (Baseline, {"last_stride": 1, **SBS}),
    "mgn_R50-ibn": (MGN, {"ibn": True}),
}


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def filled(config: str) -> dict[str, Tensor]:
    keys = json.loads((GOLDEN / "keys" / f"fastreid_{config}.json").read_text())
    return {
        name: torch.from_numpy(np.asarray(fill(name, key["shape"]))) for name, key in keys.items()
    }


def renamed(state: dict[str, Tensor], config: str) -> dict[str, Tensor]:
    names, _ = fastreid_names(state, "bot" if config.startswith("bagtricks") else config)
    return {own: state[name] for name, own in names.items()}


def network(config: str) -> ReIDNetwork:
    kind, options = CONFIGS[config]
    model = kind(LABELS, (256, 128), backbone="resnet50", stem_padding=0, **options)
    own = {
        name: v for name, v in model.state_dict().items() if "pixel_norm" in name or "pids" in name
    }
    model.load_state_dict({**renamed(filled(config), config), **own})
    return model


def worst(ours: Tensor, theirs: np.ndarray) -> float:
    expected = torch.from_numpy(theirs)
    return ((ours - expected).abs().max() / expected.abs().max()).item()


MGN_CASE = pytest.param("mgn_R50-ibn", marks=pytest.mark.slow)


@pytest.mark.parametrize("config", ["bagtricks_R50", "sbs_R50-ibn", MGN_CASE])
def test_train_outputs_losses_and_gradients(config: str) -> None:
    golden = json.loads((GOLDEN / f"fastreid_{config}.json").read_text())["train"]
    arrays = np.load(GOLDEN / f"fastreid_{config}_train.npz")
    model, raw = network(config).double().train(), torch.from_numpy(images("train", 8, 128, 64))
    output = model(raw, TARGETS)
    _check_statistics(model, config, golden["bn_stats_after_one_forward_float64"])
    plain = model(raw).logits  # no rows, no margin
    for key in arrays:
        name, _, what = key.partition(".")
        head = "identity" if name == "heads" else name.removesuffix("_head")
        ours = {
            "cls_outputs": output.logits[head],
            "pred_class_logits": plain[head],
            "features": _metric_feature(output, head),
        }
        assert worst(ours[what], arrays[key]) < 1e-3, key
    soft = config != "bagtricks_R50"
    triplet = TripletLoss("soft" if soft else 0.3)
    identity = {k: identity_loss(v, TARGETS, 0.1) for k, v in output.logits.items()}
    metric = {k: triplet(v, TARGETS) for k, v in output.embeddings.items()}
    ours = {
        **{f"cls_{k}".removesuffix("_identity"): v / len(identity) for k, v in identity.items()},
        **{f"triplet_{k}".removesuffix("_identity"): v / len(metric) for k, v in metric.items()},
    }
    theirs = {k.removeprefix("loss_"): v for k, v in golden["losses_float64"].items()}
    assert {k: v.item() for k, v in ours.items()} == pytest.approx(theirs, rel=1e-4)
    torch.stack(list(ours.values())).sum().backward()
    parameters, (names, _) = dict(model.named_parameters()), fastreid_names(filled(config), config)
    for name, expected in golden["grads_of_total_loss_float64"].items():
        norm = parameters[names[name]].grad.norm().item()
        assert norm == pytest.approx(expected["norm"], rel=1e-2), name


def _metric_feature(output: ReIDOutput, head: str) -> Tensor:
    """What FastReID's head calls its features: its own part of the metric loss's feature."""
    if head in ("b1", "b2", "b3", "identity"):
        return output.embeddings[head]
    return dict(zip(PARTS, output.features.chunk(len(PARTS), dim=1), strict=True))[head]


def _check_statistics(
    model: ReIDNetwork, config: str, golden: dict[str, dict[str, list[float]]]
) -> None:
    state = model.state_dict()
    names, _ = fastreid_names(filled(config), config)
    for name, expected in golden.items():
        mean = names[name]
        start = mean.removesuffix("running_mean")
        assert state[mean][:3].tolist() == pytest.approx(expected["mean_first"], rel=1e-4), name
        variance = state[f"{start}running_var"][:3].tolist()
        assert variance == pytest.approx(expected["var_first"], rel=1e-4)
        assert state[f"{start}num_batches_tracked"] == expected["tracked"]


def test_flip_test_is_the_proper_mean() -> None:
    arrays = np.load(GOLDEN / "fastreid_bagtricks_R50_flip.npz")
    model = network("bagtricks_R50").eval()
    raw = torch.from_numpy(images("eval", 2, 256, 128))
    with torch.no_grad():
        flipped = FeatureOptions(flip=True)(model, raw)
        assert worst(flipped, arrays["proper"]) < 1e-4
        directions = FeatureOptions(flip=True, normalize=True)(model, raw)
        before = FeatureOptions(neck="before")(model, raw)
        expected = model.backbone(model.pixel_norm(raw))
    assert torch.allclose(directions, torch.nn.functional.normalize(flipped))
    assert torch.equal(before, expected)
