"""Neighbours among query and gallery without the whole matrix, and expansion by them."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import reduce

import torch
import torch.nn.functional as F
from torch import Tensor

from camreid.errors import require_whole
from camreid.evaluation.scores import check_features, float32_products

BLOCK = 1024  # images at a time; memory grows with BLOCK x N


@dataclass(frozen=True)
class Neighbours:
    """What a scan of all distances keeps of them; N = Q + G images, queries first."""

    index: Tensor  # (N, K) int64 images, nearest first; of equals, the earlier image
    distances: Tensor  # (N, K) squared
    farthest: Tensor  # (N,) the largest squared distance of each image


class Distances:
    """Squared euclidean distances between (N, D) float32 features, each pair computed once."""

    def __init__(self, features: Tensor, queries: int) -> None:
        self.features, self.queries, self.size = features, queries, len(features)
        self.squares = features.square().sum(1)
        self.query_gallery = features.new_empty(queries, self.size - queries)  # `blocks` fills it

    def blocks(self) -> Iterator[tuple[int, int, Tensor]]:
        """First image, first other and (others, images); together, each ordered pair once."""
        for start in range(0, self.size, BLOCK):
            stop = min(start + BLOCK, self.size)
            after = self._between(slice(start, stop), slice(start, None))  # (stop - start, others)
            after.diagonal().zero_()  # round-off would let others come before the image itself
            if start < self.queries:
                some = min(stop, self.queries)
                self.query_gallery[start:some] = after[: some - start, self.queries - start :]
            yield start, start, after.T
            if stop < self.size:
                yield stop, start, after[:, stop - start :]

    def rows(self, images: Tensor) -> Tensor:
        """Of a few images, (B,) int64, to all: (B, N)."""
        return self._between(images, slice(None)).scatter_(1, images[:, None], 0)

    def pairs(self, images: Tensor, others: Tensor) -> Tensor:
        """Of (P,) int64 images to as many others: (P,)."""
        chunk = max(1, BLOCK * self.size // (4 * self.features.shape[1]))
        pairs = zip(torch.split(images, chunk), torch.split(others, chunk), strict=True)
        return torch.cat([(self.features[i] - self.features[j]).square().sum(1) for i, j in pairs])

    def _between(self, images: slice | Tensor, others: slice) -> Tensor:
        squares = self.squares[images, None] + self.squares[others]
        products = (self.features[images], self.features[others].T)
        return squares.addmm_(*products, alpha=-2).clamp_(min=0)


def nearest(distances: Distances, count: int) -> Neighbours:
    """The `count` images nearest to each image, itself among them; equal ones in their order."""
    keep = min(count + 1, distances.size)  # where the last two are equal, the choice was arbitrary
    best = distances.features.new_full((distances.size, keep), torch.inf)
    index = torch.zeros_like(best, dtype=torch.int64)
    farthest = torch.zeros_like(best[:, 0])
    for first, other, block in distances.blocks():
        images = slice(first, first + block.shape[1])
        values, places = _smallest(block, keep)
        values = torch.cat([best[images], values], 1)
        places = torch.cat([index[images], places + other], 1)
        best[images], order = values.topk(keep, largest=False)
        index[images] = places.gather(1, order)
        farthest[images] = torch.maximum(farthest[images], block.amax(0))
    index, order = index.sort(1)  # equal distances in the order of the images
    best, by_distance = best.gather(1, order).sort(stable=True)
    index = index.gather(1, by_distance)
    if keep > count:
        tied = (best[:, -2] == best[:, -1]).nonzero().flatten()
        for some in torch.split(tied, max(1, 2**24 // distances.size)):
            values, order = distances.rows(some).sort(stable=True)
            best[some], index[some] = values[:, :keep], order[:, :keep]
    return Neighbours(index[:, :count], best[:, :count], farthest)


def _smallest(distances: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The `count` smallest of each column of (P, L), in any order, and their rows: (L, count)."""
    length = len(distances)
    # the smallest are in the groups with the smallest minima; minima of two keep the layout of
    # memory, which makes them several times faster than amin of a transposed block
    size = max(1, math.isqrt(length // count))
    groups = length // size
    if size == 1:
        return distances.T.contiguous().topk(min(count, length), largest=False)
    members = distances[: size * groups].view(size, groups, -1).unbind(0)
    minima = reduce(torch.minimum, members)  # (groups, L)
    chosen = minima.T.contiguous().topk(count, largest=False, sorted=False).indices
    first = torch.arange(0, size * groups, groups, device=distances.device)
    rest = torch.arange(size * groups, length, device=distances.device)
    places = (chosen[:, None] + first[:, None]).flatten(1)  # (L, size x count)
    places = torch.cat([places, rest.expand(len(places), -1)], 1)
    values, order = distances.T.gather(1, places).topk(count, largest=False, sorted=False)
    return values, places.gather(1, order)


def expand_queries(
    query_features: Tensor, gallery_features: Tensor, k: int = 5, alpha: float = 3.0, times: int = 1
) -> tuple[Tensor, Tensor]:
    """Average query expansion: mean over the k nearest features, weighted by cosine ** alpha.

    Queries (Q, D) and gallery (G, D) are expanded together, each image among its own k, `times`
    times, as FastReID's `TEST.AQE` does (Chum et al. 2007; alpha: Radenović et al. 2019). Features
    keep their length in the mean. `alpha` is 0 for the plain mean; where it is not whole, a
    cosine below 0 counts as 0. InputError if features do not fit together or are not finite, or k
    is not in 1..Q + G.

    >>> query, gallery = expand_queries(torch.eye(2)[:1], torch.eye(2), k=2)
    >>> gallery.tolist()
    [[1.0, 0.0], [0.0, 0.5]]
    """
    check_features(query_features, gallery_features, "cosine", query_features.device)
    features = torch.cat([query_features.float(), gallery_features.float()])
    require_whole("k", k, 1, len(features))
    with float32_products(features.device):
        for _ in range(times):
            near = nearest(Distances(F.normalize(features, dim=1), 0), k)
            cosines = 1 - near.distances / 2
            weights = (cosines if alpha == int(alpha) else cosines.clamp(min=0)) ** alpha / k
            chunks = zip(*(torch.split(x, BLOCK) for x in (near.index, weights)), strict=True)
            features = torch.cat([(features[i] * w[..., None]).sum(1) for i, w in chunks])
    return features[: len(query_features)], features[len(query_features) :]
