"""The camera embedding of a tiny vision transformer, by hand."""

import timm
import torch
from torch import Tensor, nn

from camreid import create_model
from camreid.models.cameras import CameraEmbedding, CameraIndex, use_camera_embedding

CAMERAS = [3, 1, 9, 5, 3]


def tiny(embedding: float = 3.0) -> nn.Module:
    torch.manual_seed(0)
    module = create_model(
        "vit_base", [4, 8], network__backbone="vit_tiny_patch16_224", image_size=[64, 32],
        network__cameras=[1, 3, 5], network__camera_embedding=embedding,
    )  # fmt: skip
    return module.model


def raw() -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (5, 3, 64, 32), dtype=torch.uint8, generator=generator)


def by_hand(trunk: nn.Module, images: Tensor, added: Tensor) -> Tensor:
    patches = trunk.patch_embed(images)
    tokens = torch.cat((trunk.cls_token.expand(len(images), -1, -1), patches), 1)
    tokens = tokens + trunk.pos_embed + added[:, None]
    return trunk.norm(trunk.blocks(tokens))[:, 0]


def test_the_vector_of_the_camera_is_added_to_every_token() -> None:
    network = tiny().eval()
    trunk = network.backbone.trunk
    table = trunk.norm_pre.table
    assert table.shape == (3, 192)
    assert 0.01 < table.std() < 0.03
    added = 3.0 * torch.stack([table[1], table[0], table.mean(0), table[2], table[1]])
    images = raw()
    found = network(images, cameras=torch.tensor(CAMERAS)).before
    expected = by_hand(trunk, network.pixel_norm(images), added)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
    mean = (3.0 * table.mean(0)).expand(5, -1)
    expected = by_hand(trunk, network.pixel_norm(images), mean)
    torch.testing.assert_close(network(images).before, expected, atol=1e-4, rtol=1e-4)
    assert not torch.allclose(found, network(images).before, atol=1e-3)


def test_it_is_trained_and_off_by_default() -> None:
    network = tiny()
    network(raw(), cameras=torch.tensor(CAMERAS)).before.square().mean().backward()
    assert network.backbone.trunk.norm_pre.table.grad.abs().sum(1).min() > 0
    usual = tiny(0.0)
    assert usual.cameras == ()
    assert isinstance(usual.backbone.trunk.norm_pre, nn.Identity)


def test_a_norm_of_the_trunk_comes_after() -> None:
    trunk = timm.create_model("vit_tiny_patch16_224", num_classes=0, pre_norm=True)
    norm = trunk.norm_pre
    assert isinstance(norm, nn.LayerNorm)
    use_camera_embedding(trunk, 2.0, CameraIndex((1, 2)))
    assert isinstance(trunk.norm_pre, CameraEmbedding)
    tokens = torch.randn(2, 5, 192)
    with trunk.norm_pre.cameras.of(torch.tensor([2, 1])):
        found = trunk.norm_pre(tokens)
    expected = norm(tokens + 2.0 * trunk.norm_pre.table.flip(0)[:, None])
    torch.testing.assert_close(found, expected)
