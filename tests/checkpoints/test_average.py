"""Means of weights, against networks with a known mean."""

from pathlib import Path

import pytest
import torch

from camreid.checkpoints.average import soup, update_batch_norm
from camreid.checkpoints.io import Checkpoint, read_checkpoint, save
from camreid.errors import InputError
from camreid.labels import LabelMap
from camreid.training import ReIDModule
from tests.conftest import CONFIG, tiny_module, trained


def checkpoint(path: Path, labels: LabelMap, seed: int, **options: object) -> Checkpoint:
    torch.manual_seed(seed)
    module = trained(ReIDModule({**CONFIG, **options}, labels))
    save(module, path)
    return read_checkpoint(path)


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Checkpoint, Checkpoint]:
    first = checkpoint(tmp_path / "a.ckpt", LabelMap((5, 9, 2)), 1)
    return first, checkpoint(tmp_path / "b.ckpt", LabelMap((2, 7)), 2)


def test_the_trunk_is_the_mean_and_rows_follow_the_identity(
    pair: tuple[Checkpoint, Checkpoint], tmp_path: Path
) -> None:
    save(soup(pair), tmp_path / "soup.ckpt")
    found = read_checkpoint(tmp_path / "soup.ckpt")
    for name, tensor in found.state.items():
        if not name.startswith("heads.") and tensor.is_floating_point():
            torch.testing.assert_close(tensor, (pair[0].state[name] + pair[1].state[name]) / 2)
    first, second = (c.state["heads.identity.weight"] for c in pair)
    expected = torch.stack([first[0], first[1], (first[2] + second[0]) / 2, second[1]])
    torch.testing.assert_close(found.state["heads.identity.weight"], expected)
    assert found.labels.pids == (5, 9, 2, 7)
    assert found.provenance.seen == {2, 5, 7, 9}


def test_other_architectures_are_refused(
    pair: tuple[Checkpoint, Checkpoint], tmp_path: Path
) -> None:
    network = {**CONFIG["network"], "last_stride": None}
    other = checkpoint(tmp_path / "c.ckpt", LabelMap((1, 2)), 3, network=network)
    with pytest.raises(InputError, match=r"a\.ckpt, .*c\.ckpt .* their network differs"):
        soup([*pair, other])
    with pytest.raises(InputError, match="1 given"):
        soup(pair[:1])


def test_batch_norm_has_the_statistics_of_the_images() -> None:
    network = tiny_module(LabelMap((1, 2))).model.train()
    norm = next(m for m in network.modules() if isinstance(m, torch.nn.BatchNorm2d))
    inputs: list[torch.Tensor] = []
    hook = norm.register_forward_pre_hook(lambda _, given: inputs.append(given[0]))
    momentum = norm.momentum
    before = {k: v.clone() for k, v in network.named_parameters()}
    batches = torch.randint(0, 256, (3, 6, 3, 64, 32), dtype=torch.uint8)
    update_batch_norm(network, [{"images": images} for images in batches])
    hook.remove()
    for found, statistic in ((norm.running_mean, torch.mean), (norm.running_var, torch.var)):
        expected = torch.stack([statistic(x, (0, 2, 3)) for x in inputs]).mean(0)
        torch.testing.assert_close(found, expected)
    assert norm.momentum == momentum
    assert network.training
    assert all(torch.equal(v, before[k]) for k, v in network.named_parameters())
