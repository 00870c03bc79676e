from collections import Counter

import pytest
import torch
from torch import Tensor
from torchvision.transforms.v2 import AutoAugment, AutoAugmentPolicy

from camreid.data import transforms
from camreid.data.transforms import auto_augment, stream

COUNT = 3000
IMAGE = torch.randint(20, 200, (3, 12, 8), generator=stream(0), dtype=torch.uint8)


def kinds(images: Tensor) -> Counter[bytes]:
    """How often each version of the one image is there."""
    return Counter(image.numpy().tobytes() for image in images)


def ours(probability: float = 1.0) -> Counter[bytes]:
    images = IMAGE.expand(COUNT, -1, -1, -1)
    return kinds(auto_augment(images, probability, torch.rand(2, COUNT, generator=stream(4))))


@pytest.fixture(scope="module")
def theirs() -> Counter[bytes]:
    policy = AutoAugment()
    with torch.random.fork_rng([]):
        torch.manual_seed(3)
        return kinds(torch.stack([policy(IMAGE) for _ in range(COUNT)]))


def excess(first: Counter[bytes], second: Counter[bytes]) -> float:
    """Chi-square of two samples over its mean, in standard deviations; rare kinds are pooled."""
    total = first + second
    rare = {kind for kind, count in total.items() if count < 20}
    pairs = [(first[kind], second[kind]) for kind in total if kind not in rare]
    pairs.append(tuple(sum(sample[kind] for kind in rare) for sample in (first, second)))
    chi = sum((a - b) ** 2 / (a + b) for a, b in pairs if a + b)
    free = len(pairs) - 1
    return (chi - free) / (2 * free) ** 0.5


def test_versions_are_as_frequent_as_torchvisions(theirs: Counter[bytes]) -> None:
    assert len(theirs) > 40
    assert excess(ours(), theirs) < 5


def test_a_wrong_frequency_is_seen(theirs: Counter[bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    assert excess(ours(0.8), theirs) > 5
    monkeypatch.setattr(transforms, "_POLICIES", AutoAugment(AutoAugmentPolicy.SVHN))
    assert excess(ours(), theirs) > 5


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_each_image_has_its_policy_whatever_the_others(layout: torch.memory_format) -> None:
    blocks = torch.randint(20, 200, (60, 3, 16, 8), generator=stream(0)).float()
    images = torch.nn.functional.interpolate(blocks, scale_factor=4, mode="bilinear").byte()
    before, state = images.clone(), torch.get_rng_state()
    draws = torch.rand(2, len(images), generator=stream(1))
    changed = auto_augment(images.contiguous(memory_format=layout), 0.6, draws)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(images, before)
    assert changed.is_contiguous(memory_format=layout)
    chosen = draws[0] < 0.6
    assert torch.equal(changed[~chosen], images[~chosen])
    assert (changed[chosen] != images[chosen]).flatten(1).any(1).float().mean() > 0.7
    for place in reversed(range(len(images))):
        alone = auto_augment(images[place, None], 0.6, draws[:, place, None])
        assert torch.equal(changed[place], alone[0])
