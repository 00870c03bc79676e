"""Camera-based batch norm against one nn.BatchNorm for each camera."""

import copy
import pickle

import pytest
import torch
from torch import Tensor, nn

from camreid import create_model
from camreid.errors import InputError
from camreid.models.camera_norm import CameraNorm, use_camera_norm
from camreid.models.cameras import CameraIndex

SHAPES = [(4,), (4, 3, 2)]


def plain(features: tuple[int, ...]) -> nn.Module:
    norm = (nn.BatchNorm1d if len(features) == 1 else nn.BatchNorm2d)(features[0]).double()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        norm.weight.copy_(torch.rand(features[0], generator=generator) + 0.5)
        norm.bias.copy_(torch.randn(features[0], generator=generator))
    return norm


def draw(count: int, features: tuple[int, ...], seed: int) -> Tensor:
    """Features off the origin."""
    generator = torch.Generator().manual_seed(seed)
    return 3 + 2 * torch.randn(count, *features, generator=generator, dtype=torch.float64)


def ask(norm: CameraNorm, features: Tensor, cameras: list[int] | None) -> Tensor:
    with norm.cameras.of(None if cameras is None else torch.tensor(cameras)):
        return norm(features)


def of(cameras: list[int], camera: int) -> Tensor:
    return torch.tensor(cameras) == camera


@pytest.mark.parametrize("features", SHAPES)
def test_it_is_one_batch_norm_a_camera(features: tuple[int, ...]) -> None:
    index = CameraIndex((2, 5, 7), least=2)
    start = plain(features)
    twins = {camera: copy.deepcopy(start) for camera in index.numbers}
    for twin in twins.values():  # one affine map for all
        twin.weight, twin.bias = start.weight, start.bias
    whole = copy.deepcopy(start)
    norm = CameraNorm(copy.deepcopy(start), index)
    for step, cameras in enumerate([[5, 2, 2, 5, 5], [7, 2, 7, 2], [2, 2, 2, 5, 5, 7, 7]]):
        given = draw(len(cameras), features, step).requires_grad_()
        same = given.detach().clone().requires_grad_()
        for part in (norm, start):
            part.zero_grad()
        found = ask(norm, given, cameras)
        expected = torch.zeros_like(found)
        for camera in set(cameras):
            expected[of(cameras, camera)] = twins[camera](same[of(cameras, camera)])
        torch.testing.assert_close(found, expected)
        weights = draw(len(cameras), features, 100 + step)
        (found * weights).sum().backward()
        (expected * weights).sum().backward()
        torch.testing.assert_close(given.grad, same.grad)
        torch.testing.assert_close(norm.weight.grad, start.weight.grad)
        torch.testing.assert_close(norm.bias.grad, start.bias.grad)
        whole(same.detach())
    for place, camera in enumerate(index.numbers):
        torch.testing.assert_close(norm.camera_mean[place], twins[camera].running_mean)
        torch.testing.assert_close(norm.camera_var[place], twins[camera].running_var)
        assert norm.camera_batches[place] == twins[camera].num_batches_tracked
    torch.testing.assert_close(norm.running_mean, whole.running_mean)
    torch.testing.assert_close(norm.running_var, whole.running_var)

    cameras = [7, 2, 5, 2, 9]
    given = draw(5, features, 9)
    expected = torch.cat(
        [twins.get(c, whole).eval()(x[None]) for c, x in zip(cameras, given, strict=True)]
    )
    torch.testing.assert_close(ask(norm.eval(), given, cameras), expected)
    assert not torch.allclose(whole(given), expected)


@pytest.mark.parametrize("features", SHAPES)
@pytest.mark.parametrize("cameras", [[1] * 6, None, [8, 9, 8, 9, 8, 8]])
def test_one_camera_or_none_is_plain_batch_norm(
    features: tuple[int, ...], cameras: list[int] | None
) -> None:
    twin = plain(features)
    norm = CameraNorm(copy.deepcopy(twin), CameraIndex((1,)))
    for step in range(3):
        given = draw(6, features, step)
        torch.testing.assert_close(ask(norm, given, cameras), twin(given))
    given = draw(6, features, 7)
    torch.testing.assert_close(ask(norm.eval(), given, cameras), twin.eval()(given))


