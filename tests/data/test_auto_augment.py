from collections import Counter

import pytest
import torch
from torch import Tensor
from torchvision.transforms.v2 import AutoAugment

from camreid.data import transforms
from camreid.data.transforms import DRAWS, auto_augment, draw_operations, stream

COUNT = 6000


class Recorded(AutoAugment):
    """torchvision's, with the operations noted instead of applied."""

    def __init__(self) -> None:
        super().__init__()
        self.used: list[tuple[str, float]] = []

    def _apply_image_or_video_transform(
        self, image: Tensor, name: str, magnitude: float, **_: object
    ) -> Tensor:
        self.used.append((name, round(magnitude, 3)))
        return image


def ours(probability: float = 1.0) -> Counter[tuple[tuple[str, float], ...]]:
    draws = torch.rand(DRAWS, COUNT, generator=stream(4))
    used = [()] * COUNT
    for groups in draw_operations(probability, draws):
        for (name, magnitude), places in groups.items():
            for image in places:
                used[image] = (*used[image], (name, round(magnitude, 3)))
    return Counter(used)


@pytest.fixture(scope="module")
def theirs() -> Counter[tuple[tuple[str, float], ...]]:
    policy, image, used = Recorded(), torch.zeros(3, 2, 2, dtype=torch.uint8), []
    with torch.random.fork_rng([]):
        torch.manual_seed(3)
        for _ in range(COUNT):
            policy.used = []
            policy(image)
            used.append(tuple(policy.used))
    return Counter(used)


def excess(first: Counter, second: Counter) -> float:
    """Chi-square of two samples over its mean, in standard deviations; rare kinds are pooled."""
    total = first + second
    rare = {kind for kind, count in total.items() if count < 20}
    pairs = [(first[kind], second[kind]) for kind in total if kind not in rare]
    pairs.append(tuple(sum(sample[kind] for kind in rare) for sample in (first, second)))
    chi = sum((a - b) ** 2 / (a + b) for a, b in pairs if a + b)
    free = len(pairs) - 1
    return (chi - free) / (2 * free) ** 0.5


def test_operations_are_as_frequent_as_torchvisions(theirs: Counter) -> None:
    assert len(theirs) > 40
    assert excess(ours(), theirs) < 5


def test_a_wrong_frequency_is_seen(theirs: Counter, monkeypatch: pytest.MonkeyPatch) -> None:
    assert excess(ours(0.9), theirs) > 5
    policies = transforms._POLICIES
    monkeypatch.setattr(transforms, "_POLICIES", policies[:-2])
    assert excess(ours(), theirs) > 5
    monkeypatch.setattr(transforms, "_POLICIES", [pair[::-1] for pair in policies])
    assert excess(ours(), theirs) > 5


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_images_are_those_of_torchvision(layout: torch.memory_format) -> None:
    """To the bit on the CPUs tried; a rounding of another one may change single pixels."""
    blocks = torch.randint(20, 200, (300, 3, 16, 8), generator=stream(0)).float()
    images = torch.nn.functional.interpolate(blocks, scale_factor=4, mode="bilinear")
    images = images.byte().contiguous(memory_format=layout)
    draws = torch.rand(DRAWS, len(images), generator=stream(1))
    changed = auto_augment(images, 0.9, draws)
    expected, used, policy = images.clone(), set(), AutoAugment()
    for groups in draw_operations(0.9, draws):
        for (name, magnitude), places in groups.items():
            used.add(name)
            for i in places:
                expected[i] = policy._apply_image_or_video_transform(
                    expected[i], name, magnitude, policy.interpolation, policy._fill
                )
    assert used == {name for pair in transforms._POLICIES for name, *_ in pair}
    assert (changed != expected).flatten(1).float().mean(1).max() < 0.001
    assert not torch.equal(changed, images)
    assert changed.stride() == images.stride()
