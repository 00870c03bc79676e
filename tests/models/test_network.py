from pathlib import Path

import pytest
import timm
import torch
from torch import nn

from camreid.errors import InputError, PixelRangeError
from camreid.labels import LabelMap
from camreid.models import Backbone, Baseline
from camreid.models.backbone import BackboneOptions
from camreid.models.network import build_network

LABELS = LabelMap((10, 2, 7))


def baseline(**options: object) -> Baseline:
    torch.manual_seed(0)
    return Baseline(LABELS, (64, 32), **{"backbone": "test_resnet", "last_stride": 1, **options})


@pytest.fixture
def raw() -> torch.Tensor:
    return torch.randint(0, 256, (4, 3, 64, 32), dtype=torch.uint8)


def test_output_is_the_same_kind_in_both_modes(raw: torch.Tensor) -> None:
    for mode in (True, False):
        for images in (raw, torch.zeros(2, 3, 64, 32), torch.zeros(0, 3, 64, 32)):
            if mode and not len(images):
                continue
            output = baseline().train(mode)(images)
            assert output.features.shape == (len(images), 96)
            assert output.embeddings["identity"].shape == (len(images), 96)
            assert output.logits["identity"].shape == (len(images), 3)


def test_uint8_float_and_normalised_images_give_the_same(raw: torch.Tensor) -> None:
    model, images = baseline().eval(), raw.float()
    expected = model(raw).features
    assert torch.equal(model(images).features, expected)
    assert torch.equal(images, raw.float())  # not modified
    declared = baseline(pixels="imagenet").eval()
    declared.load_state_dict(model.state_dict())
    normalised = (raw / 255 - model.pixel_norm.mean / 255) / (model.pixel_norm.std / 255)
    assert torch.allclose(declared(normalised).features, expected, atol=1e-4)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(("scale", "shift"), [(1 / 255, 0.0), (1 / 60, -2.1), (2.0, 0.0)])
def test_pixels_that_are_not_raw_are_refused(
    raw: torch.Tensor, training: bool, scale: float, shift: float
) -> None:
    model = baseline().train(training)
    for images in (raw, raw.float(), raw):  # later batches are checked too
        model(images)
    with pytest.raises(PixelRangeError, match=r"float32 images from .*pixels=imagenet"):
        model(raw * scale + shift)
    with pytest.raises(PixelRangeError, match="int64 images from"):
        model(raw.long() * 20 - 500)
    for images in (raw, raw.float()):
        with pytest.raises(PixelRangeError, match="pixels=raw"):
            baseline(pixels="imagenet")(images)


@pytest.mark.parametrize("name", ["resnet18", "resnet50", "resnet10t", "resnet50d", "test_resnet"])
def test_last_stride_doubles_the_map(name: str) -> None:
    trunk = Backbone(name, (64, 32), BackboneOptions(last_stride=1)).eval().trunk
    plain = timm.create_model(name, num_classes=0, global_pool="").eval()
    plain.load_state_dict(trunk.state_dict())
    images = torch.randn(1, 3, 64, 32)
    assert trunk.forward_features(images).shape[2:] == (4, 2)
    assert plain.forward_features(images).shape[2:] == (2, 1)


QUICK = {
    "lcnet_050": 256, "test_convnext": 64, "test_mambaout": 256, "test_vit": 64,
    "test_maxvit": 128, "xcit_nano_12_p16_224": 128, "swin_tiny_patch4_window7_224": 768,
}  # fmt: skip
FAMILIES = {
    "swinv2_tiny_window8_256": 768, "beit_base_patch16_224": 768,
    "hiera_tiny_224": 768, "sequencer2d_s": 384, "mobilenetv3_small_050": 288, "test_nfnet": 192,
    "densenet121": 1024, "levit_128s": 384, "pit_ti_224": 256, "mobilevit_xxs": 320,
    "edgenext_xx_small": 168, "cait_xxs24_224": 192, "mixer_s32_224": 512, "gmlp_ti16_224": 128,
    "efficientvim_m1": 960, "repvit_m0_9": 384, "davit_tiny": 768, "focalnet_tiny_srf": 768,
    "gcvit_xxtiny": 512, "pvt_v2_b0": 256, "twins_svt_small": 512, "tnt_s_legacy_patch16_224": 384,
    "volo_d1_224": 384, "coat_lite_tiny": 320, "regnetx_002": 368, "deit_tiny_patch16_224": 192,
    "swiftformer_xs": 220, "vit_relpos_small_patch16_224": 384, "hgnetv2_b0": 1024,
}  # fmt: skip


@pytest.mark.parametrize(
    ("name", "width"),
    [*QUICK.items(), *(pytest.param(*f, marks=pytest.mark.slow) for f in FAMILIES.items())],
)
def test_other_backbones_give_a_vector(name: str, width: int) -> None:
    backbone = Backbone(name, (256, 128)).eval()
    assert backbone.dim == width
    with torch.no_grad():
        images = torch.randn(2, 3, 256, 128)
        assert backbone(images).shape == (2, width)
        assert torch.allclose(backbone(images)[:1], backbone(images[:1]), atol=1e-3)


