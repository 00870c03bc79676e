"""Means of weights, against networks whose mean is known."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from camreid.checkpoints.average import restate_batch_norm, soup
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


def images(count: int, seed: int = 0) -> torch.Tensor:
    draw = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, 3, 64, 32), dtype=torch.uint8, generator=draw)


def test_the_trunk_is_the_mean_and_rows_follow_the_person(
    pair: tuple[Checkpoint, Checkpoint],
) -> None:
    found = soup(pair).model.state_dict()
    for name, tensor in found.items():
        if not name.startswith("heads.") and tensor.is_floating_point():
            expected = (pair[0].state[name] + pair[1].state[name]) / 2
            torch.testing.assert_close(tensor, expected)
    first, second = (c.state["heads.identity.weight"] for c in pair)
    expected = torch.stack([first[0], first[1], (first[2] + second[0]) / 2, second[1]])
    torch.testing.assert_close(found["heads.identity.weight"], expected)
    assert soup(pair).labels.pids == (5, 9, 2, 7)
    assert soup(pair).provenance.seen == {2, 5, 7, 9}
    assert not soup(pair).training


def test_a_soup_of_one_is_itself(pair: tuple[Checkpoint, Checkpoint]) -> None:
    one = soup(pair[:1])
    batch = images(4)
    with torch.inference_mode():
        output, expected = one.model(batch), pair[0].module().model(batch)
    assert torch.equal(output.features, expected.features)
    assert torch.equal(output.logits["identity"], expected.logits["identity"])


def test_a_soup_is_saved_and_read_like_any_checkpoint(
    pair: tuple[Checkpoint, Checkpoint], tmp_path: Path
) -> None:
    save(soup(pair), tmp_path / "soup.ckpt")
    again = read_checkpoint(tmp_path / "soup.ckpt")
    assert again.provenance.seen == {2, 5, 7, 9}
    assert again.labels.pids == (5, 9, 2, 7)


def test_other_architectures_are_refused(
    pair: tuple[Checkpoint, Checkpoint], tmp_path: Path
) -> None:
    network = {**CONFIG["network"], "last_stride": None}
    other = checkpoint(tmp_path / "c.ckpt", LabelMap((1, 2)), 3, network=network)
    with pytest.raises(InputError, match=r"a\.ckpt and .*c\.ckpt can't be averaged: .*options"):
        soup([*pair, other])
    nobody = replace(pair[1], labels=LabelMap.anonymous(2))
    with pytest.raises(InputError, match="nobody knows"):
        soup([pair[0], nobody])
    with pytest.raises(InputError, match="no checkpoints"):
        soup([])


def test_batch_norm_has_the_statistics_of_the_images() -> None:
    module = tiny_module(LabelMap((1, 2)))
    network = module.model.train()
    norms = [m for m in network.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    seen: list[torch.Tensor] = []
    hook = norms[0].register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    momentum = norms[0].momentum
    before = {k: v.clone() for k, v in network.named_parameters()}
    restate_batch_norm(network, [{"images": images(6, s)} for s in (1, 2, 3)])
    hook.remove()
    means = torch.stack([x.mean((0, 2, 3)) for x in seen])
    spreads = torch.stack([x.var((0, 2, 3)) for x in seen])
    torch.testing.assert_close(norms[0].running_mean, means.mean(0))
    torch.testing.assert_close(norms[0].running_var, spreads.mean(0))
    assert norms[0].momentum == momentum
    assert network.training
    assert all(torch.equal(v, before[k]) for k, v in network.named_parameters())


def test_no_images_leave_the_statistics_alone(pair: tuple[Checkpoint, Checkpoint]) -> None:
    module = soup(pair)
    before = {k: v.clone() for k, v in module.model.state_dict().items()}
    restate_batch_norm(module.model, [])
    assert all(torch.equal(v, before[k]) for k, v in module.model.state_dict().items())
