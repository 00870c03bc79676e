"""Scores of a block of queries against the gallery, from features that are converted by chunk."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Tensor

from camreid.errors import InputError

Metric = Literal["cosine", "euclidean"]
_CHUNK_BYTES = 2**24  # of features in work at a time
_SHORTEST = 1e-12  # a shorter feature counts as this long, so that zeros have the cosine 0


class Features:
    """Features as they came, given out by chunk as float32 on the device that ranks.

    Args:
        values: (N, D), of any float type, on any device.
        role: `query` or `gallery`, for messages.
        device: that ranks.

    Raises:
        InputError: features are NaN or infinite, or too long for float32.
    """

    def __init__(self, values: Tensor, role: str, device: torch.device) -> None:
        self.values, self.device = values.detach(), device
        self.as_is = values.dtype == torch.float32 and values.device == device
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
        return torch.empty(some.shape, device=self.device).copy_(some)

    def chunks(self) -> Iterator[tuple[slice, Tensor]]:
        """All features in turn: which, and (n, D) float32, overwritten by the next."""
        rows = len(self.buffer)
        for start in range(0, len(self), rows):
            chunk = self.values[start : start + rows]
            if not self.as_is:
                chunk = self.buffer[: len(chunk)].copy_(chunk)
            yield slice(start, start + rows), chunk

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
                f"{len(bad)} of {len(self)} {role} features are too long to be squared in float32, "
                f"the first at {first}: divide the features by their length."
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
        self.query, self.gallery = query, gallery
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


@contextmanager
def float32_products(device: torch.device) -> Iterator[None]:
    """Within it, float32 matrices are multiplied in float32, without TF32 or autocast."""
    with torch.autocast(device.type, enabled=False):
        if not hasattr(torch.backends.cuda.matmul, "fp32_precision"):  # before torch 2.9
            before = torch.get_float32_matmul_precision()
            torch.set_float32_matmul_precision("highest")
            try:
                yield
            finally:
                torch.set_float32_matmul_precision(before)
            return
        devices: Any = torch.backends
        backends = (devices.cuda.matmul, devices.mkldnn.matmul)
        modes = [backend.fp32_precision for backend in backends]
        try:
            for backend in backends:
                backend.fp32_precision = "ieee"
            yield
        finally:
            for backend, mode in zip(backends, modes, strict=True):
                backend.fp32_precision = mode


def _inverse(lengths: Tensor) -> Tensor:
    return lengths.clamp(min=_SHORTEST).reciprocal()