@pytest.mark.parametrize(
    "name", ["convit_tiny", "crossvit_9_240", "mvitv2_tiny", "nest_tiny", "efficientformer_l1"]
)
def test_backbones_that_do_not_take_the_image_size_are_refused(name: str) -> None:
    with pytest.raises(InputError, match=rf"{name} .* 256x128 pixels \(\w+Error.*\(2\d\d, 2\d\d\)"):
        Backbone(name, (256, 128))


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("test_vit", {"pool": "gem"}, r"pool=gem needs a map .* pool=avg"),
        ("test_mambaout", {"pool": "gem"}, r"pool=gem needs a map .* pool=avg"),
        ("osnet_x0_25", {"pool": "gem"}, r"pool=gem needs a map .* pool=avg"),
        ("osnet_x0_25", {"pretrained": True}, "timm has no weights of osnet_x0_25"),
        ("lcnet_050", {"last_stride": 1}, "last_stride=None"),
        ("vgg11", {"drop_path": 0.1}, "drop_path_rate"),
        ("resnet51", {}, r"backbone=resnet51 is no timm model.* resnet50"),
    ],
)
def test_an_option_that_a_backbone_does_not_have_is_refused(
    name: str, options: dict, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        Backbone(name, (64, 64), BackboneOptions(**options))


def test_weights_are_loaded_whole(tmp_path: Path) -> None:
    source = timm.create_model("test_resnet")
    nested = {"state_dict": {f"module.{k}": v for k, v in source.state_dict().items()}}
    for content in (source.state_dict(), nested):
        torch.save(content, tmp_path / "w.pth")
        options = BackboneOptions(weights=str(tmp_path / "w.pth"))
        trunk = Backbone("test_resnet", (64, 32), options).trunk
        assert all(torch.equal(v, source.state_dict()[k]) for k, v in trunk.state_dict().items())


def test_weights_with_anything_before_their_names_and_no_non_local_blocks(tmp_path: Path) -> None:
    source = timm.create_model("resnet26", num_classes=7)
    momentum = {f"module.encoder_q.{k}": v for k, v in source.state_dict().items()}
    momentum |= {f"module.encoder_k.{k}": v + 1 for k, v in source.state_dict().items()}
    torch.save({"state_dict": {**momentum, "module.queue": torch.ones(2)}}, tmp_path / "moco.pth")
    path = str(tmp_path / "moco.pth")
    options = BackboneOptions(weights=path, last_stride=1, non_local=True)
    trunk = Backbone("resnet26", (64, 32), options).trunk
    assert torch.equal(trunk.layer1[0].conv1.weight, source.layer1[0].conv1.weight)
    assert torch.equal(trunk.layer2[1].conv1.weight, source.layer2[1].conv1.weight)
    assert not trunk.NL_2[1].W[1].weight.any()


def test_weights_of_another_backbone_are_refused(tmp_path: Path) -> None:
    torch.save(timm.create_model("resnet10t").state_dict(), tmp_path / "w.pth")
    with pytest.raises(InputError, match=r"\d+ of the model's tensors are missing"):
        Backbone("test_resnet", (64, 32), BackboneOptions(weights=str(tmp_path / "w.pth")))
    (tmp_path / "junk.pth").write_bytes(b"not weights")
    with pytest.raises(InputError, match=r"no file of torch\.save"):
        Backbone("test_resnet", (64, 32), BackboneOptions(weights=str(tmp_path / "junk.pth")))
    with pytest.raises(InputError, match=r"no file at weights="):
        Backbone("test_resnet", (64, 32), BackboneOptions(weights=str(tmp_path / "none.pth")))


def test_pretrained_weights_that_can_not_be_had_say_what_to_set(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def offline(*args: object, **options: object) -> nn.Module:
        raise OSError("Name or service not known")

    monkeypatch.setattr(timm, "create_model", offline)
    with pytest.raises(InputError, match=r"Name or service.*pretrained=False"):
        Backbone("test_resnet", (64, 32), BackboneOptions(pretrained=True))


def test_options_that_a_network_does_not_have_are_refused() -> None:
    config = {"_target_": "camreid.models.Baseline", "backbone": "test_resnet"}
    with pytest.raises(InputError, match="unexpected keyword argument 'stride'"):
        build_network({**config, "stride": 1}, LABELS, (64, 32), "raw")
    with pytest.raises(InputError, match=r"is no camreid\.models\.ReIDNetwork"):
        build_network({"_target_": "os.system"}, LABELS, (64, 32), "raw")
    with pytest.raises(InputError, match="can't be imported"):
        build_network({"_target_": "camreid.models.Nothing"}, LABELS, (64, 32), "raw")
