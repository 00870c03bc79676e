"""Fine-tuned files of BoT, TransReID, SOLIDER-REID and CLIP-ReID, made with their names."""

from pathlib import Path

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from camreid.checkpoints.foreign.importing import import_file
from camreid.checkpoints.io import load, save
from camreid.errors import HeadMismatch, InputError
from camreid.labels import LabelMap
from camreid.models.backbone import IMAGENET_MEAN, IMAGENET_STD
from tests.models import plain_swin
from tests.models.test_human import clip_names, prefixed

State = dict[str, Tensor]
LABELS = LabelMap((7, 2, 30))
VIT = {"network__backbone": "test_vit", "image_size": [64, 32]}


def neck(dim: int, name: str = "bottleneck") -> State:
    norm = nn.BatchNorm1d(dim)
    norm.running_mean += torch.randn(dim)
    norm.running_var += torch.rand(dim)
    nn.init.normal_(norm.weight)
    return prefixed(norm.state_dict(), f"{name}.")


def finetuned(trunk: nn.Module, dim: int, rows: int = 3) -> State:
    """A file of TransReID's `build_transformer`."""
    state = prefixed(trunk.state_dict(), "base.") | neck(dim)
    return state | {"classifier.weight": torch.randn(rows, dim)}


def expected_features(before: Tensor, state: State) -> Tensor:
    norm = nn.BatchNorm1d(before.shape[1]).eval()
    norm.load_state_dict({k.split(".", 1)[1]: v for k, v in state.items() if "bottleneck." in k})
    return norm(before)


@pytest.fixture
def vit() -> nn.Module:
    torch.manual_seed(0)
    return timm.create_model("test_vit", num_classes=0, img_size=(64, 32)).eval()


@pytest.fixture
def raw() -> Tensor:
    torch.manual_seed(1)
    return torch.randint(0, 256, (2, 3, 64, 32), dtype=torch.uint8)


@pytest.mark.parametrize("wrapper", ["module.", "model."])
@torch.no_grad()
def test_features_and_rows_are_those_of_the_file(
    wrapper: str, vit: nn.Module, raw: Tensor, tmp_path: Path
) -> None:
    state = finetuned(vit, 64) | {"base.fc.weight": torch.ones(1000, 64)}
    torch.save({"state_dict": prefixed(state, wrapper)}, tmp_path / "t.pth")
    imported = import_file(tmp_path / "t.pth", "transreid", "vit_small", LABELS, **VIT)
    assert imported.left_over == imported.missing == ()
    assert [name.removeprefix(wrapper) for name in imported.needless] == ["base.fc.weight"]
    names = imported.loaded.keys() | imported.needless.keys()
    assert {name.removeprefix(wrapper) for name in names} == state.keys()
    save(imported.module, tmp_path / "t.ckpt")
    features = expected_features(vit(raw / 127.5 - 1), state)
    for module in (imported.module, load(tmp_path / "t.ckpt")):
        output = module.model(raw)
        assert torch.allclose(output.features, features, atol=1e-5)
        logits = features @ state["classifier.weight"].T
        assert torch.allclose(output.logits["identity"], logits, atol=1e-4)
        assert module.labels == LABELS


@torch.no_grad()
def test_the_global_branch_of_jpm_has_its_own_last_block(
    vit: nn.Module, raw: Tensor, tmp_path: Path
) -> None:
    state = finetuned(vit, 64)
    last = len(vit.blocks) - 1
    for branch in ("b1", "b2"):
        state |= {k.replace(f"base.blocks.{last}", f"{branch}.0"): v + 0.1 for k, v in state.items()
                  if k.startswith(f"base.blocks.{last}.")}  # fmt: skip
        state |= {f"{branch}.1.weight": torch.rand(64), f"{branch}.1.bias": torch.rand(64)}
    for n in (1, 2, 3, 4):
        state |= neck(64, f"bottleneck_{n}") | {f"classifier_{n}.weight": torch.zeros(3, 64)}
    torch.save(state, tmp_path / "t.pth")
    imported = import_file(tmp_path / "t.pth", "transreid", "vit_small", LABELS, **VIT)
    assert imported.left_over == imported.missing == ()
    assert imported.loaded.keys() | imported.needless.keys() == state.keys()
    assert {
        "b2.0.norm1.weight",
        "bottleneck_4.weight",
        "base.norm.bias",
    } <= imported.needless.keys()
    for k, v in state.items():
        if k.startswith("b1."):
            own = k.replace("b1.0", f"blocks.{last}").replace("b1.1", "norm")
            vit.get_parameter(own).copy_(v)
    expected = expected_features(vit(raw / 127.5 - 1), state)
    assert torch.allclose(imported.module.model(raw).features, expected, rtol=1e-3, atol=1e-4)


