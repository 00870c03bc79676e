"""Human-pretrained trunks from files made with their public names."""

import io
from collections.abc import Callable
from contextlib import redirect_stdout
from pathlib import Path

import pytest
import timm
import torch
import torch.nn.functional as F
from timm.layers.pos_embed import resample_abs_pos_embed
from torch import Tensor, nn

from camreid.errors import InputError
from camreid.models import Backbone
from camreid.models.backbone import BackboneOptions
from camreid.models.human import StemmedPatches
from camreid.models.weights import fit_trunk
from tests.models import plain_swin

State = dict[str, Tensor]


def load(path: Path, content: object, name: str, size: tuple[int, int], **more: object) -> Backbone:
    """A backbone with the weights of a file; `loaded` is what was printed."""
    torch.save(content, path)
    printed = io.StringIO()
    with redirect_stdout(printed):
        backbone = Backbone(name, size, BackboneOptions(weights=str(path), **more)).eval()  # type: ignore[arg-type]
    backbone.loaded = printed.getvalue()
    return backbone


def small_vit(grid: tuple[int, int] = (4, 2), seed: int = 0) -> State:
    """A file's tensors for `test_vit`, with positions of a map of patches."""
    torch.manual_seed(seed)
    state = timm.create_model("test_vit", num_classes=3, img_size=(64, 32)).state_dict()
    state["pos_embed"] = torch.randn(1, 1 + grid[0] * grid[1], 64)
    return state


def prefixed(state: State, prefix: str) -> State:
    return {prefix + name: value for name, value in state.items()}


@pytest.fixture(scope="module")
def solider() -> State:
    return plain_swin.random_state()


@pytest.mark.parametrize("size", [(256, 128), pytest.param((384, 128), marks=pytest.mark.slow)])
def test_soliders_swin_is_that_of_its_definition(
    size: tuple[int, int], solider: State, tmp_path: Path
) -> None:
    content = {"teacher": prefixed(solider, "backbone."), "epoch": 100}
    content["teacher"] |= {"head.mlp.0.weight": torch.zeros(2, 2)}
    backbone = load(tmp_path / "swin_tiny.pth", content, "solider_swin_tiny", size)
    images = torch.randn(1, 3, *size)
    with torch.no_grad():
        expected = plain_swin.features(solider, images)
        found = backbone(images)
    assert (found - expected).abs().max().item() < 1e-5 * max(1.0, expected.abs().max().item())
    assert torch.equal(backbone.mean, torch.full((3,), 127.5))
    total = len(backbone.trunk.state_dict())
    assert f"{total} of {total} tensors of the trunk, from teacher: backbone.*" in backbone.loaded
    assert "head" in backbone.loaded


def test_timms_own_swin_is_not_soliders(solider: State, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="solider_swin_tiny"):
        load(tmp_path / "s.pth", solider, "swin_tiny_patch4_window7_224", (224, 224))


def test_the_semantic_condition_is_optional_in_names_of_mmsegmentation(solider: State) -> None:
    plain = {k: v for k, v in solider.items() if not k.startswith("semantic")}
    backbone = Backbone("solider_swin_tiny", (64, 32))
    fit = fit_trunk({"": plain}, backbone.trunk)
    assert not fit.missing
    assert not fit.left_over
    merge = "layers.1.downsample.reduction"
    assert not fit.tensors[f"{merge}.bias"].any()
    whole = fit_trunk({"": solider}, backbone.trunk)
    scale = F.softplus(
        F.linear(
            torch.tensor([0.2, 0.8]),
            solider["semantic_embed_w.0.weight"],
            solider["semantic_embed_w.0.bias"],
        )
    )
    assert torch.allclose(
        whole.tensors[f"{merge}.weight"], scale[:, None] * fit.tensors[f"{merge}.weight"]
    )


def test_the_stem_of_ics_is_read(tmp_path: Path) -> None:
    torch.manual_seed(0)
    trunk = timm.create_model("vit_small_patch16_224", num_classes=0, img_size=(256, 128))
    stem = StemmedPatches(384)
    state = trunk.state_dict()
    convs = stem.stem.state_dict()
    state |= {"patch_embed.proj.weight": stem.weight, "patch_embed.proj.bias": stem.bias}
    state |= {f"patch_embed.conv.{k}": v + 0.01 for k, v in convs.items()}
    content = {"teacher": prefixed(state, "module.backbone.")}
    backbone = load(tmp_path / "ics.pth", content, "ics_vit_small", (256, 128))
    found = backbone.trunk.patch_embed.proj
    assert torch.equal(found.stem[0].weight, convs["0.weight"] + 0.01)
    assert found(torch.zeros(1, 3, 256, 128)).shape == (1, 384, 16, 8)


