"""One pass over query blocks: for each match, how many images of other identities are closer.

A match's rank is one plus the number of valid images that are closer, so only the matches are
sorted. Of equal scores, the earlier gallery image is closer.
"""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import torch
from torch import Tensor

from camreid.evaluation.protocols import JUNK, Pairs, pick
from camreid.evaluation.scores import Scores

_TASK_ROWS = 8  # small tasks, so that no thread waits for one that lost its core
_BUDGET = 176 * 2**20  # bytes in work for a block of queries
_ROWS = 1024  # queries in a block: the fewer blocks, the less waiting between them
_PAIR_BYTES = 96  # of a pair's columns, masks, scores and sums, while they last
_SEGMENT_BYTES = 32  # of a pair's count in a segment, while it lasts
_TIE_BYTES = 2**25  # in work for pairs that others equal
_TIE_IMAGE_BYTES = 64  # of an image that is compared with such a pair


@dataclass(frozen=True)
class Block:
    """The pairs of some queries, closest first; of equals, the earlier image. On the CPU.

    Attributes:
        pairs: of the same identity.
        closer: (b, P, S) int64, closer images of other identities in each gallery segment.
    """

    pairs: Pairs
    closer: Tensor


class SameIdentity:
    """Finds the gallery images of a query's identity, without a Q x G table.

    Args:
        query: (Q,) int64 pids, on one device with the gallery's.
        gallery: (G,) int64 pids.

    >>> same = SameIdentity(torch.tensor([7, 0]), torch.tensor([7, 5, 7]))
    >>> same.counts.tolist(), same.pairs(torch.tensor([0]), 2).columns.tolist()
    ([2, 0], [[0, 2]])
    """

    def __init__(self, query: Tensor, gallery: Tensor) -> None:
        self.order = gallery.argsort(stable=True)
        pids = gallery[self.order]
        self.start = torch.searchsorted(pids, query)
        stop = torch.searchsorted(pids, query, right=True)
        self.counts = torch.where(query == JUNK, 0, stop - self.start)

    def pairs(self, queries: Tensor, width: int) -> Pairs:
        """The pairs of some queries (b,) int64 that have at least one; `width` is the most."""
        counts = pick(self.counts, queries)[:, None]
        places = torch.arange(width, device=counts.device)
        first = pick(self.start, queries)[:, None]
        columns = pick(self.order, first + torch.minimum(places, counts - 1))
        return Pairs(queries, columns, places < counts)