@torch.no_grad()
def test_the_camera_embedding_is_taken_where_it_is_asked_for(
    vit: nn.Module, raw: Tensor, tmp_path: Path
) -> None:
    sie = torch.randn(6, 1, 64)
    state = finetuned(vit, 64) | {"base.sie_embed": sie}
    torch.save(state, tmp_path / "t.pth")
    plain = import_file(tmp_path / "t.pth", "transreid", "vit_small", LABELS, **VIT)
    assert "camera_embedding" in plain.needless["base.sie_embed"]
    asked = {"network__camera_embedding": 3.0, "network__cameras": [1, 2, 3, 4, 5, 6]}
    imported = import_file(tmp_path / "t.pth", "transreid", "vit_small", LABELS, **VIT, **asked)
    assert "base.sie_embed" in imported.loaded
    output = imported.module.model(raw, cameras=torch.tensor([4, 1]))
    vit.pos_embed.data = vit.pos_embed + 3 * sie[[3, 0]]
    expected = expected_features(vit(raw / 127.5 - 1), state)
    assert torch.allclose(output.features, expected, atol=1e-5)
    few = asked | {"network__cameras": [1, 2]}
    with pytest.raises(InputError, match=r"base\.sie_embed"):
        import_file(tmp_path / "t.pth", "transreid", "vit_small", LABELS, **VIT, **few)


@torch.no_grad()
def test_a_finetuned_solider_is_a_model(tmp_path: Path) -> None:
    base = plain_swin.random_state()
    state = prefixed(base, "base.") | neck(768) | {"classifier.weight": torch.randn(3, 768)}
    torch.save(state, tmp_path / "s.pth")
    size = [64, 32]
    imported = import_file(
        tmp_path / "s.pth", "transreid", "solider_swin_tiny", LABELS, image_size=size
    )
    assert imported.left_over == imported.missing == ()
    assert imported.loaded.keys() | imported.needless.keys() == state.keys()
    raw = torch.randint(0, 256, (1, 3, *size), dtype=torch.uint8)
    expected = expected_features(plain_swin.features(base, raw / 127.5 - 1), state)
    found = imported.module.model(raw).features
    assert (found - expected).abs().max() < 1e-4 * expected.abs().max()


@torch.no_grad()
def test_the_stem_of_bot_has_no_relu(raw: Tensor, tmp_path: Path) -> None:
    torch.manual_seed(0)
    trunk = timm.create_model("resnet26", num_classes=0).eval()
    state = finetuned(trunk, 2048)
    torch.save({"model": state}, tmp_path / "b.pth")
    imported = import_file(
        tmp_path / "b.pth", "transreid", "bot_r50", LABELS, image_size=[64, 32],
        network__backbone="resnet26", network__last_stride=None,
    )  # fmt: skip
    assert imported.left_over == imported.missing == ()
    assert imported.notes[0] == "taken from model"
    trunk.act1 = nn.Identity()
    mean, std = (torch.tensor(trunk.pretrained_cfg[k]).view(3, 1, 1) for k in ("mean", "std"))
    expected = expected_features(trunk((raw / 255 - mean) / std), state)
    found = imported.module.model(raw).features
    assert (found - expected).abs().max() < 1e-4 * expected.abs().max()


def test_clip_reid_has_texts_and_a_projection_beside_the_model(tmp_path: Path) -> None:
    torch.manual_seed(0)
    name = "vit_xsmall_patch16_clip_224"
    trunk = timm.create_model(name, num_classes=0, img_size=(64, 32))
    state = prefixed(clip_names(dict(trunk.state_dict())), "image_encoder.")
    state |= neck(256) | {"classifier.weight": torch.randn(3, 256)}
    beside = neck(512, "bottleneck_proj") | {"classifier_proj.weight": torch.zeros(3, 512)}
    beside |= {"image_encoder.proj": torch.zeros(256, 512), "cv_embed": torch.zeros(6, 256)}
    beside |= {"prompt_learner.cls_ctx": torch.zeros(3, 4, 512)}
    beside |= {"text_encoder.ln_final.weight": torch.zeros(512)}
    torch.save(state | beside, tmp_path / "c.pth")
    imported = import_file(
        tmp_path / "c.pth", "transreid", "vit_base", LABELS, image_size=[64, 32],
        network__backbone=name,
    )  # fmt: skip
    assert imported.left_over == imported.missing == ()
    assert imported.needless.keys() == beside.keys()
    own = imported.module.model.backbone.trunk.state_dict()
    assert all(torch.equal(own[k], v) for k, v in trunk.state_dict().items())