def test_part_tokens_of_pass_are_left_out(tmp_path: Path) -> None:
    state = small_vit()
    positions = state["pos_embed"]
    state |= {"cls_pos": positions[:, :1], "pos_embed": positions[:, 1:]}
    state |= {f"part_token{n}": torch.ones(1, 1, 64) for n in (1, 2, 3)}
    state |= {f"part{n}_pos": torch.ones(1, 1, 64) for n in (1, 2, 3)}
    state |= {"masked_embed": torch.ones(1, 64), "pre_logits.fc.bias": torch.ones(64)}
    backbone = load(tmp_path / "pass.pth", {"teacher": state}, "test_vit", (64, 32))
    assert torch.equal(backbone.trunk.pos_embed, positions)
    assert "part_token1" in backbone.loaded


@pytest.mark.parametrize(("grid", "size"), [((16, 8), (384, 128)), ((21, 10), (256, 128))])
def test_positions_of_a_map_that_is_not_square_are_resized_by_timm(
    grid: tuple[int, int], size: tuple[int, int], tmp_path: Path
) -> None:
    state = small_vit(grid)
    backbone = load(tmp_path / "w.pth", state, "test_vit", size)
    new = [size[0] // 16, size[1] // 16]
    expected = resample_abs_pos_embed(state["pos_embed"], new, list(grid))
    assert torch.allclose(backbone.trunk.pos_embed, expected)
    assert f"{grid[0]}x{grid[1]} patches resized to {new[0]}x{new[1]}" in backbone.loaded


def test_positions_of_a_square_map_are_resized_by_timm(tmp_path: Path) -> None:
    state = small_vit((14, 14))
    backbone = load(tmp_path / "w.pth", state, "test_vit", (256, 128))
    expected = resample_abs_pos_embed(state["pos_embed"], [16, 8], [14, 14])
    assert torch.allclose(backbone.trunk.pos_embed, expected)
    assert "14x14 patches resized to 16x8" in backbone.loaded


def test_patches_of_another_size_are_named(tmp_path: Path) -> None:
    state = small_vit()
    state["patch_embed.proj.weight"] = torch.randn(64, 3, 14, 14)
    backbone = load(tmp_path / "w.pth", state, "test_vit", (64, 32))
    assert "patches of 14x14 pixels resized to 16x16" in backbone.loaded
    assert "resized" not in load(tmp_path / "w.pth", small_vit(), "test_vit", (64, 32)).loaded


def test_blocks_in_chunks_are_those_of_dinov2_in_training(tmp_path: Path) -> None:
    state = small_vit()
    file = {k.replace("blocks.", "blocks.0.", 1): v for k, v in state.items()}
    content = {"teacher": prefixed(file, "backbone.") | {"dino_head.last.weight": torch.ones(2)}}
    trunk = load(tmp_path / "w.pth", content, "test_vit", (64, 32)).trunk.state_dict()
    assert all(torch.equal(trunk[k], v) for k, v in state.items() if k in trunk)


def test_of_two_networks_the_average_is_taken_and_named(tmp_path: Path) -> None:
    first, second = small_vit(seed=1), small_vit(seed=2)
    both = [
        {"student": prefixed(first, "module.backbone."), "teacher": prefixed(second, "backbone.")},
        {"state_dict": first, "state_dict_ema": second},
        {"state_dict": prefixed(first, "student.") | prefixed(second, "teacher.")},
        {"state_dict": prefixed(first, "encoder_k.") | prefixed(second, "encoder_q.")},
    ]
    for content in both:
        backbone = load(tmp_path / "w.pth", content, "test_vit", (64, 32))
        assert torch.equal(backbone.trunk.pos_embed, second["pos_embed"])
        assert "has the same names" in backbone.loaded
    single = load(tmp_path / "w.pth", {"model": first}, "test_vit", (64, 32))
    assert "same names" not in single.loaded


@pytest.mark.parametrize("how", [lambda w: w * torch.nan, lambda w: w / 0, lambda w: w.int()])
def test_a_broken_trunk_is_refused(how: Callable[[Tensor], Tensor], tmp_path: Path) -> None:
    state, name = small_vit(), "blocks.0.mlp.fc1.weight"
    state["head.weight"][0] = torch.nan  # not part of the trunk
    load(tmp_path / "w.pth", state, "test_vit", (64, 32))
    state[name] = how(state[name])
    with pytest.raises(InputError, match=name):
        load(tmp_path / "w.pth", state, "test_vit", (64, 32))


def test_a_partial_trunk_needs_permission(tmp_path: Path) -> None:
    state = small_vit()
    del state["blocks.0.norm1.weight"], state["norm.bias"]
    with pytest.raises(InputError, match=r"2 of the model's .* missing .*allow_partial=True"):
        load(tmp_path / "w.pth", state, "test_vit", (64, 32))
    partial = load(tmp_path / "w.pth", state, "test_vit", (64, 32), allow_partial=True)
    total = len(partial.trunk.state_dict())
    assert f"{total - 2} of {total} tensors" in partial.loaded
    nothing = {"_blocks.0.weight": torch.zeros(2), "_fc.weight": torch.zeros(2)}
    with pytest.raises(InputError, match=r"2 of the file's .*0 of \d+ tensors .* the file: \*"):
        load(tmp_path / "w.pth", nothing, "test_vit", (64, 32), allow_partial=True)


def clip_names(state: State) -> State:
    """timm's names to OpenAI's, for `vit_base_patch16_clip_*`."""
    pairs = (
        ("patch_embed.proj", "conv1"), ("norm_pre", "ln_pre"), ("attn.qkv.", "attn.in_proj_"),
        ("attn.proj", "attn.out_proj"), ("mlp.fc1", "mlp.c_fc"), ("mlp.fc2", "mlp.c_proj"),
        (".norm1", ".ln_1"), (".norm2", ".ln_2"), ("blocks.", "transformer.resblocks."),
    )  # fmt: skip
    found = {}
    for name, value in state.items():
        for old, new in pairs:
            name = name.replace(old, new)
        found[name.replace("norm.", "ln_post.") if name.startswith("norm.") else name] = value
    found["class_embedding"] = found.pop("cls_token")[0, 0]
    found["positional_embedding"] = found.pop("pos_embed")[0]
    return found


@pytest.mark.parametrize("grid", [(14, 14), (16, 8)])
def test_clip_is_read_by_timms_names(grid: tuple[int, int]) -> None:
    torch.manual_seed(0)
    name = "vit_base_patch16_clip_quickgelu_224"
    trunk = timm.create_model(name, num_classes=0, img_size=(256, 128), depth=1)
    own = dict(trunk.state_dict())
    given = own | {"pos_embed": torch.randn(1, 1 + grid[0] * grid[1], 768)}
    file = prefixed(clip_names(given) | {"proj": torch.zeros(768, 512)}, "visual.")
    file |= {"transformer.resblocks.0.ln_1.weight": torch.ones(3), "logit_scale": torch.ones(())}
    fit = fit_trunk({"": file}, trunk)
    assert not fit.missing
    assert not fit.left_over
    assert fit.prefix == "visual."
    assert "visual.proj" in fit.needless
    assert "logit_scale" in fit.outside
    expected = resample_abs_pos_embed(given["pos_embed"], [16, 8], list(grid))
    assert torch.allclose(fit.tensors["pos_embed"], expected)
    assert fit.names["pos_embed"] == "visual.positional_embedding"
    assert all(torch.equal(fit.tensors[k], v) for k, v in own.items() if k != "pos_embed")


def test_dinov2_is_read_by_timms_names() -> None:
    torch.manual_seed(0)
    name = "vit_small_patch14_reg4_dinov2"
    trunk = timm.create_model(name, num_classes=0, img_size=(252, 126), depth=1)
    state = dict(trunk.state_dict())
    positions = torch.randn(1, 1 + 37 * 37, 384)
    file = state | {"mask_token": torch.zeros(1, 384), "pos_embed": positions}
    file["register_tokens"] = file.pop("reg_token")
    fit = fit_trunk({"": file}, trunk)
    assert (fit.missing, fit.left_over) == ((), ())
    assert "mask_token" in fit.needless
    assert torch.allclose(fit.tensors["cls_token"], state["cls_token"] + positions[:, :1])
    expected = resample_abs_pos_embed(positions[:, 1:], [18, 9], [37, 37], num_prefix_tokens=0)
    assert torch.allclose(fit.tensors["pos_embed"], expected)


@pytest.mark.parametrize("is_zero", [True, False])
def test_a_bias_that_dinov3_needs_is_not_dropped(is_zero: bool) -> None:
    torch.manual_seed(0)
    trunk = timm.create_model("vit_small_patch16_dinov3", num_classes=0, img_size=(64, 32), depth=1)
    file = {k.replace("gamma_1", "ls1.gamma").replace("gamma_2", "ls2.gamma"): v
            for k, v in trunk.state_dict().items()}  # fmt: skip
    file["storage_tokens"] = file.pop("reg_token")
    file["mask_token"], file["rope_embed.periods"] = torch.zeros(1, 384), torch.ones(16)
    bias = torch.zeros(3 * 384) if is_zero else torch.ones(3 * 384)
    file["blocks.0.attn.qkv.bias"] = bias
    fit = fit_trunk({"": file}, trunk)
    assert not fit.missing
    assert fit.left_over == (() if is_zero else ("blocks.0.attn.qkv.bias",))
    assert "rope_embed.periods" in fit.needless


def test_a_projector_behind_the_encoder_is_not_part_of_the_trunk(tmp_path: Path) -> None:
    state = nn.ModuleDict(
        {"backbone": timm.create_model("test_resnet", num_classes=0)}
    ).state_dict()
    state |= {"projector.0.weight": torch.zeros(2, 2), "head.bn.weight": torch.zeros(2)}
    backbone = load(tmp_path / "w.pth", {"state_dict": state}, "test_resnet", (64, 32))
    assert "projector" in backbone.loaded
