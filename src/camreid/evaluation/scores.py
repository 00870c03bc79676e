"""Scores of a block of queries against the gallery, from features that are converted by chunk."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from camreid.errors import InputError
from camreid.evaluation.result import Precision

Metric = Literal["cosine", "euclidean"]
_CHUNK_BYTES = 2**24  # of features in work at a time
_SHORTEST = 1e-12  # a shorter feature counts as this long, so that zeros have the cosine 0
# per device kind, what multiplies float32; features of half precision are exact in tf32
_MODES: dict[Precision, dict[str, str]] = {
    "float32": {"cuda": "ieee", "mkldnn": "ieee"},
    "tf32": {"cuda": "tf32", "mkldnn": "tf32"},
    "bfloat16": {"cuda": "tf32", "mkldnn": "bf16"},
    "float16": {"cuda": "tf32", "mkldnn": "ieee"},
}


class Features:
    """Features as they came, given out by chunk as float32 on the device that ranks.

    Args:
        values: (N, D), of any float type, on any device.
        role: `query` or `gallery`, for messages.
        device: that ranks.
        precision: `bfloat16` and `float16` round each value; the others leave it.

    Raises:
        InputError: features are NaN or infinite, or too long for float32.
    """

    def __init__(
        self, values: Tensor, role: str, device: torch.device, precision: Precision
    ) -> None:
        self.values, self.device = values.detach(), device
        self.rounding = {"bfloat16": torch.bfloat16, "float16": torch.float16}.get(precision)
        self.as_is = values.dtype == torch.float32 and values.device == device and not self.rounding
        # one buffer for all chunks: new ones each time would leave the heap in pieces
        rows = min(len(values), max(1, _CHUNK_BYTES // (4 * max(1, values.shape[1]))))
        self.buffer = torch.empty(rows, values.shape[1], device=device)
        if self.as_is:
            self.lengths = torch.linalg.vector_norm(self.values, dim=1)
        else:
            norms = [torch.linalg.vector_norm(chunk, dim=1) for _, chunk in self.chunks()]
            self.lengths = torch.cat(norms)
        self._check(role)

    def __len__(self) -> int:
        return len(self.values)

    def take(self, rows: Tensor) -> Tensor:
        """(b, D) float32: some of the features."""
        some = self.values[rows.to(self.values.device)]
        if self.as_is:
            return some
        return self._convert(some, torch.empty(some.shape, device=self.device))

    def chunks(self) -> Iterator[tuple[slice, Tensor]]:
        """All features in turn: which, and (n, D) float32, overwritten by the next."""
        rows = len(self.buffer)
        for start in range(0, len(self), rows):
            chunk = self.values[start : start + rows]
            if not self.as_is:
                chunk = self._convert(chunk, self.buffer[: len(chunk)])
            yield slice(start, start + rows), chunk

    def _convert(self, features: Tensor, out: Tensor) -> Tensor:
        return out.copy_(features.to(self.rounding) if self.rounding else features)

    def squares(self) -> Tensor:
        """(N,) squared lengths, exact where whole numbers are."""
        squares = torch.empty(len(self), device=self.device)
        for part, chunk in self.chunks():
            buffer = self.buffer[: len(chunk)]
            torch.sum(torch.mul(chunk, chunk, out=buffer), dim=1, out=squares[part])
        return squares

    def _check(self, role: str) -> None:
        bad = (~self.lengths.isfinite()).nonzero().flatten()
        if not len(bad):
            return
        first = bad[:5].tolist()
        if self.values[bad[0].to(self.values.device)].isfinite().all():
            raise InputError(
                f"{len(bad)} of {len(self)} {role} features are too long to be squared in float32 "
                f"or to be held in the chosen precision, the first at {first}: divide the features "
                "by their length, or use precision='float32'."
            )
        raise InputError(
            f"{len(bad)} of {len(self)} {role} features are NaN or infinite, the first "
            f"at {first}: the model has diverged, or overflowed at half precision."
        )


class FeatureScores:
    """Scores, higher for closer: q.g / |g|, or q.g - |g|^2 / 2, which rank as cosine and distance.

    A score is `shift + raw * scale`, so that no gallery is ever copied to be normalised.

    Args:
        query: (Q, D).
        gallery: (G, D).
        metric: `cosine` or `euclidean`.
    """

    dtype = torch.float32

    def __init__(self, query: Features, gallery: Features, metric: Metric) -> None:
        self.query, self.gallery, self.metric = query, gallery, metric
        self.device = gallery.device
        if metric == "cosine":
            self.scale = _inverse(gallery.lengths)
            self.shift = torch.zeros_like(self.scale)
        else:
            self.scale = torch.ones_like(gallery.lengths)
            self.shift = gallery.squares() / -2

    def raw(self, queries: Tensor, out: Tensor) -> Tensor:
        """(b, G) products of some queries (b,) int64 with the gallery, written to `out`."""
        q = self.query.take(queries)
        if self.gallery.as_is:
            return torch.mm(q, self.gallery.values.T, out=out)
        for part, chunk in self.gallery.chunks():
            torch.mm(q, chunk.T, out=out[:, part])
        return out

    def bounds(self) -> tuple[float, float]:
        """The lowest and the highest comparable score that there can be."""
        if self.metric == "cosine":
            return -1.0, 1.0
        longest = self.query.lengths.max() + self.gallery.lengths.max()
        return -(longest.item() ** 2), 0.0

    def comparable(self, scores: Tensor, queries: Tensor) -> Tensor:
        """Scores (b, n) made to mean the same for each query: cosines, or -distance^2."""
        length = self.query.lengths[queries, None]
        if self.metric == "cosine":
            return scores * _inverse(length)
        comparable: Tensor = 2 * scores - length.square()
        return comparable


class DistanceScores:
    """Scores of a ready matrix of distances: minus the distance.

    Args:
        distances: (Q, G).

    Raises:
        InputError: there are NaNs among them.
    """

    def __init__(self, distances: Tensor) -> None:
        whole = not distances.dtype.is_floating_point
        if whole or distances.dtype == torch.float64:  # which not every device has
            distances = distances.cpu()
        self.distances, self.device = distances.detach(), distances.device
        if any(not (part > -torch.inf).all() for part in torch.split(distances, 256)):
            raise InputError(
                "distances are NaN or minus infinity: expected numbers, smaller for closer."
            )
        self.dtype = torch.float64 if whole else torch.float32
        self.dtype = torch.promote_types(self.dtype, distances.dtype)
        self.scale = torch.ones(distances.shape[1], dtype=self.dtype, device=self.device)
        self.shift = torch.zeros_like(self.scale)

    def raw(self, queries: Tensor, out: Tensor) -> Tensor:
        """(b, G) scores of some queries (b,) int64, written to `out`."""
        return out.copy_(self.distances[queries]).neg_()

    def bounds(self) -> tuple[float, float]:
        """The lowest and the highest finite score."""
        finite = self.distances[self.distances.isfinite()]
        return -float(finite.max()), -float(finite.min())

    def comparable(self, scores: Tensor, queries: Tensor) -> Tensor:
        """The scores, which mean the same for each query."""
        return scores


def check_choices(metric: str, precision: str) -> None:
    """Refuse a metric or a precision that there is not.

    >>> check_choices("cosine", "tf32")
    """
    if metric not in get_args(Metric):
        raise InputError(f"metric={metric!r}: expected 'cosine' or 'euclidean'.")
    if precision not in get_args(Precision):
        raise InputError(
            f"precision={precision!r}: expected one of {', '.join(get_args(Precision))}."
        )


@contextmanager
def multiplied_in(precision: Precision, device: torch.device) -> Iterator[None]:
    """Within it, float32 matrices are multiplied in a precision, whatever is set outside."""
    with torch.autocast(device.type, enabled=False):
        if not hasattr(torch.backends.cuda.matmul, "fp32_precision"):  # before torch 2.9
            yield from _multiplied_in_legacy(precision)
            return
        devices: Any = torch.backends
        backends = {"cuda": devices.cuda.matmul, "mkldnn": devices.mkldnn.matmul}
        before = {name: backend.fp32_precision for name, backend in backends.items()}
        try:
            for name, backend in backends.items():
                backend.fp32_precision = _MODES[precision][name]
            yield
        finally:
            for name, backend in backends.items():
                backend.fp32_precision = before[name]


def _multiplied_in_legacy(precision: Precision) -> Iterator[None]:
    before = torch.get_float32_matmul_precision()
    level = {"float32": "highest", "bfloat16": "medium"}.get(precision, "high")
    torch.set_float32_matmul_precision(level)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def _inverse(lengths: Tensor) -> Tensor:
    return lengths.clamp(min=_SHORTEST).reciprocal()
