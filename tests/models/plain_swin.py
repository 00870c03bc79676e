"""Swin as mmsegmentation and SOLIDER define it, over a state dict of their names."""

from itertools import product

import torch
import torch.nn.functional as F
from torch import Tensor

DEPTHS, HEADS, WIDTH, WINDOW, SHIFT = (2, 2, 6, 2), (3, 6, 12, 24), 96, 7, 3
State = dict[str, Tensor]


def shapes() -> dict[str, tuple[int, ...]]:
    """Swin-T's tensors and those of SOLIDER's semantic condition."""
    found: dict[str, tuple[int, ...]] = {"patch_embed.projection.weight": (WIDTH, 3, 4, 4)}
    found |= {"patch_embed.projection.bias": (WIDTH,)}
    norms = {"patch_embed.norm": WIDTH}
    linear: dict[str, tuple[int, int]] = {}
    for i, (depth, heads) in enumerate(zip(DEPTHS, HEADS, strict=True)):
        dim = WIDTH * 2**i
        norms[f"norm{i}"] = dim
        for j in range(depth):
            block = f"stages.{i}.blocks.{j}"
            norms |= {f"{block}.norm1": dim, f"{block}.norm2": dim}
            linear[f"{block}.attn.w_msa.qkv"] = (3 * dim, dim)
            linear[f"{block}.attn.w_msa.proj"] = (dim, dim)
            linear[f"{block}.ffn.layers.0.0"] = (4 * dim, dim)
            linear[f"{block}.ffn.layers.1"] = (dim, 4 * dim)
            found[f"{block}.attn.w_msa.relative_position_bias_table"] = (13 * 13, heads)
        if i < 3:
            norms[f"stages.{i}.downsample.norm"] = 4 * dim
            found[f"stages.{i}.downsample.reduction.weight"] = (2 * dim, 4 * dim)
        for kind in "wb":
            linear[f"semantic_embed_{kind}.{i}"] = (WIDTH * 2 ** min(i + 1, 3), 2)
    for name, (rows, columns) in linear.items():
        found |= {f"{name}.weight": (rows, columns), f"{name}.bias": (rows,)}
    for name, dim in norms.items():
        found |= {f"{name}.weight": (dim,), f"{name}.bias": (dim,)}
    return found


def random_state(seed: int = 0) -> State:
    """Weights that keep the variance of what they are applied to."""
    generator = torch.Generator().manual_seed(seed)
    state = {}
    for name, shape in shapes().items():
        value = torch.randn(shape, generator=generator)
        is_norm = "norm" in name and name.endswith("weight")
        fan = value[0].numel() if value.ndim > 1 and "table" not in name else 4
        state[name] = 1 + 0.2 * value if is_norm else value / fan**0.5
    return state


def features(state: State, images: Tensor, weight: float = 0.2) -> Tensor:
    """(B, 768) of (B, 3, H, W) normalised images."""
    x = F.conv2d(images, *_of(state, "patch_embed.projection"), stride=4).permute(0, 2, 3, 1)
    x = _norm(state, "patch_embed.norm", x)
    condition = torch.tensor([weight, 1 - weight])
    for i, depth in enumerate(DEPTHS):
        for j in range(depth):
            name = f"stages.{i}.blocks.{j}"
            inner = _norm(state, f"{name}.norm1", x)
            x = x + _attention(state, f"{name}.attn.w_msa", inner, HEADS[i], SHIFT * (j % 2))
            hidden = F.linear(
                _norm(state, f"{name}.norm2", x), *_of(state, f"{name}.ffn.layers.0.0")
            )
            x = x + F.linear(F.gelu(hidden), *_of(state, f"{name}.ffn.layers.1"))
        if i < 3:
            height, width = x.shape[1:3]
            unfolded = F.unfold(x.permute(0, 3, 1, 2), 2, stride=2).transpose(1, 2)
            name = f"stages.{i}.downsample"
            merged = F.linear(
                _norm(state, f"{name}.norm", unfolded), state[f"{name}.reduction.weight"]
            )
            x = merged.unflatten(1, (height // 2, width // 2))
            scale, shift = (
                F.linear(condition, *_of(state, f"semantic_embed_{k}.{i}")) for k in "wb"
            )
            x = x * F.softplus(scale) + shift
    return _norm(state, "norm3", x).mean((1, 2))


def _of(state: State, name: str) -> tuple[Tensor, Tensor]:
    return state[f"{name}.weight"], state[f"{name}.bias"]


def _norm(state: State, name: str, x: Tensor) -> Tensor:
    return F.layer_norm(x, x.shape[-1:], *_of(state, name))


def _attention(state: State, name: str, x: Tensor, heads: int, shift: int) -> Tensor:
    """Window by window: pad to whole windows, roll, attend within a region, roll back, cut."""
    height, width, dim = x.shape[1:]
    x = F.pad(x, (0, 0, 0, -width % WINDOW, 0, -height % WINDOW))
    rows, columns = x.shape[1:3]
    x = x.roll((-shift, -shift), (1, 2))
    region = 3 * _thirds(rows, shift)[:, None] + _thirds(columns, shift)
    cells = list(product(range(WINDOW), repeat=2))
    places = [[(a - c + 6) * 13 + b - d + 6 for c, d in cells] for a, b in cells]
    table = state[f"{name}.relative_position_bias_table"]
    bias = table[torch.tensor(places)].permute(2, 0, 1)  # (heads, 49, 49)
    result = torch.empty_like(x)
    for top, left in product(range(0, rows, WINDOW), range(0, columns, WINDOW)):
        window = slice(top, top + WINDOW), slice(left, left + WINDOW)
        tokens, own = x[:, window[0], window[1]].flatten(1, 2), region[window].flatten()
        q, k, v = F.linear(tokens, *_of(state, f"{name}.qkv")).chunk(3, -1)
        q, k, v = (t.unflatten(-1, (heads, -1)).transpose(1, 2) for t in (q, k, v))
        scores = q @ k.transpose(-1, -2) * (dim // heads) ** -0.5 + bias
        scores = scores.masked_fill(own[:, None] != own, -torch.inf)
        mixed = (scores.softmax(-1) @ v).transpose(1, 2).flatten(2)
        mixed = F.linear(mixed, *_of(state, f"{name}.proj"))
        result[:, window[0], window[1]] = mixed.unflatten(1, (WINDOW, WINDOW))
    return result.roll((shift, shift), (1, 2))[:, :height, :width]


def _thirds(size: int, shift: int) -> Tensor:
    """The region of each row or column of a rolled map; one region without a shift."""
    found = torch.zeros(size, dtype=torch.int64)
    if shift:
        found[-WINDOW:-shift], found[-shift:] = 1, 2
    return found