@dataclass(frozen=True)
class Sweep:
    """What is ranked; all on one device.

    Attributes:
        scores: of the queries against the gallery.
        query_pids: (Q,) int64.
        gallery_pids: (G,) int64.
        segments: S disjoint parts of the gallery, int64 rows; the images in none are ignored.
    """

    scores: Scores
    query_pids: Tensor
    gallery_pids: Tensor
    segments: Sequence[Tensor]

    def blocks(self) -> Iterator[Block]:
        """All queries whose identity is in the gallery, in blocks."""
        same = SameIdentity(self.query_pids, self.gallery_pids)
        # alike numbers of pairs together, so that rows need little filling
        counts, order = same.counts.sort(stable=True)
        widths, images = counts.cpu(), len(self.gallery_pids)
        plan = self._plan(widths)
        most = max((stop - start for start, stop in plan), default=0)
        raw, buffer = (self.scores.scale.new_empty(most * images) for _ in range(2))
        with ThreadPoolExecutor(torch.get_num_threads()) as pool:
            for start, stop in plan:
                pairs = same.pairs(order[start:stop], int(widths[stop - 1]))
                out = raw[: (stop - start) * images].view(stop - start, images)
                yield self._block(pairs, self.scores.raw(pairs.queries, out), buffer, pool)

    def _plan(self, widths: Tensor) -> list[tuple[int, int]]:
        """Blocks of the queries sorted by their number of pairs, each within the budget."""
        pair = _PAIR_BYTES + _SEGMENT_BYTES * len(self.segments)
        row = 2 * self.scores.scale.itemsize * len(self.gallery_pids)
        blocks, start = [], int((widths == 0).sum())
        while start < len(widths):
            rows = min(_ROWS, len(widths) - start)
            # rows of the widest query that the block would have; a narrower end allows no fewer
            fits = _BUDGET // (row + pair * int(widths[start + rows - 1]))
            rows = max(1, min(rows, fits))
            blocks.append((start, start + rows))
            start += rows
        return blocks

    def _block(self, pairs: Pairs, raw: Tensor, buffer: Tensor, pool: ThreadPoolExecutor) -> Block:
        """Count for pairs (b, P), by raw scores (b, G)."""
        scale, shift = self.scores.scale, self.scores.shift
        columns, own = pairs.columns, raw.gather(1, pairs.columns)
        scores = torch.addcmul(pick(shift, columns), own, pick(scale, columns))
        raw.scatter_(1, columns, -torch.inf)  # so that only other identities are counted
        closer, equal = count_above(self._sorted(raw, buffer, pool), scores)
        self._add_earlier_equals(pairs, raw, scores, closer, equal & pairs.real)
        order = scores.masked_fill(~pairs.real, -torch.inf)
        order = order.argsort(dim=1, descending=True, stable=True)
        columns, real = (x.gather(1, order).cpu() for x in (columns, pairs.real))
        closer = closer.gather(1, order[..., None].expand_as(closer))
        # float64 and float cumsum, which not every device has, come after this
        return Block(Pairs(pairs.queries.cpu(), columns, real), closer.cpu())

    def _sorted(self, raw: Tensor, buffer: Tensor, pool: ThreadPoolExecutor) -> list[Tensor]:
        """(b, n) scores of each segment, rows ascending, from (b, G) raw ones.

        On the CPU, NumPy's sort of keys alone is vectorised and leaves the interpreter's lock,
        while `torch.sort` carries indices along and is an order of magnitude slower. A row is
        scaled and sorted by one thread while it is in cache; between such threads and those of
        torch's own operators there are few turns, because torch's spin for a while after each.
        """
        parts = [(rows, self.scores.scale[rows], self.scores.shift[rows]) for rows in self.segments]
        if raw.device.type != "cpu":
            return [torch.addcmul(b, raw[:, rows], a).sort(dim=1).values for rows, a, b in parts]
        sizes = [len(raw) * len(rows) for rows in self.segments]
        parts_of = torch.split(buffer[: sum(sizes)], sizes)
        tables = [t.view(len(raw), -1 if n else 0) for t, n in zip(parts_of, sizes, strict=True)]
        arrays = [
            (table.numpy(), *(x.numpy() for x in part))
            for table, part in zip(tables, parts, strict=True)
            if table.numel()
        ]
        source = raw.numpy()

        def task(start: int) -> None:
            rows = slice(start, start + _TASK_ROWS)
            for table, images, a, b in arrays:
                part = table[rows]
                source[rows].take(images, axis=1, out=part, mode="clip")
                part *= a
                part += b
                part.sort(axis=1)

        list(pool.map(task, range(0, len(raw), _TASK_ROWS)))
        return tables

    def _add_earlier_equals(
        self, pairs: Pairs, raw: Tensor, scores: Tensor, closer: Tensor, equal: Tensor
    ) -> None:
        """Count, for pairs with equal scores of other identities, those earlier in the gallery."""
        position = torch.arange(raw.shape[1], device=raw.device)
        size = max(1, _TIE_BYTES // (_TIE_IMAGE_BYTES * len(position)))
        for entries in torch.split(equal.nonzero(), size):
            row, place = entries.unbind(1)
            other = self.gallery_pids != pick(self.query_pids, pairs.queries[row])[:, None]
            other &= position < pairs.columns[row, place, None]
            found = torch.addcmul(self.scores.shift, raw[row], self.scores.scale)
            earlier = other & (found == scores[row, place, None])
            counts = [earlier[:, images].sum(1) for images in self.segments]
            closer[row, place] += torch.stack(counts, dim=1)


def count_above(tables: Sequence[Tensor], scores: Tensor) -> tuple[Tensor, Tensor]:
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