@pytest.mark.parametrize("features", SHAPES)
def test_single_images_and_unknown_cameras_go_by_the_whole_batch(
    features: tuple[int, ...],
) -> None:
    norm = CameraNorm(plain(features), CameraIndex((1, 2, 3), least=2))
    cameras = [3, 1, 2, 1, 9]
    given = draw(5, features, 0)
    found = ask(norm, given, cameras)
    whole = plain(features)(given)
    alone = torch.tensor([True, False, True, False, True])
    torch.testing.assert_close(found[alone], whole[alone])
    torch.testing.assert_close(found[~alone], plain(features)(given[~alone]))
    assert norm.camera_batches.tolist() == [1, 0, 0]
    assert torch.equal(norm.camera_mean[1:], torch.zeros_like(norm.camera_mean[1:]))
    # a camera that has no statistics of its own is unknown in evaluation
    norm.eval()
    torch.testing.assert_close(ask(norm, given, [3] * 5), ask(norm, given, None))
    assert not torch.allclose(ask(norm, given, [1] * 5), ask(norm, given, None))


@pytest.mark.parametrize("features", SHAPES)
def test_a_camera_with_few_images_goes_by_the_whole_batch(features: tuple[int, ...]) -> None:
    norm = CameraNorm(plain(features), CameraIndex((1, 2, 3)))
    cameras = [1, 2, 3, 2, 1, 2, 2, 3, 1]  # 3, 4 and 2 images
    given = draw(9, features, 0)
    found, own = ask(norm, given, cameras), of(cameras, 2)
    torch.testing.assert_close(found[own], plain(features)(given[own]))
    torch.testing.assert_close(found[~own], plain(features)(given)[~own])
    assert norm.camera_batches.tolist() == [0, 1, 0]


@pytest.mark.parametrize("cameras", [[], None])
@pytest.mark.parametrize("features", SHAPES)
def test_an_empty_batch_leaves_the_statistics(
    features: tuple[int, ...], cameras: list[int] | None
) -> None:
    norm = CameraNorm(plain(features), CameraIndex((1, 2)))
    before = copy.deepcopy(norm.state_dict())
    assert ask(norm, draw(0, features, 0), cameras).shape == (0, *features)
    assert all(torch.equal(v, before[k]) for k, v in norm.state_dict().items())


def test_a_single_vector_is_refused_as_by_batch_norm() -> None:
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        ask(CameraNorm(plain((4,)), CameraIndex((1,))), draw(1, (4,), 0), [1])


def test_two_passes_before_one_backward() -> None:
    norm = CameraNorm(plain((4, 3, 2)), CameraIndex((1, 2), least=2))
    first = ask(norm, draw(4, (4, 3, 2), 0), [1, 1, 2, 9])
    (first.sum() + ask(norm, draw(4, (4, 3, 2), 1), [1, 1, 2, 2]).sum()).backward()


def test_the_type_of_features_stays() -> None:
    norm = CameraNorm(nn.BatchNorm2d(4), CameraIndex((1, 2), least=2))
    given = draw(4, (4, 3, 2), 0).bfloat16()
    assert ask(norm, given, [1, 1, 2, 2]).dtype == torch.bfloat16
    assert ask(norm.eval(), given, [1, 1, 2, 2]).dtype == torch.bfloat16


@pytest.fixture
def raw() -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (6, 3, 64, 32), dtype=torch.uint8, generator=generator)


