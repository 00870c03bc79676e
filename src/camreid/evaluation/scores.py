"""Scores of a block of queries against the gallery, from features of any type on any device."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from camreid.errors import InputError, require_choice

Metric = Literal["cosine", "euclidean"]
Device = torch.device | str | None
_CHUNK_BYTES = 2**26  # of features converted at a time; smaller ones leave the heap in pieces
_SHORTEST = 1e-12  # a shorter feature counts as this long, so that zeros have the cosine 0


@dataclass(frozen=True)
class Scores:
    """Scores `shift + raw * scale`, higher is closer; no gallery is copied to be normalised."""

    raw: Callable[[Tensor, Tensor], Tensor]  # of (b,) queries, written to a (b, G) tensor
    scale: Tensor  # (G,) above 0
    shift: Tensor  # (G,)


def feature_scores(query: Tensor, gallery: Tensor, metric: Metric, device: Device) -> Scores:
    """q.g / |g|, or q.g - |g|^2 / 2, which rank as the cosine and the euclidean distance."""
    query, gallery = query.detach(), gallery.detach()
    device = torch.device(query.device if device is None else device)
    lengths = check_features(query, gallery, metric, device)
    scale, shift = torch.ones_like(lengths), torch.zeros_like(lengths)
    if metric == "cosine":
        scale = lengths.clamp(min=_SHORTEST).reciprocal()
    else:
        shift = _by_row(gallery, device, lambda chunk: chunk.square().sum(1)) / -2

    def raw(queries: Tensor, out: Tensor) -> Tensor:
        q = query[queries.to(query.device)].to(device, torch.float32)
        with float32_products(device):
            for part, chunk in _chunks(gallery, device):
                torch.mm(q, chunk.T, out=out[:, part])
        return out

    return Scores(raw, scale, shift)


def distance_scores(distances: Tensor) -> Scores:
    """Minus the distance, of a ready (Q, G) matrix."""
    if distances.isnan().any():
        raise InputError("some distances are NaN.")
    is_single = distances.dtype in (torch.float16, torch.bfloat16, torch.float32)
    own = distances.detach()
    own = own.float() if is_single else own.cpu().double()  # not every device has float64
    scale = torch.ones_like(own[0])
    return Scores(lambda q, out: out.copy_(own[q]).neg_(), scale, torch.zeros_like(scale))


def check_features(query: Tensor, gallery: Tensor, metric: str, device: torch.device) -> Tensor:
    """Lengths of the gallery's features, (G,) float32, where all is fit to be ranked."""
    require_choice("metric", metric, Metric)
    fits = query.ndim == gallery.ndim == 2 and query.shape[1] == gallery.shape[1]
    if not fits or not query.numel() or not gallery.numel():
        shapes = f"{tuple(query.shape)} and {tuple(gallery.shape)}"
        raise InputError(f"features of shapes {shapes}: expected (Q, D) and (G, D), none empty.")
    for role, features in (("query", query), ("gallery", gallery)):
        lengths = _by_row(features, device, lambda chunk: chunk.norm(dim=1))
        if bad := (~lengths.isfinite()).nonzero().flatten().tolist():
            found = f"{len(bad)} of {len(lengths)} {role} features are NaN or infinite in float32"
            raise InputError(f"{found}, the first at {bad[:5]}: did the model diverge or overflow?")
    return lengths


@contextmanager
def float32_products(device: torch.device) -> Iterator[None]:
    """Within it, float32 matrices are multiplied in float32, without TF32 or autocast."""
    backends: Any = torch.backends
    with torch.autocast(device.type, enabled=False), ExitStack() as undo:
        if hasattr(backends.cuda.matmul, "fp32_precision"):
            for target in (backends.cuda.matmul, backends.mkldnn.matmul):
                undo.callback(setattr, target, "fp32_precision", target.fp32_precision)
                target.fp32_precision = "ieee"
        else:  # before torch 2.9
            undo.callback(torch.set_float32_matmul_precision, torch.get_float32_matmul_precision())
            torch.set_float32_matmul_precision("highest")
        yield


def _chunks(values: Tensor, device: torch.device) -> Iterator[tuple[slice, Tensor]]:
    """All rows of (N, D) in turn, as float32 on the device."""
    rows = max(1, _CHUNK_BYTES // (4 * values.shape[1]))
    for start in range(0, len(values), rows):
        part = slice(start, start + rows)
        yield part, values[part].to(device, torch.float32)


def _by_row(values: Tensor, device: torch.device, function: Callable[[Tensor], Tensor]) -> Tensor:
    return torch.cat([function(chunk) for _, chunk in _chunks(values, device)])
