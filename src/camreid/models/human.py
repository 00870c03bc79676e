"""Trunks of human-pretrained weights that timm does not have, and the names of their tensors."""

import re
from typing import Any

import timm
import torch
import torch.nn.functional as F
from timm.models.swin_transformer import PatchMerging, SwinTransformerBlock
from torch import Tensor, nn

from camreid.models.reading import State
from camreid.models.resnet import IBN

# camreid's trunks by name, and those of timm that they are made of
TRUNKS = {f"solider_swin_{s}": f"swin_{s}_patch4_window7_224" for s in ("tiny", "small", "base")}
TRUNKS |= {f"ics_vit_{size}": f"vit_{size}_patch16_224" for size in ("small", "base")}
_MMSEG = (  # of mmsegmentation's Swin, in timm's names
    (r"^stages\.(\d+)\.downsample\.", lambda m: f"layers.{int(m[1]) + 1}.downsample."),
    (r"^stages\.(\d+)\.blocks\.", r"layers.\1.blocks."),
    (r"\.attn\.w_msa\.", ".attn."),
    (r"\.ffn\.layers\.0\.0\.", ".mlp.fc1."),
    (r"\.ffn\.layers\.1\.", ".mlp.fc2."),
    (r"^patch_embed\.projection\.", "patch_embed.proj."),
    (r"^norm3\.", "norm."),
)


def create_human(name: str, image_size: tuple[int, int], **options: Any) -> Any:
    """A trunk by name, with pixels of mean and std 0.5.

    `solider_swin_*` are Swin transformers as mmsegmentation has them: every window is whole, maps
    are padded before the shift, and merges have a bias for SOLIDER's semantic weight (Chen et al.
    2023). `ics_vit_*` are behind the convolutions of TransReID-SSL's ICS (Luo et al. 2021).
    """
    if name.startswith("solider"):
        options["always_partition"] = True
    trunk: Any = timm.create_model(TRUNKS[name], img_size=image_size, **options)
    if name.startswith("ics"):
        trunk.patch_embed.proj = StemmedPatches(trunk.embed_dim)
    for part in trunk.modules():
        if isinstance(part, SwinTransformerBlock):
            part.__class__ = PaddedBlock
        elif isinstance(part, PatchMerging):
            part.reduction = nn.Linear(4 * part.dim, part.out_dim)
    trunk.pretrained_cfg = {**trunk.pretrained_cfg, **dict.fromkeys(("mean", "std"), (0.5,) * 3)}
    return trunk


class PaddedBlock(SwinTransformerBlock):
    """Pads to whole windows and then shifts; timm's block shifts and then pads."""

    def _attn(self, x: Tensor) -> Tensor:
        height, width = x.shape[1:3]  # of (B, h, w, C)
        below, right = -height % self.window_size[0], -width % self.window_size[1]
        x = F.pad(x, (0, 0, 0, right, 0, below))
        padded: Tensor = super()._attn(x)  # type: ignore[no-untyped-call]
        return padded[:, :height, :width]


class StemmedPatches(nn.Conv2d):
    """Patches of 16 x 16 pixels: three convolutions that halve the image, then one of 8 x 8."""

    def __init__(self, dim: int, inner: int = 64) -> None:
        super().__init__(inner, dim, 8, 8)
        parts: list[nn.Module] = []
        for size, norm in ((7, IBN(inner)), (3, IBN(inner)), (3, nn.BatchNorm2d(inner))):
            inputs, stride = (inner, 1) if parts else (3, 2)
            conv = nn.Conv2d(inputs, inner, size, stride, size // 2, bias=False)
            parts += [conv, norm, nn.ReLU(inplace=True)]
        self.stem = nn.Sequential(*parts)

    def forward(self, images: Tensor) -> Tensor:
        """(B, dim, H/16, W/16) of (B, 3, H, W)."""
        return super().forward(self.stem(images))


def timm_names(state: State) -> tuple[State, dict[str, str]]:
    """Tensors of a trunk in timm's names and forms, and the file's name of each.

    Of SOLIDER, the semantic weight becomes part of the merges. Of PASS, part tokens are left out.
    Of DINOv2's training, `blocks.1.4` is `blocks.4`.
    """
    if "patch_embed.projection.weight" in state:
        return _of_mmseg(state)
    names = {re.sub(r"^patch_embed\.conv\.", "patch_embed.proj.stem.", k): k for k in state}
    names = {re.sub(r"^blocks\.\d+\.(?=\d)", "blocks.", own): k for own, k in names.items()}
    tensors = {own: state[k] for own, k in names.items()}
    if "cls_pos" in state and "pos_embed" in state:
        tensors["pos_embed"] = torch.cat((tensors.pop("cls_pos"), state["pos_embed"]), 1)
    return tensors, names


def _of_mmseg(state: State) -> tuple[State, dict[str, str]]:
    tensors, names = {}, {}
    for name, value in state.items():
        own = name
        for pattern, new in _MMSEG:
            own = re.sub(pattern, new, own)
        if ".downsample." in own:  # unfolded as (C, row, column), here (column, row, C)
            value = value.view(*value.shape[:-1], -1, 2, 2)
            value = value.movedim(-3, -1).transpose(-3, -2).flatten(-3)
        tensors[own], names[own] = value, name
    condition = torch.tensor([0.2, 0.8])  # SOLIDER's, as in its ReID configs
    for stage in (n for n in (1, 2, 3) if f"layers.{n}.downsample.reduction.weight" in tensors):
        merge = f"layers.{stage}.downsample.reduction"
        weight = tensors[f"{merge}.weight"]
        given = [f"semantic_embed_{k}.{stage - 1}.{p}" for k in "wb" for p in ("weight", "bias")]
        scale, shift = torch.ones(len(weight)), torch.zeros(len(weight))
        if all(name in state for name in given):
            w, w_bias, b, b_bias = (state[name].float() for name in given)
            scale = F.softplus(F.linear(condition, w, w_bias))
            shift = F.linear(condition, b, b_bias)
        tensors[f"{merge}.weight"] = (scale[:, None] * weight.float()).to(weight)
        tensors[f"{merge}.bias"], names[f"{merge}.bias"] = shift, given[3]
    return tensors, names
