"""The camera embedding of a tiny vision transformer, by hand."""

import timm
import torch
from torch import Tensor, nn

from camreid import create_model
from camreid.models.cameras import CameraEmbedding, CameraIndex, use_embedding


def by_hand(trunk: nn.Module, images: Tensor, added: Tensor) -> Tensor:
    patches = trunk.patch_embed(images)
    tokens = torch.cat((trunk.cls_token.expand(len(images), -1, -1), patches), 1)
    tokens = tokens + trunk.pos_embed + added[:, None]
    return trunk.norm(trunk.blocks(tokens))[:, 0]


def test_the_vector_of_the_camera_is_added_to_every_token() -> None:
    torch.manual_seed(0)
    options = {"cameras": [1, 3, 5], "camera_embedding": 3.0, "backbone": "vit_tiny_patch16_224"}
    options = {f"network__{key}": value for key, value in options.items()}
    network = create_model("vit_base", [4, 8], image_size=[64, 32], **options).model.eval()
    trunk = network.backbone.trunk
    table = trunk.norm_pre.table
    assert table.shape == (3, 192)
    assert 0.01 < table.std() < 0.03
    added = 3.0 * torch.stack([table[1], table[0], table.mean(0), table[2], table[1]])
    images = torch.randint(0, 256, (5, 3, 64, 32), dtype=torch.uint8)
    found = network(images, cameras=torch.tensor([3, 1, 9, 5, 3])).before
    expected = by_hand(trunk, network.pixel_norm(images), added)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
    mean = (3.0 * table.mean(0)).expand(5, -1)
    expected = by_hand(trunk, network.pixel_norm(images), mean)
    torch.testing.assert_close(network(images).before, expected, atol=1e-4, rtol=1e-4)
    assert not torch.allclose(found, network(images).before, atol=1e-3)
    found.square().mean().backward()
    assert table.grad.abs().sum(1).min() > 0


def test_a_norm_of_the_trunk_comes_after() -> None:
    trunk = timm.create_model("vit_tiny_patch16_224", num_classes=0, pre_norm=True)
    norm = trunk.norm_pre
    assert isinstance(norm, nn.LayerNorm)
    use_embedding(trunk, 2.0, CameraIndex((1, 2)))
    assert isinstance(trunk.norm_pre, CameraEmbedding)
    tokens = torch.randn(2, 5, 192)
    with trunk.norm_pre.cameras.of(torch.tensor([2, 1])):
        found = trunk.norm_pre(tokens)
    expected = norm(tokens + 2.0 * trunk.norm_pre.table.flip(0)[:, None])
    torch.testing.assert_close(found, expected)
