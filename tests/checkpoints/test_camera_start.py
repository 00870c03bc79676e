"""Camera options that start from the weights of a model without them, and what reads cameras."""

from pathlib import Path

import pytest
import torch

from camreid import FeatureExtractor, create_model
from camreid.checkpoints.average import update_batch_norm
from camreid.checkpoints.io import Checkpoint, read_checkpoint
from camreid.checkpoints.start import start_from
from camreid.errors import InputError
from camreid.labels import LabelMap
from camreid.models.cameras import CameraNorm
from tests.conftest import CONFIG, saved, tiny_module

LABELS = LabelMap((10, 2, 7))
NETWORK = {**CONFIG["network"], "camera_norm": True, "cameras": [1, 2]}
CAMERAS = torch.tensor([1, 2, 1, 2, 9, 1, 2, 2, 1, 1])


def images(seed: int = 0, count: int = 10) -> torch.Tensor:
    draw = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, 3, 64, 32), dtype=torch.uint8, generator=draw)


@pytest.fixture
def plain(tmp_path: Path) -> Checkpoint:
    module = tiny_module(LABELS)
    for seed in range(3):
        module.model.train()(images(seed))
    return saved(module, tmp_path / "plain.ckpt")


def test_every_cameras_statistics_start_from_the_plain_ones(plain: Checkpoint) -> None:
    module = tiny_module(LABELS, network=NETWORK)
    start_from(module, plain)
    norm = module.model.neck
    mean = plain.state["neck.running_mean"]
    assert torch.equal(norm.camera_mean, mean.repeat(2, 1))
    assert norm.camera_batches.tolist() == [0, 0]
    found = module.eval().model(images(), cameras=CAMERAS).features
    torch.testing.assert_close(found, plain.module().model(images()).features, atol=1e-3, rtol=1e-3)
    module.train().model(images(), cameras=CAMERAS)
    assert not torch.equal(norm.camera_mean[0], mean)


def test_trained_statistics_are_kept(plain: Checkpoint, tmp_path: Path) -> None:
    module = tiny_module(LABELS, network=NETWORK)
    module.train().model(images(), cameras=CAMERAS)
    again = tiny_module(LABELS, network=NETWORK)
    start_from(again, saved(module, tmp_path / "a.ckpt"))
    state = module.model.state_dict()
    assert all(torch.equal(v, state[k]) for k, v in again.model.state_dict().items())
    expected = module.eval().model(images(), cameras=CAMERAS).features
    loaded = read_checkpoint(tmp_path / "a.ckpt").module()
    assert torch.equal(loaded.model(images(), cameras=CAMERAS).features, expected)
    assert not torch.equal(loaded.model(images()).features, expected)


@pytest.mark.slow
def test_an_embedding_is_added_to_a_plain_transformer(tmp_path: Path) -> None:
    options = {"network__backbone": "vit_tiny_patch16_224", "image_size": [64, 32]}
    usual = create_model("vit_base", [4, 8], **options)
    cameras = {"network__cameras": [1, 2], "network__camera_embedding": 3.0}
    module = create_model("vit_base", [4, 8], **options, **cameras)
    table = module.model.backbone.trunk.norm_pre.table.detach().clone()
    start_from(module, saved(usual, tmp_path / "a.ckpt"))
    assert torch.equal(module.model.backbone.trunk.norm_pre.table, table)
    module.model.backbone.trunk.norm_pre.factor = 0.0
    found = module.eval().model(images(), cameras=CAMERAS).features
    torch.testing.assert_close(found, usual.eval().model(images()).features)
    start, cameras = saved(module, tmp_path / "b.ckpt"), {**cameras, "network__camera_embedding": 1}
    with pytest.raises(InputError, match=r"camera_embedding=3\.0"):
        start_from(create_model("vit_base", [4, 8], **options, **cameras), start)


def test_features_are_those_of_the_cameras_of_a_batch() -> None:
    module = tiny_module(LABELS, network=NETWORK)
    module.train().model(images(), cameras=CAMERAS)
    module.eval()
    expected = module.model(images(), cameras=CAMERAS).features
    batch = {"images": images(), "camids": CAMERAS - 1, "pids": torch.zeros(10), "img_paths": []}
    assert torch.equal(module(batch).features, expected)
    assert not torch.equal(module(images()).features, expected)
    extractor, one, two = FeatureExtractor(module, batch_size=4), images()[0], images(0, 2)
    torch.testing.assert_close(extractor(images(), CAMERAS.tolist()), expected)
    assert torch.equal(extractor(one, [2]), extractor(one, 2))
    assert torch.equal(extractor(two, torch.tensor([2, 1])), extractor(two, [2, 1]))
    assert torch.equal(extractor(two, [None, 1]), extractor(two, [9, 1]))
    for wrong in (0, -1, 1.7, "1", "c1", [0], [1, 2], torch.tensor([1.0]), {}):
        with pytest.raises(InputError, match=r"1-based|cameras for 1 images"):
            extractor(one, wrong)
    with pytest.raises(InputError, match="has no camera options; leave cameras= out"):
        FeatureExtractor(tiny_module(LABELS))(one, 1)


def test_statistics_are_taken_anew_by_camera() -> None:
    network = tiny_module(LABELS, network=NETWORK).model.train()
    network.camera_index.least = 2
    norm = next(m for m in network.modules() if isinstance(m, CameraNorm))
    network(images(9), cameras=CAMERAS)
    seen: list[torch.Tensor] = []
    hook = norm.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    cameras = [torch.tensor([1, 2, 1, 2]), torch.tensor([2, 2, 9, 1])]
    batches = [{"images": images(s, 4), "camids": c - 1} for s, c in enumerate(cameras)]
    update_batch_norm(network, batches)
    hook.remove()
    first, second = seen
    of_two = [first[1::2], second[:2]]
    torch.testing.assert_close(norm.camera_mean[0], first[::2].mean((0, 2, 3)))
    for found, measure, parts in (
        (norm.camera_mean[1], torch.mean, of_two),
        (norm.camera_var[1], torch.var, of_two),
        (norm.running_mean, torch.mean, seen),
    ):
        expected = torch.stack([measure(x, (0, 2, 3)) for x in parts]).mean(0)
        torch.testing.assert_close(found, expected)
    assert norm.camera_batches.tolist() == [1, 2]
    assert norm.momentum == 0.1
