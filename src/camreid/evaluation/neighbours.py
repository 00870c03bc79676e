"""The nearest neighbours of every image among query and gallery, without the whole matrix."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import reduce

import torch
from torch import Tensor


@dataclass(frozen=True)
class Neighbours:
    """What a scan of all distances keeps of them; N = Q + G images, queries first.

    Attributes:
        index: (N, K) int64 images, nearest first; of equals, the earlier image.
        distances: (N, K) squared.
        farthest: (N,) the largest squared distance of each image.
    """

    index: Tensor
    distances: Tensor
    farthest: Tensor


@dataclass(frozen=True)
class Block:
    """Some images' distances to some others: `distances` is (others, images).

    `image` and `other` are the numbers of the first of each.
    """

    image: int
    other: int
    distances: Tensor


class FeatureDistances:
    """Squared euclidean distances between features, each pair computed once.

    Args:
        features: (N, D) float32.
        queries: how many of the first are queries, whose distances to the rest `blocks` leaves in
            `query_gallery`, (Q, G).
        block_size: images at a time; memory grows with block_size x N.
    """

    def __init__(self, features: Tensor, queries: int, block_size: int) -> None:
        self.features, self.queries, self.block_size = features, queries, block_size
        self.squares = features.square().sum(1)
        self.size, self.device = len(features), features.device
        self.query_gallery = features.new_empty(queries, self.size - queries)

    def blocks(self) -> Iterator[Block]:
        """Blocks that together hold each ordered pair once."""
        for start in range(0, self.size, self.block_size):
            stop = min(start + self.block_size, self.size)
            after = self._between(slice(start, stop), slice(start, None))  # (stop - start, others)
            after.diagonal().zero_()  # round-off would let others come before the image itself
            if start < self.queries:
                some = min(stop, self.queries)
                self.query_gallery[start:some] = after[: some - start, self.queries - start :]
            yield Block(start, start, after.T)
            if stop < self.size:
                yield Block(stop, start, after[:, stop - start :])

    def rows(self, images: Tensor) -> Tensor:
        """Of a few images, (B,) int64, to all: (B, N)."""
        return self._between(images, slice(None)).scatter_(1, images[:, None], 0)

    def pairs(self, images: Tensor, others: Tensor) -> Tensor:
        """Of (P,) int64 images to as many others: (P,)."""
        chunk = max(1, self.block_size * self.size // (4 * self.features.shape[1]))
        parts = [
            (self.features[i] - self.features[j]).square().sum(1)
            for i, j in zip(torch.split(images, chunk), torch.split(others, chunk), strict=True)
        ]
        return torch.cat(parts)

    def _between(self, images: slice | Tensor, others: slice) -> Tensor:
        squares = self.squares[images, None] + self.squares[others]
        products = (self.features[images], self.features[others].T)
        return squares.addmm_(*products, alpha=-2).clamp_(min=0)


def nearest(distances: FeatureDistances, count: int) -> Neighbours:
    """The `count` images nearest to each image, itself among them; equal ones in their order.

    >>> line = torch.tensor([[0.0], [1.0], [3.0]])
    >>> nearest(FeatureDistances(line, queries=1, block_size=2), 2).index
    tensor([[0, 1],
            [1, 0],
            [2, 1]])
    """
    # one more than asked for: equal to the last, it says that the scan's choice was arbitrary
    keep = min(count + 1, distances.size)
    best = torch.full((distances.size, keep), torch.inf, device=distances.device)
    index = torch.zeros_like(best, dtype=torch.int64)
    farthest = torch.zeros_like(best[:, 0])
    for block in distances.blocks():
        images = slice(block.image, block.image + block.distances.shape[1])
        values, places = _smallest(block.distances, keep)
        values = torch.cat([best[images], values], 1)
        places = torch.cat([index[images], places + block.other], 1)
        best[images], order = values.topk(keep, largest=False)
        index[images] = places.gather(1, order)
        farthest[images] = torch.maximum(farthest[images], block.distances.amax(0))
    best, index = _in_order(best, index)
    if keep > count:
        _settle_ties(distances, best, index)
    return Neighbours(index[:, :count], best[:, :count], farthest)


def _smallest(distances: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The `count` smallest of each column of (P, L), in any order, and their rows: (L, count)."""
    length = len(distances)
    # the smallest are in the groups with the smallest minima; minima of two keep the layout of
    # memory, which makes them several times faster than amin of a transposed block
    size = max(1, math.isqrt(length // count))
    groups = length // size
    if size == 1:
        values, places = distances.T.contiguous().topk(min(count, length), largest=False)
        return values, places
    members = distances[: size * groups].view(size, groups, -1).unbind(0)
    minima = reduce(torch.minimum, members)  # (groups, L)
    chosen = minima.T.contiguous().topk(count, largest=False, sorted=False).indices
    first = torch.arange(0, size * groups, groups, device=distances.device)
    rest = torch.arange(size * groups, length, device=distances.device)
    places = (chosen[:, None] + first[:, None]).flatten(1)  # (L, size x count)
    places = torch.cat([places, rest.expand(len(places), -1)], 1)
    values, order = distances.T.gather(1, places).topk(count, largest=False, sorted=False)
    return values, places.gather(1, order)


def _in_order(distances: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
    """Rows of (N, K) by distance, equals by index."""
    index, order = index.sort(1)
    distances, by_distance = distances.gather(1, order).sort(stable=True)
    return distances, index.gather(1, by_distance)


def _settle_ties(distances: FeatureDistances, best: Tensor, index: Tensor) -> None:
    """Choose again, in place, where the last two distances of a row of (N, K) are equal."""
    tied = (best[:, -2] == best[:, -1]).nonzero().flatten()
    for images in torch.split(tied, max(1, 2**24 // distances.size)):
        values, order = distances.rows(images).sort(stable=True)
        best[images], index[images] = values[:, : best.shape[1]], order[:, : best.shape[1]]
