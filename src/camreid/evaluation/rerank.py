"""Re-ranking with k-reciprocal encoding, blockwise and sparse (Zhong et al. 2017)."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from camreid.errors import require_number, require_whole
from camreid.evaluation.neighbours import Distances, Neighbours, nearest
from camreid.evaluation.scores import Metric, check_features, float32_products

_ENTRIES = 2**22  # at a time: a few hundred MB of index tensors at the most


def rerank(
    query_features: Tensor,
    gallery_features: Tensor,
    *,
    k1: int = 20,
    k2: int = 6,
    lambda_value: float = 0.3,
    metric: Metric = "cosine",
) -> Tensor:
    """Distances of queries to the gallery, re-ranked by the neighbours that images share.

    The method of Zhong et al. 2017 (https://arxiv.org/abs/1701.08398) as in its authors' code:
    squared euclidean distances of all images to all, each image's divided by its largest, mixed
    with the Jaccard distance of k-reciprocal neighbours. Of equal distances, the earlier image
    counts as nearer, queries before the gallery.

    Features, (Q, D) and (G, D), may be of any float type. The result is (Q, G) float32, smallest
    first, for `rank_distances`. `k1` neighbours count, 1..G; encodings are averaged over `k2`,
    1..k1; `lambda_value` is the share of the original distance, 0..1. `cosine` compares unit
    features, `euclidean` features as they are. InputError for arguments that do not fit.

    >>> query, gallery = torch.tensor([[0.0]]), torch.tensor([[1.0], [-1.0], [-1.5]])
    >>> rerank(query, gallery, k1=1, k2=1, metric="euclidean")
    tensor([[0.3151, 0.8333, 1.0000]])
    """
    check_features(query_features, gallery_features, metric, query_features.device)
    features = torch.cat([query_features.float(), gallery_features.float()])
    require_whole("k1", k1, 1, len(gallery_features))
    require_whole("k2", k2, 1, k1)
    require_number("lambda_value", lambda_value, 0, 1)
    if metric == "cosine":
        features = F.normalize(features, dim=1)
    with float32_products(features.device):
        distances = Distances(features, len(query_features))
        near = nearest(distances, k1 + 1)
        scale = near.farthest.where(near.farthest > 0, 1).reciprocal()  # 0: all images are equal
        mix = distances.query_gallery.mul_(scale[: len(query_features), None])
        encoded = encode(distances, near, k1, k2, scale)
        for queries, jaccards in jaccard(encoded, len(mix)):
            mix[queries].mul_(lambda_value).add_(jaccards, alpha=1 - lambda_value)
    return mix


@dataclass(frozen=True)
class SparseRows:
    """A sparse matrix, row after row."""

    counts: Tensor  # (R,) int64 number of entries of each row
    columns: Tensor  # (E,) int64
    values: Tensor  # (E,) float32

    def entries(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Places of the entries of (n,) rows, and which of the n each belongs to."""
        counts = self.counts[rows]
        owner = torch.repeat_interleave(counts)
        starts = self.counts.cumsum(0) - self.counts
        shift = starts[rows] - (counts.cumsum(0) - counts)
        return torch.arange(len(owner), device=rows.device) + shift[owner], owner


def encode(distances: Distances, near: Neighbours, k1: int, k2: int, scale: Tensor) -> SparseRows:
    """(N, N) weights exp(-scale d) over expanded k-reciprocal neighbours; rows sum to 1."""
    half = near.index[:, : round(k1 / 2) + 1]
    rows, columns = _expand(near.index, half)
    values = (-_squared(distances, near, rows, columns) * scale[rows]).exp()
    total = torch.zeros_like(scale).index_add_(0, rows, values)
    encoded = SparseRows(rows.bincount(minlength=len(half)), columns, values / total[rows])
    return encoded if k2 == 1 else _averaged(encoded, near.index[:, :k2])


def jaccard(encoded: SparseRows, queries: int) -> Iterator[tuple[slice, Tensor]]:
    """Jaccard distances of some queries at a time to the gallery: (b, G) in 0..1."""
    # rows sum to 1, so the distance is 1 - m / (2 - m), m the sum of the elementwise minima; an
    # image not among its own nearest, for others equal it, has an empty row and the distance 1
    images, device = len(encoded.counts), encoded.counts.device
    gallery = images - queries
    places, owner = encoded.entries(torch.arange(queries, images, device=device))
    columns, order = encoded.columns[places].sort(stable=True)
    counts = columns.bincount(minlength=images)
    having = SparseRows(counts, owner[order], encoded.values[places][order])  # by column
    places, owner = encoded.entries(torch.arange(queries, device=device))
    pairs = torch.zeros_like(encoded.counts[:queries])
    pairs.index_add_(0, owner, counts[encoded.columns[places]])
    blocks = (pairs + gallery).cumsum(0) // _ENTRIES
    start = 0
    for size in torch.unique_consecutive(blocks, return_counts=True)[1].tolist():
        own, row = encoded.entries(torch.arange(start, start + size, device=device))
        places, owner = having.entries(encoded.columns[own])
        minima = torch.minimum(encoded.values[own][owner], having.values[places])
        target = row[owner] * gallery + having.columns[places]
        shared = minima.new_zeros(size * gallery).index_add_(0, target, minima)
        distances = shared.sub_(2).reciprocal_().mul_(2).add_(2)  # 1 - m / (2 - m), in place
        yield slice(start, start + size), distances.clamp_(min=0).view(size, gallery)
        start += size


def _expand(near: Tensor, half: Tensor) -> Tensor:
    """The expanded k-reciprocal neighbours of all images, as (2, E) int64 rows and columns."""
    size, first = len(near), torch.arange(len(near), device=near.device)
    mutual, half_mutual = _mutual(near), _mutual(half)
    parts = [(first[:, None] * size + near)[mutual]]
    for span in _spans(size, max(near.shape[1] * half.shape[1], size // 16)):
        image, place = mutual[span].nonzero().unbind(1)  # (p,) reciprocal pairs
        own = near[span][image, place]
        known = torch.zeros(len(near[span]), size, dtype=torch.bool, device=near.device)
        known[image, own] = True
        others, offered = half[own], half_mutual[own]  # (p, H)
        shared = known[image[:, None], others] & offered
        joins = 3 * shared.sum(1) > 2 * offered.sum(1)  # >= in the paper, > in the authors' code
        added = others + (image[:, None] + span.start) * size
        parts.append(added[offered & ~shared & joins[:, None]])
    keys = torch.unique(torch.cat(parts))
    return torch.stack([keys // size, keys % size])


def _mutual(nearest: Tensor) -> Tensor:
    """(N, K) bool: whether an image's neighbour has the image among its own nearest."""
    images = torch.arange(len(nearest), device=nearest.device)[:, None, None]
    spans = _spans(len(nearest), nearest.shape[1] ** 2)
    return torch.cat([(nearest[nearest[span]] == images[span]).any(2) for span in spans])


def _squared(distances: Distances, near: Neighbours, rows: Tensor, columns: Tensor) -> Tensor:
    """(E,) squared distances of images to others: the known ones looked up, the rest computed."""
    values = torch.empty_like(rows, dtype=torch.float32)
    for span in _spans(len(rows), near.index.shape[1]):
        match = near.index[rows[span]] == columns[span, None]
        values[span] = near.distances[rows[span], match.int().argmax(1)]
        unknown = (~match.any(1)).nonzero().flatten() + span.start
        values[unknown] = distances.pairs(rows[unknown], columns[unknown])
    return values


def _averaged(encoded: SparseRows, near: Tensor) -> SparseRows:
    """Each row replaced by the mean of the rows of its (N, k2) neighbours."""
    size, k2 = near.shape
    parts = []
    for span in _spans(size, k2 * int(encoded.counts.max())):
        places, owner = encoded.entries(near[span].flatten())
        keys, order = (owner // k2 * size + encoded.columns[places]).sort()
        keys, target = torch.unique_consecutive(keys, return_inverse=True)
        values = encoded.values[places][order] / k2
        values = values.new_zeros(len(keys)).index_add_(0, target, values)
        counts = (keys // size).bincount(minlength=len(near[span]))
        parts.append((counts, keys % size, values))
    counts, columns, values = (torch.cat(part) for part in zip(*parts, strict=True))
    return SparseRows(counts, columns, values)


def _spans(length: int, entries_each: int) -> Iterator[slice]:
    """Slices of `length` rows that make a bounded number of entries each."""
    step = max(1, _ENTRIES // entries_each)
    for start in range(0, length, step):
        yield slice(start, min(start + step, length))