def small(**options: object):
    torch.manual_seed(0)
    network = {f"network__{key}": value for key, value in options.items()}
    chosen = {"network__backbone": "test_resnet", "image_size": [64, 32], **network}
    return create_model("small", [10, 2, 7], **chosen).model


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"ibn": True, "backbone": "resnet18"},
        {"backbone": "osnet_x0_25", "last_stride": None, "pool": "avg"},
        {"backbone": "test_efficientnet", "last_stride": None},
        {"projection": 8},
    ],
)
def test_every_batch_norm_of_a_network_is_replaced(raw: Tensor, options: dict) -> None:
    usual, network = small(**options), small(**options, camera_norm=True, cameras=[1, 2])
    assert not [m for m in network.modules() if isinstance(m, nn.BatchNorm1d | nn.BatchNorm2d)]
    assert isinstance(network.neck, CameraNorm)
    count = len([m for m in usual.modules() if isinstance(m, nn.BatchNorm1d | nn.BatchNorm2d)])
    assert len([m for m in network.modules() if isinstance(m, CameraNorm)]) == count
    state = usual.state_dict()
    assert {k for k in network.state_dict() if ".camera_" not in k} == set(state)
    assert [n for n, _ in network.named_parameters()] == [n for n, _ in usual.named_parameters()]
    wants = {n: p.requires_grad for n, p in usual.named_parameters()}
    assert {n: p.requires_grad for n, p in network.named_parameters()} == wants
    usual, network = usual.double(), network.double()
    raw = raw.double()
    for mode in (True, False):  # of no known camera, and of one alone
        expected = usual.train(mode)(raw).features
        found = network.train(mode)(raw).features
        torch.testing.assert_close(found, expected)
    one = torch.ones(6, dtype=torch.int64)
    expected = usual.train()(raw).features
    torch.testing.assert_close(network.train()(raw, cameras=one).features, expected)


def test_images_of_other_cameras_do_not_matter(raw: Tensor) -> None:
    cameras = torch.tensor([2, 1, 2, 1, 2, 1])
    first = small(camera_norm=True, cameras=[1, 2])
    first.camera_index.least = 2
    second = copy.deepcopy(first)
    of_two = raw.clone()
    of_two[cameras == 1] = 255 - raw[cameras == 1]
    found = first(raw, cameras=cameras).features, second(of_two, cameras=cameras).features
    torch.testing.assert_close(found[0][cameras == 2], found[1][cameras == 2])
    assert not torch.allclose(found[0][cameras == 1], found[1][cameras == 1])
    usual = small()
    found = usual(raw).features, usual(of_two).features
    assert not torch.allclose(found[0][cameras == 2], found[1][cameras == 2])


def test_order_in_the_batch_does_not_matter(raw: Tensor) -> None:
    network = small(camera_norm=True, cameras=[1, 2])
    network.camera_index.least = 2
    cameras, order = torch.tensor([2, 1, 2, 1, 2, 9]), torch.tensor([4, 0, 5, 3, 1, 2])
    for mode in (True, False):
        network.train(mode)
        copied = copy.deepcopy(network)
        expected = network(raw, cameras=cameras)
        found = copied(raw[order], cameras=cameras[order])
        for name in ("features", "before"):
            torch.testing.assert_close(getattr(found, name), getattr(expected, name)[order])


def test_copies_and_pickles_have_an_index_of_their_own(raw: Tensor) -> None:
    network = small(camera_norm=True, cameras=[1, 2])
    cameras = torch.tensor([2, 1, 2, 1, 2, 1])
    network(raw, cameras=cameras)
    network.eval()
    for other in (copy.deepcopy(network), pickle.loads(pickle.dumps(network))):
        assert other.camera_index is not network.camera_index
        assert all(
            m.cameras is other.camera_index for m in other.modules() if isinstance(m, CameraNorm)
        )
        expected = network(raw, cameras=cameras).features
        assert torch.equal(other(raw, cameras=cameras).features, expected)
    assert network.camera_index.places is None


def test_a_network_without_batch_norm_is_refused() -> None:
    with pytest.raises(InputError, match="has no BatchNorm"):
        use_camera_norm(nn.Sequential(nn.Linear(2, 2)), CameraIndex((1,)))


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"camera_norm": True}, "needs the cameras"),
        ({"camera_norm": True, "cameras": []}, "needs the cameras"),
        ({"camera_norm": True, "cameras": [0, 1]}, "whole number from 1"),
        ({"camera_norm": True, "cameras": [1, 1]}, "twice"),
        ({"camera_embedding": -1.0, "cameras": [1]}, "at least 0"),
        ({"camera_embedding": 3.0, "cameras": [1]}, "vision transformers"),
    ],
)
def test_options_that_can_not_be_are_refused(options: dict, says: str) -> None:
    with pytest.raises(InputError, match=says):
        small(**options)
