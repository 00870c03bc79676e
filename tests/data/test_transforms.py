from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torchvision.transforms import v2

from camreid.data import Augment, transforms
from camreid.data.transforms import place, stream

HEIGHT, WIDTH, PAD, COUNT = 60, 20, 6, 3000
MEAN = (124, 116, 104)


@pytest.fixture(params=[torch.contiguous_format, torch.channels_last], ids=["nchw", "nhwc"])
def images(request: pytest.FixtureRequest) -> Tensor:
    images = torch.randint(1, 256, (32, 3, 24, 12), generator=stream(1), dtype=torch.uint8)
    return images.contiguous(memory_format=request.param)


def test_the_same_stream_draws_the_same_and_leaves_the_input_alone(images: Tensor) -> None:
    before = images.clone()
    first, second = (Augment(auto=0.5)(images, stream(3, 1, 0)) for _ in range(2))
    assert torch.equal(first, second)
    assert torch.equal(images, before)
    assert not torch.equal(first, Augment(auto=0.5)(images, stream(3, 1, 1)))
    assert torch.equal(Augment(flip=0, pad=0, erase=0)(images, stream(0)), images)
    assert (first.dtype, first.stride()) == (torch.uint8, images.stride())


@pytest.mark.parametrize("world_size", [2, 4])
def test_ranks_augment_their_shares_as_one_rank_the_whole(images: Tensor, world_size: int) -> None:
    augment = Augment(auto=0.5)
    shares = [
        augment(share, stream(7), rank, world_size)
        for rank, share in enumerate(images.chunk(world_size))
    ]
    assert torch.equal(torch.cat(shares), augment(images, stream(7)))


@pytest.mark.parametrize("move", [place, transforms._place_on_cpu])
def test_moves_are_a_flip_a_slice_of_the_padded_image_and_a_filled_box(
    images: Tensor, move: Callable[[Tensor, Tensor], Tensor]
) -> None:
    far = 30  # more than the image is high
    draws = torch.rand(7, 32, generator=stream(2))
    sizes = torch.tensor([2, 2 * far + 1, 2 * far + 1, 10, 5, 14, 7])[:, None]
    table = (draws * sizes).long() - torch.tensor([0, far, far, 0, 0, 0, 0])[:, None]
    table[1:3, :16] //= 8
    moved = move(images, table)
    assert moved.stride() == images.stride()
    for image, new, row in zip(images, moved, table.T.tolist(), strict=True):
        mirrored, down, across, top, left, tall, wide = row
        padded = torch.nn.functional.pad(image.flip(-1) if mirrored else image, (far,) * 4)
        expected = padded[:, far + down : far + down + 24, far + across : far + across + 12]
        expected[:, top : top + tall, left : left + wide] = torch.tensor(MEAN).view(3, 1, 1)
        assert torch.equal(new, expected)


def drawn(augment: Callable[[Tensor], Tensor]) -> dict[str, Tensor]:
    """What was drawn for each of `COUNT` images, read off pixels that hold their own place."""
    image = torch.full((3, HEIGHT, WIDTH), 200, dtype=torch.uint8)
    y, x = torch.arange(HEIGHT)[:, None], torch.arange(WIDTH)
    image[0], image[1] = y, x
    row, column, marker = augment(image.expand(COUNT, -1, -1, -1)).long().unbind(1)
    shown, boxes = marker == 200, marker == MEAN[2]

    def most(values: Tensor) -> Tensor:
        return values.masked_fill(~shown, -999).flatten(1).amax(1)

    mirrored = most(column - x) > -most(x - column)  # not the same everywhere
    erased = boxes.flatten(1).any(1)
    boxes = boxes[erased]
    rows, columns = boxes.any(2).int(), boxes.any(1).int()
    tall, wide = rows.sum(1), columns.sum(1)
    return {
        "mirrored": mirrored,
        "down": most(row - y),
        "across": torch.where(mirrored, most(WIDTH - 1 - column - x), most(column - x)),
        "erased": erased,
        "area": tall * wide,
        "aspect": tall / wide,
        "top": rows.argmax(1) / (HEIGHT - tall),
        "left": columns.argmax(1) / (WIDTH - wide),
    }


def distance(ours: Tensor, theirs: Tensor) -> float:
    """Kolmogorov-Smirnov; above 2.2 in one of 10,000 pairs of equal distributions."""
    points = torch.cat([ours, theirs]).unique().double()
    shares = [
        torch.searchsorted(sample.double().sort().values, points, right=True) / len(sample)
        for sample in (ours, theirs)
    ]
    scale = (len(ours) * len(theirs) / (len(ours) + len(theirs))) ** 0.5
    return float((shares[0] - shares[1]).abs().max()) * scale


@pytest.fixture(scope="module")
def theirs() -> dict[str, Tensor]:
    single = v2.Compose(
        [
            v2.RandomHorizontalFlip(),
            v2.RandomCrop((HEIGHT, WIDTH), padding=PAD),
            v2.RandomErasing(value=MEAN),
        ]
    )
    with torch.random.fork_rng([]):
        torch.manual_seed(1)
        return drawn(lambda images: torch.stack([single(image) for image in images]))


def distances(augment: Augment, theirs: dict[str, Tensor]) -> dict[str, float]:
    ours = drawn(lambda images: augment(images.contiguous(), stream(5)))
    return {name: distance(ours[name], theirs[name]) for name in theirs}


def test_the_distributions_are_those_of_torchvision(theirs: dict[str, Tensor]) -> None:
    found = distances(Augment(pad=PAD), theirs)
    assert max(found.values()) < 2.2, found


@pytest.mark.parametrize(
    ("wrong", "constant", "seen"),
    [
        ({"flip": 0.4}, {}, {"mirrored"}),
        ({"pad": PAD - 1}, {}, {"down", "across"}),
        ({"erase": 0.6}, {}, {"erased"}),
        ({}, {"_ERASE_TRIES": 1}, {"erased"}),
        ({}, {"_ERASE_AREA": (0.02, 0.4)}, {"area"}),
        ({}, {"_ERASE_ASPECT": (0.3, 2.0)}, {"aspect"}),
    ],
)
def test_a_wrong_distribution_is_seen(
    theirs: dict[str, Tensor],
    monkeypatch: pytest.MonkeyPatch,
    wrong: dict[str, float],
    constant: dict[str, object],
    seen: set[str],
) -> None:
    for name, value in constant.items():
        monkeypatch.setattr(transforms, name, value)
    found = distances(Augment(**{"pad": PAD, **wrong}), theirs)
    assert seen <= {name for name, value in found.items() if value > 2.2}, found


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_a_gpu_it_is_deterministic_and_never_waits(images: Tensor) -> None:
    augment, there = Augment(auto=1.0), images.cuda()
    torch.use_deterministic_algorithms(True)
    try:
        first, second = augment(there, stream(3)), augment(there, stream(3))
        torch.cuda.set_sync_debug_mode("error")  # torchvision's AutoAugment waits
        Augment()(there, stream(3))
    finally:
        torch.cuda.set_sync_debug_mode("default")
        torch.use_deterministic_algorithms(False)
    assert torch.equal(first, second)
    assert (first.cpu() != augment(images, stream(3))).float().mean() < 0.01
    assert torch.equal(Augment()(there, stream(3)).cpu(), Augment()(images, stream(3)))
