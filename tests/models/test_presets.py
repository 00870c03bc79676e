"""Any backbone with the files of conf/model/."""

import pytest
import torch

from camreid import create_model
from camreid.errors import InputError
from camreid.models.presets import read_model

RESNET = ("last_stride", "ibn", "non_local", "stem_padding")


@pytest.mark.parametrize(
    "backbone",
    ["tf_efficientnet_lite0", "mobilenetv3_small_050", "vit_tiny_patch16_224", "convnext_atto",
     "swin_tiny_patch4_window7_224"],
)  # fmt: skip
def test_the_default_model_takes_any_backbone(backbone: str) -> None:
    module = create_model("bot_r50", [2, 7, 11], network__backbone=backbone, image_size=(64, 32))
    assert module.config.name == f"bot_{backbone}"
    assert [module.config.network[name] for name in RESNET] == [None, False, False, 1]
    output = module.eval()(torch.randint(0, 256, (2, 3, 64, 32), dtype=torch.uint8))
    assert output.logits["identity"].shape == (2, 3)


@pytest.mark.parametrize(
    ("model", "backbone", "name"),
    [
        ("agw_r50_ibn", "resnet18.a1_in1k", "agw_resnet18_ibn"),
        ("agw_r101_ibn", "vit_tiny_patch16_224", "agw_vit_tiny_patch16_224"),
        ("mgn_r50", "resnet26", "mgn_resnet26"),
        ("vit_base", "vit_small_patch14_dinov2.lvd142m", "vit_small_patch14_dinov2"),
        ("osnet_x1_0", "osnet_ain_x1_0", "osnet_ain_x1_0"),
        ("small", "convnext_atto", "convnext_atto"),
    ],
)
def test_a_model_is_named_after_a_typed_backbone(model: str, backbone: str, name: str) -> None:
    assert read_model(model, network__backbone=backbone).name == name
    assert read_model(model).name == model


def test_a_resnet_keeps_the_options_of_the_file() -> None:
    network = read_model("agw_r50_ibn", network__backbone="resnet34").network
    assert [network[name] for name in RESNET] == [1, True, True, 1]


def test_typed_options_that_a_backbone_does_not_have_are_refused() -> None:
    with pytest.raises(InputError, match="ibn=True: convnext_atto"):
        create_model("bot_r50", [1, 2], network__backbone="convnext_atto", network__ibn=True)
    with pytest.raises(InputError, match="convnext_atto is no ResNet, and MGN"):
        create_model("mgn_r50", [1, 2], network__backbone="convnext_atto")


@pytest.mark.parametrize(
    ("backbone", "size", "nearest"),
    [
        ("vit_small_patch14_dinov2", (256, 128), "[252, 126] and [266, 140]"),
        ("eva02_tiny_patch14_224", (256, 126), "[252, 126] and [266, 126]"),
        ("vit_tiny_patch16_224", (256, 120), "[256, 112] and [256, 128]"),
    ],
)
def test_images_of_parts_of_patches_are_refused(
    backbone: str, size: tuple[int, int], nearest: str
) -> None:
    with pytest.raises(InputError) as error:
        create_model("bot_r50", [1, 2], network__backbone=backbone, image_size=size)
    assert nearest in str(error.value)
    height, width = error.value.remedy["image_size"]
    assert create_model("bot_r50", [1], network__backbone=backbone, image_size=(height, width))
