"""Camera-based batch norm against one nn.BatchNorm for each camera."""

import copy

import pytest
import torch
from torch import Tensor, nn

from camreid import create_model
from camreid.errors import InputError
from camreid.models.cameras import CameraIndex, CameraNorm

VECTORS, MAPS = (4,), (4, 3, 2)


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


def forward(norm: CameraNorm, features: Tensor, cameras: list[int] | None) -> Tensor:
    with norm.cameras.of(None if cameras is None else torch.tensor(cameras, dtype=torch.int64)):
        return norm(features)


def of(cameras: list[int], camera: int) -> Tensor:
    return torch.tensor(cameras) == camera


@pytest.mark.parametrize("features", [VECTORS, MAPS])
def test_it_is_one_batch_norm_per_camera(features: tuple[int, ...]) -> None:
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
        found = forward(norm, given, cameras)
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
    torch.testing.assert_close(forward(norm.eval(), given, cameras), expected)
    assert not torch.allclose(whole(given), expected)


@pytest.mark.parametrize("features", [VECTORS, MAPS])
def test_a_camera_with_few_images_uses_the_whole_batch(features: tuple[int, ...]) -> None:
    norm = CameraNorm(plain(features), CameraIndex((1, 2, 3)))
    cameras = [1, 2, 3, 2, 1, 2, 2, 9, 1]  # 3, 4 and 1 images, and one of an unknown camera
    given = draw(9, features, 0)
    found, own = forward(norm, given, cameras), of(cameras, 2)
    torch.testing.assert_close(found[own], plain(features)(given[own]))
    torch.testing.assert_close(found[~own], plain(features)(given)[~own])
    assert norm.camera_batches.tolist() == [0, 1, 0]
    # an untrained camera counts as unknown in evaluation
    norm.eval()
    torch.testing.assert_close(forward(norm, given, [3] * 9), forward(norm, given, None))
    assert not torch.allclose(forward(norm, given, [2] * 9), forward(norm, given, None))


def test_two_passes_before_one_backward_and_the_type_of_features() -> None:
    norm = CameraNorm(plain(MAPS), CameraIndex((1, 2), least=2))
    first = forward(norm, draw(4, MAPS, 0), [1, 1, 2, 9])
    (first.sum() + forward(norm, draw(4, MAPS, 1), [1, 1, 2, 2]).sum()).backward()
    norm = CameraNorm(nn.BatchNorm2d(4), CameraIndex((1, 2), least=2))
    given = draw(4, MAPS, 0).bfloat16()
    assert forward(norm, given, [1, 1, 2, 2]).dtype == torch.bfloat16
    assert forward(norm.eval(), given, [1, 1, 2, 2]).dtype == torch.bfloat16


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
        {"projection": 8},
        {"ibn": True, "backbone": "resnet18"},
        {"backbone": "osnet_x0_25", "last_stride": None, "pool": "avg"},
        {"backbone": "test_efficientnet", "last_stride": None},
    ],
)
def test_every_batch_norm_of_a_network_is_replaced(raw: Tensor, options: dict) -> None:
    usual, network = small(**options), small(**options, camera_norm=True, cameras=[1, 2])
    kinds = (nn.BatchNorm1d, nn.BatchNorm2d)
    assert not [m for m in network.modules() if isinstance(m, kinds)]
    count = len([m for m in usual.modules() if isinstance(m, kinds)])
    assert len([m for m in network.modules() if isinstance(m, CameraNorm)]) == count
    assert {k for k in network.state_dict() if ".camera_" not in k} == set(usual.state_dict())
    wants = {n: p.requires_grad for n, p in usual.named_parameters()}
    assert {n: p.requires_grad for n, p in network.named_parameters()} == wants
    usual, network, raw = usual.double(), network.double(), raw.double()
    one = torch.ones(6, dtype=torch.int64)
    for mode, cameras in ((True, None), (False, None), (True, one)):
        expected = usual.train(mode)(raw).features
        torch.testing.assert_close(network.train(mode)(raw, cameras=cameras).features, expected)


def test_neither_images_of_other_cameras_nor_the_order_matter(raw: Tensor) -> None:
    cameras, order = torch.tensor([2, 1, 2, 1, 2, 1]), torch.tensor([4, 0, 5, 3, 1, 2])
    network, raw = small(camera_norm=True, cameras=[1, 2]).double(), raw.double()
    network.camera_index.least = 2
    other = torch.where((cameras == 1)[:, None, None, None], 255 - raw, raw)
    found, changed, moved = (
        copy.deepcopy(network)(images, cameras=c).features
        for images, c in ((raw, cameras), (other, cameras), (raw[order], cameras[order]))
    )
    torch.testing.assert_close(found[cameras == 2], changed[cameras == 2])
    assert not torch.allclose(found[cameras == 1], changed[cameras == 1])
    torch.testing.assert_close(found[order], moved)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"camera_norm": True}, "needs the cameras"),
        ({"camera_norm": True, "cameras": [0, 1]}, "whole number of at least 1"),
        ({"camera_norm": True, "cameras": [1, 1]}, "twice"),
        ({"camera_embedding": -1.0, "cameras": [1]}, "at least 0"),
        ({"camera_embedding": 3.0, "cameras": [1]}, "vision transformers"),
    ],
)
def test_impossible_options_are_refused(options: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        small(**options)
