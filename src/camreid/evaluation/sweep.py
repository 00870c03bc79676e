"""One pass over query blocks: for each match, how many images of other identities are closer.

A match's rank is one plus the number of valid images that are closer, so only the matches are
sorted. Of equal scores, the earlier gallery image is closer.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from camreid.evaluation.protocols import Block, Labels, Pairs, SameIdentity, pick

_TASK_ROWS = 8  # small tasks, so that no thread waits for one that lost its core
_BUDGET = 176 * 2**20  # bytes in work for a block of queries
_ROWS = 1024  # queries in a block: the fewer blocks, the less waiting between them
_PAIR_BYTES = 96  # of a pair's columns, masks, scores and sums, while they last
_SEGMENT_BYTES = 32  # of a pair's count in a segment, while it lasts
_TIE_BYTES = 2**25  # in work for pairs that others equal
_TIE_IMAGE_BYTES = 64  # of an image that is compared with such a pair


class Segments:
    """A gallery divided into segments, of which a protocol allows some.

    Args:
        labels: (G,) int64 segment of each image, -1 for images that are in none.
        count: number of segments.

    >>> Segments(torch.tensor([1, -1, 0, 1]), 2).columns
    [tensor([2]), tensor([0, 3])]
    """

    def __init__(self, labels: Tensor, count: int) -> None:
        self.labels, self.count = labels, count
        self.whole = count == 1  # left in place: what is in no segment gets the score -inf
        if self.whole:
            self.columns = [torch.arange(len(labels), device=labels.device)]
        else:
            self.columns = [(labels == s).nonzero().flatten() for s in range(count)]
        self.sizes = [len(columns) for columns in self.columns]
        self.starts = [sum(self.sizes[:s]) for s in range(count)]

    def views(self, table: Tensor, rows: int) -> list[Tensor]:
        """A flat buffer as one contiguous (rows, n) table for each segment."""
        pairs = zip(self.starts, self.sizes, strict=True)
        return [table[rows * a : rows * (a + n)].view(rows, n) for a, n in pairs]


Sorted = Callable[[Tensor, Tensor], list[Tensor]]


@contextmanager
def sorted_scores(segments: Segments, scale: Tensor, shift: Tensor) -> Iterator[Sorted]:
    """A function from raw scores to the sorted scores of each segment.

    It takes `raw`, (b, G), and a flat buffer of at least as many, and gives for each segment the
    (b, n) values of `shift + raw * scale`, rows ascending, in the buffer.

    On the CPU, NumPy's sort of keys alone is vectorised and leaves the interpreter's lock, while
    `torch.sort` carries indices along and is an order of magnitude slower. A row is scaled and
    sorted by one thread while it is in cache; between such threads and those of torch's own
    operators there are few turns, because torch's spin for a while after each.

    Args:
        segments: of the gallery.
        scale: (G,).
        shift: (G,).
    """
    factors = [(scale[columns], shift[columns]) for columns in segments.columns]
    if scale.device.type != "cpu":

        def on_device(raw: Tensor, buffer: Tensor) -> list[Tensor]:
            pairs = zip(segments.columns, factors, strict=True)
            return [
                torch.addcmul(b, raw if segments.whole else raw[:, columns], a).sort(dim=1).values
                for columns, (a, b) in pairs
            ]

        yield on_device
        return
    with ThreadPoolExecutor(torch.get_num_threads()) as pool:
        arrays = [
            (columns.numpy(), a.numpy(), b.numpy())
            for columns, (a, b) in zip(segments.columns, factors, strict=True)
        ]

        def on_cpu(raw: Tensor, buffer: Tensor) -> list[Tensor]:
            tables, source = segments.views(buffer, len(raw)), raw.numpy()

            def task(start: int) -> None:
                rows = slice(start, start + _TASK_ROWS)
                for (columns, a, b), table in zip(arrays, tables, strict=True):
                    part = table.numpy()[rows]
                    if segments.whole:
                        part[...] = source[rows]
                    else:
                        source[rows].take(columns, axis=1, out=part, mode="clip")
                    part *= a
                    part += b
                    part.sort(axis=1)

            list(pool.map(task, range(0, len(raw), _TASK_ROWS)))
            return tables

        yield on_cpu


def count_above(tables: list[Tensor], scores: Tensor) -> tuple[Tensor, Tensor]:
    """How many of each row's values are higher than each of its scores, and which are equalled.

    Args:
        tables: (b, n) for each of S segments, rows ascending.
        scores: (b, P).

    Returns:
        (b, P, S) int64 counts, and (b, P) bool, whether any value equals the score.

    >>> count_above([torch.tensor([[1.0, 2, 3]])], torch.tensor([[2.0, 9]]))
    (tensor([[[1],
             [0]]]), tensor([[ True, False]]))
    """
    counts, equal = [], torch.zeros_like(scores, dtype=torch.bool)
    for table in tables:
        if not table.shape[1]:
            counts.append(torch.zeros_like(scores, dtype=torch.int64))
            continue
        below = torch.searchsorted(table, scores, right=True)  # and equal
        equal |= table.gather(1, (below - 1).clamp(min=0)) == scores
        counts.append(table.shape[1] - below)
    return torch.stack(counts, dim=2), equal


def count_earlier(same: Tensor, labels: Tensor, count: int) -> Tensor:
    """How many images of each segment are marked, in each row.

    Args:
        same: (n, G) bool marks.
        labels: (G,) int64 segments, -1 for none.
        count: number of segments S.

    Returns:
        (n, S) int64.

    >>> count_earlier(torch.tensor([[True, True, True]]), torch.tensor([1, -1, 1]), 2)
    tensor([[0, 2]])
    """
    row, column = (same & (labels >= 0)).nonzero().unbind(1)
    return torch.bincount(row * count + labels[column], minlength=len(same) * count).view(-1, count)


class Scores(Protocol):
    """Scores of queries against the gallery; higher is closer."""

    device: torch.device
    dtype: torch.dtype
    scale: Tensor
    shift: Tensor

    def raw(self, queries: Tensor, out: Tensor) -> Tensor:
        """(b, G) of some queries, so that the score is `shift + raw * scale`, scale > 0."""


@dataclass(frozen=True)
class Sweep:
    """What is ranked.

    Attributes:
        scores: of the queries against the gallery.
        query: labels of the queries, on the device that ranks, as all that follows.
        gallery: labels of the gallery.
        segments: (G,) int64 segment of each gallery image, -1 for ignored ones.
        count: number of segments.
    """

    scores: Scores
    query: Labels
    gallery: Labels
    segments: Tensor
    count: int

    def blocks(self) -> Iterator[Block]:
        """All queries whose identity is in the gallery, in blocks."""
        same = SameIdentity(self.query, self.gallery)
        # alike numbers of pairs together, so that rows need little filling
        counts, order = same.counts.sort(stable=True)
        widths = counts.cpu()
        segments = Segments(self.segments, self.count)
        scale = self.scores.scale
        shift = self.scores.shift.masked_fill(segments.labels < 0, -torch.inf)
        plan = self._plan(widths)
        most = max((stop - start for start, stop in plan), default=0)
        raw, table = (scale.new_empty(most * len(scale)) for _ in range(2))
        with sorted_scores(segments, scale, shift) as sort:
            for start, stop in plan:
                pairs = same.pairs(order[start:stop], int(widths[stop - 1]))
                out = raw[: (stop - start) * len(scale)].view(stop - start, -1)
                work = _Work(self, segments, self.scores.raw(pairs.queries, out), scale, shift)
                yield work.block(pairs, table, sort)

    def _plan(self, widths: Tensor) -> list[tuple[int, int]]:
        """Blocks of the queries sorted by their number of pairs, each within the budget."""
        pair = _PAIR_BYTES + _SEGMENT_BYTES * self.count
        row = 2 * self.scores.dtype.itemsize * len(self.segments)
        blocks, start = [], int((widths == 0).sum())
        while start < len(widths):
            rows = min(_ROWS, len(widths) - start)
            # rows of the widest query that the block would have; a narrower end allows no fewer
            fits = _BUDGET // (row + pair * int(widths[start + rows - 1]))
            rows = max(1, min(rows, fits))
            blocks.append((start, start + rows))
            start += rows
        return blocks


@dataclass(frozen=True)
class _Work:
    """One block under way: `raw` (b, G) products, and what makes scores of them."""

    sweep: Sweep
    segments: Segments
    raw: Tensor
    scale: Tensor
    shift: Tensor

    def block(self, pairs: Pairs, table: Tensor, sort: Sorted) -> Block:
        scores = self._take_pair_scores(pairs)
        others = sort(self.raw, table)
        closer, equal = count_above(others, scores)
        self._add_earlier_equals(pairs, scores, closer, equal & pairs.real)
        by_score = scores.masked_fill(~pairs.real, -torch.inf).argsort(
            dim=1, descending=True, stable=True
        )
        columns, real = (x.gather(1, by_score).cpu() for x in (pairs.columns, pairs.real))
        closer = closer.gather(1, by_score[..., None].expand_as(closer))
        # float64 and float cumsum, which not every device has, come after this
        return Block(Pairs(pairs.queries.cpu(), columns, real), closer.cpu())

    def _take_pair_scores(self, pairs: Pairs) -> Tensor:
        """Scores of the pairs (b, P); in `raw` the pairs become the lowest."""
        column = pairs.columns
        raw = self.raw.gather(1, column)
        self.raw.scatter_(1, column, -torch.inf)
        return torch.addcmul(pick(self.shift, column), raw, pick(self.scale, column))

    def _add_earlier_equals(
        self, pairs: Pairs, scores: Tensor, closer: Tensor, equal: Tensor
    ) -> None:
        """Count, for pairs with equal scores of other identities, those earlier in the gallery."""
        images = self.raw.shape[1]
        position = torch.arange(images, device=self.raw.device)
        pids = pick(self.sweep.query.pids, pairs.queries)
        size = max(1, _TIE_BYTES // (_TIE_IMAGE_BYTES * images))
        for entries in torch.split(equal.nonzero(), size):
            row, place = entries.unbind(1)
            same = torch.addcmul(self.shift, self.raw[row], self.scale) == scores[row, place, None]
            same &= (self.sweep.gallery.pids != pids[row, None]) & (
                position < pairs.columns[row, place, None]
            )
            closer[row, place] += count_earlier(same, self.segments.labels, self.segments.count)
