import pytest
import torch

from camreid.data import Augment
from camreid.data.transforms import flip, pad_and_crop, stream


@pytest.fixture
def images() -> torch.Tensor:
    return torch.randint(1, 256, (32, 3, 24, 12), generator=stream(1), dtype=torch.uint8)


def test_the_same_stream_draws_the_same_and_leaves_the_input_alone(images: torch.Tensor) -> None:
    before = images.clone()
    first, second = (Augment()(images, stream(3, 1, 0)) for _ in range(2))
    assert torch.equal(first, second)
    assert torch.equal(images, before)
    assert not torch.equal(first, Augment()(images, stream(3, 1, 1)))
    assert torch.equal(Augment(flip=0, pad=0, erase=0)(images, stream(0)), images)
    assert first.dtype == torch.uint8


def test_flip_mirrors_about_as_many_as_asked(images: torch.Tensor) -> None:
    flipped = flip(images, 0.5, stream(0))
    mirrored = [torch.equal(a, b.flip(-1)) for a, b in zip(flipped, images, strict=True)]
    kept = [torch.equal(a, b) for a, b in zip(flipped, images, strict=True)]
    assert all(a != b for a, b in zip(mirrored, kept, strict=True))
    assert 8 < sum(mirrored) < 24
    assert torch.equal(flip(images, 1.0, stream(0)), images.flip(-1))


def test_crops_are_those_of_a_slice_each(images: torch.Tensor) -> None:
    pad = 3
    moved = pad_and_crop(images, pad, stream(0))
    padded = torch.nn.functional.pad(images, (pad,) * 4)
    shifts = torch.randint(2 * pad + 1, (2, len(images)), generator=stream(0))
    for i, (top, left) in enumerate(shifts.T.tolist()):
        assert torch.equal(moved[i], padded[i, :, top : top + 24, left : left + 12])
    assert len(set(map(tuple, shifts.T.tolist()))) > 10


def test_erasing_fills_one_rectangle_with_the_mean(images: torch.Tensor) -> None:
    half = Augment(flip=0, pad=0, erase=0.5)(images, stream(0))
    assert 8 < (half != images).flatten(1).any(1).sum() < 24
    erased = Augment(flip=0, pad=0, erase=1.0)(images, stream(0))
    mean = torch.tensor([124, 116, 104], dtype=torch.uint8)
    for new, old in zip(erased, images, strict=True):
        rows, columns = (new != old).any(0).nonzero(as_tuple=True)
        box = new[:, rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
        assert torch.equal(box, mean[:, None, None].expand_as(box))
        assert box[0].numel() <= 0.4 * 24 * 12
