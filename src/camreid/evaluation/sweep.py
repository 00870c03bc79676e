"""One pass over query blocks: each match's score, and how many images of others are closer.

A match's rank is one plus the number of valid images that are closer, so nothing is ordered but
the matches themselves. Of equal scores, the earlier gallery image is closer.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from camreid.evaluation.counting import Segments, Sorted, count_above, count_earlier, sorted_scores
from camreid.evaluation.people import Pairs, People, SamePerson, pick
from camreid.evaluation.shards import Shards

_BUDGET = 176 * 2**20  # bytes in work for a block of queries
_ROWS = 1024  # queries in a block: the fewer blocks, the less waiting between them
_PAIR_BYTES = 96  # of a pair's columns, masks, scores and sums, while they last
_SEGMENT_BYTES = 32  # of a pair's count in a segment, while it lasts
_TIE_BYTES = 2**25  # in work for pairs that others equal
_TIE_IMAGE_BYTES = 64  # of an image that is compared with such a pair


class Scores(Protocol):
    """Scores of queries against the gallery images that this process holds; higher is closer."""

    device: torch.device
    dtype: torch.dtype
    scale: Tensor
    shift: Tensor

    def raw(self, queries: Tensor, out: Tensor) -> Tensor:
        """(b, G) of some queries, so that the score is `shift + raw * scale`, scale > 0."""

    def comparable(self, scores: Tensor, queries: Tensor) -> Tensor:
        """Scores (b, n) of some queries, made to mean the same for each of them."""

    def bounds(self) -> tuple[float, float]:
        """The lowest and the highest comparable score."""


@dataclass(frozen=True)
class Block:
    """The pairs of some queries, closest first; of equals, the earlier image. On the CPU.

    Attributes:
        pairs: of the same person; columns count over all shards.
        scores: (b, P) on the device that ranks, -inf for filling.
        closer: (b, P, S) int64, images of other people in each segment that are closer.
        others: for each segment, (b, n) scores of the other people's images that this process
            holds, ascending, and -inf for what is not one. Overwritten by the next block.
    """

    pairs: Pairs
    scores: Tensor
    closer: Tensor
    others: list[Tensor]


@dataclass(frozen=True)
class Sweep:
    """What is ranked.

    Attributes:
        scores: of the gallery images of this process.
        query: labels of all queries.
        shards: labels of the whole gallery.
        segments: (G,) int64 segment of each image of the whole gallery, -1 for ignored ones.
        count: number of segments.
        chunk_size: the most queries in a block.
    """

    scores: Scores
    query: People
    shards: Shards
    segments: Tensor
    count: int = 1
    chunk_size: int | None = None

    def blocks(self) -> Iterator[Block]:
        """All queries that have an image of their person in the gallery, in blocks."""
        same = SamePerson(self.query, self.shards.gallery)
        # alike numbers of pairs together, so that rows need little filling
        counts, order = same.counts.sort(stable=True)
        widths = counts.cpu()
        part = slice(self.shards.start, self.shards.start + len(self.scores.scale))
        segments = Segments(self.segments[part], self.count)
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
        row = 2 * self.scores.dtype.itemsize * self.shards.largest
        blocks, start = [], int((widths == 0).sum())
        while start < len(widths):
            rows = min(self.chunk_size or _ROWS, len(widths) - start)
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
        self.sweep.shards.add(closer)
        ordered = torch.sort(
            scores.masked_fill(~pairs.real, -torch.inf), dim=1, descending=True, stable=True
        )
        by_score = ordered.indices
        columns, real = (x.gather(1, by_score).cpu() for x in (pairs.columns, pairs.real))
        closer = closer.gather(1, by_score[..., None].expand_as(closer))
        # float64 and float cumsum, which not every device has, come after this
        return Block(
            Pairs(pairs.queries.cpu(), columns, real), ordered.values, closer.cpu(), others
        )

    def _take_pair_scores(self, pairs: Pairs) -> Tensor:
        """Scores of the pairs (b, P); in `raw` those held here become the worst there is."""
        own = pairs.columns - self.sweep.shards.start
        here = (own >= 0) & (own < self.raw.shape[1])
        column = own.clamp(0, self.raw.shape[1] - 1)
        raw = self.raw.gather(1, column)
        scores = torch.addcmul(pick(self.shift, column), raw, pick(self.scale, column))
        if self.sweep.shards.group is None:
            self.raw.scatter_(1, column, -torch.inf)
            return scores
        self.raw[here.nonzero()[:, 0], column[here]] = -torch.inf
        return self.sweep.shards.add(torch.where(here, scores, 0))

    def _add_earlier_equals(
        self, pairs: Pairs, scores: Tensor, closer: Tensor, equal: Tensor
    ) -> None:
        """Count, for pairs that others equal, the others that come earlier in the gallery."""
        start, images = self.sweep.shards.start, self.raw.shape[1]
        position = torch.arange(start, start + images, device=self.raw.device)
        pids = self.sweep.shards.gallery.pids[start : start + images]
        whom = pick(self.sweep.query.pids, pairs.queries)
        size = max(1, _TIE_BYTES // (_TIE_IMAGE_BYTES * images))
        for entries in torch.split(equal.nonzero(), size):
            row, place = entries.unbind(1)
            same = torch.addcmul(self.shift, self.raw[row], self.scale) == scores[row, place, None]
            same &= (pids != whom[row, None]) & (position < pairs.columns[row, place, None])
            closer[row, place] += count_earlier(same, self.segments.labels, self.segments.count)