def clip_resnet(x: Tensor, state: State) -> Tensor:
    """CLIP-ReID's ResNet-50 in its names, by definition; makes the tensors that `state` lacks."""

    def convolve(
        x: Tensor, conv: str, norm: str, width: int, side: int = 1, step: int = 1
    ) -> Tensor:
        if f"{conv}.weight" not in state:
            weight = torch.randn(width, x.shape[1], side, side)
            state.update({f"{conv}.weight": weight / weight[0].numel() ** 0.5, **neck(width, norm)})
        x = F.conv2d(x, state[f"{conv}.weight"], stride=step, padding=side // 2)
        keys = ("running_mean", "running_var", "weight", "bias")
        return F.batch_norm(x, *(state[f"{norm}.{key}"] for key in keys))

    for n, width, step in ((1, 32, 2), (2, 32, 1), (3, 64, 1)):
        x = convolve(x, f"conv{n}", f"bn{n}", width, 3, step).relu()
    x = F.avg_pool2d(x, 2)
    for stage, depth in enumerate((3, 4, 6, 3), 1):
        for block in range(depth):
            name, width = f"layer{stage}.{block}.", 32 * 2**stage
            pool = 2 if block == 0 and stage in (2, 3) else 1  # the last stage keeps its size
            y = convolve(x, f"{name}conv1", f"{name}bn1", width).relu()
            y = convolve(y, f"{name}conv2", f"{name}bn2", width, 3).relu()
            y = convolve(F.avg_pool2d(y, pool), f"{name}conv3", f"{name}bn3", 4 * width)
            if block == 0:
                down = f"{name}downsample."
                x = convolve(F.avg_pool2d(x, pool), f"{down}0", f"{down}1", 4 * width)
            x = (x + y).relu()
    return x.mean((2, 3))


@torch.no_grad()
def test_clip_reids_resnet_is_read_with_its_pixels_and_without_the_last_stride(
    raw: Tensor, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    trunk: State = {}
    mean, std = (torch.tensor(x).view(3, 1, 1) for x in (IMAGENET_MEAN, IMAGENET_STD))
    before = clip_resnet((raw / 255 - mean) / std, trunk)
    state = prefixed(trunk, "image_encoder.") | neck(2048)
    state |= {"classifier.weight": torch.randn(3, 2048)}
    beside = {"image_encoder.attnpool.c_proj.weight": torch.zeros(1024, 2048)}
    torch.save(state | beside, tmp_path / "c.pth")
    imported = import_file(tmp_path / "c.pth", "transreid", "bot_r50", LABELS, image_size=[64, 32])
    assert imported.left_over == imported.missing == ()
    assert imported.needless.keys() == beside.keys()
    expected = expected_features(before, state)
    found = imported.module.model(raw).features
    assert (found - expected).norm() < 1e-5 * expected.norm()


def test_positions_of_another_size_make_another_model(vit: nn.Module, tmp_path: Path) -> None:
    state = finetuned(vit, 64)
    state["base.pos_embed"] = torch.randn(1, 1 + 21 * 10, 64)  # patches of stride 12
    torch.save(state, tmp_path / "t.pth")
    with pytest.raises(InputError, match="21x10 patches resized to 4x2"):
        import_file(tmp_path / "t.pth", "transreid", "vit_small", LABELS, **VIT)
    partial = import_file(
        tmp_path / "t.pth", "transreid", "vit_small", LABELS, allow_partial=True, **VIT
    )
    assert "21x10" in partial.resized


def test_what_does_not_fit_is_named(vit: nn.Module, tmp_path: Path) -> None:
    state = finetuned(vit, 64)
    torch.save(state | {"fcneck.weight": torch.zeros(3, 3)}, tmp_path / "t.pth")
    with pytest.raises(InputError, match=r"left over \(fcneck\.weight\)"):
        import_file(tmp_path / "t.pth", "transreid", "vit_small", LABELS, **VIT)
    del state["base.norm.weight"]
    torch.save(state, tmp_path / "t.pth")
    with pytest.raises(InputError, match=r"backbone\.trunk\.norm\.weight"):
        import_file(tmp_path / "t.pth", "transreid", "vit_small", LABELS, **VIT)
    partial = import_file(
        tmp_path / "t.pth", "transreid", "vit_small", LABELS, allow_partial=True, **VIT
    )
    assert partial.missing == ("backbone.trunk.norm.weight",)
    with pytest.raises(HeadMismatch, match="3 rows, and the label map 2"):
        import_file(tmp_path / "t.pth", "transreid", "vit_small", LabelMap((1, 2)), **VIT)
