"""One pass over query blocks: for each match, how many images of other identities are closer.

A match's rank is one plus the number of valid images that are closer, so only the matches are
sorted. Of equal scores, the earlier gallery image is closer.
"""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor as Pool
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
_TIES = 2**19  # images that are compared with pairs of equal scores at a time


@dataclass(frozen=True)
class Sweep:
    """What is ranked; all on one device."""

    scores: Scores
    query_pids: Tensor  # (Q,) int64
    gallery_pids: Tensor  # (G,) int64
    segments: Sequence[Tensor]  # S disjoint parts of the gallery; images in none are ignored

    def blocks(self) -> Iterator[tuple[Pairs, Tensor]]:
        """Pairs, closest first, and (b, P, S) closer images of other identities; on the CPU."""
        images = len(self.gallery_pids)
        by_pid = self.gallery_pids.argsort(stable=True)
        pids = self.gallery_pids[by_pid]
        first = torch.searchsorted(pids, self.query_pids)
        counts = torch.searchsorted(pids, self.query_pids, right=True) - first
        counts[self.query_pids == JUNK] = 0
        counts, order = counts.sort(stable=True)  # so that the rows of a block need little filling
        widths, row_bytes = counts.cpu(), 2 * self.scores.scale.itemsize * images
        pair_bytes = _PAIR_BYTES + _SEGMENT_BYTES * len(self.segments)
        most = min(len(order), max(1, min(_ROWS, _BUDGET // row_bytes)))
        raw, buffer = (self.scores.scale.new_empty(most * images) for _ in range(2))
        start = int((widths == 0).sum())
        with Pool(torch.get_num_threads()) as pool:
            while start < len(order):
                rows = min(most, len(order) - start)
                # rows of the widest query that the block would have; a narrower end allows no fewer
                fits = _BUDGET // (row_bytes + pair_bytes * int(widths[start + rows - 1]))
                stop = start + max(1, min(rows, fits))
                queries, own = order[start:stop], counts[start:stop, None]
                places = torch.arange(int(widths[stop - 1]), device=order.device)
                place = pick(first, queries)[:, None] + torch.minimum(places, own - 1)
                pairs = Pairs(queries, pick(by_pid, place), places < own)
                out = raw[: len(queries) * images].view(-1, images)
                yield self._block(pairs, self.scores.raw(queries, out), buffer, pool)
                start = stop

    def _block(self, pairs: Pairs, raw: Tensor, buffer: Tensor, pool: Pool) -> tuple[Pairs, Tensor]:
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
        return Pairs(pairs.queries.cpu(), columns, real), closer.cpu()

    def _sorted(self, raw: Tensor, buffer: Tensor, pool: Pool) -> list[Tensor]:
        """(b, n) scores of each segment, rows ascending, from (b, G) raw ones."""
        scale, shift = self.scores.scale, self.scores.shift
        parts = [(rows, pick(scale, rows), pick(shift, rows)) for rows in self.segments]
        if raw.device.type != "cpu":
            return [torch.addcmul(b, raw[:, rows], a).sort(dim=1).values for rows, a, b in parts]
        # NumPy's sort of keys alone is ten times as fast as `torch.sort`, which has indices too,
        # and leaves the interpreter's lock; a thread scales and sorts a row while it is in cache
        sizes = [len(raw) * len(rows) for rows in self.segments]
        flat = torch.split(buffer[: sum(sizes)], sizes)
        tables = [t.view(len(raw), len(rows)) for t, rows in zip(flat, self.segments, strict=True)]
        arrays = [(t.numpy(), *(x.numpy() for x in p)) for t, p in zip(tables, parts, strict=True)]
        source = raw.numpy()

        def task(start: int) -> None:
            rows = slice(start, start + _TASK_ROWS)
            for table, images, a, b in arrays:
                part = table[rows]
                if len(images) == source.shape[1]:
                    part[...] = source[rows]  # ten times as fast
                else:
                    source[rows].take(images, axis=1, out=part, mode="clip")
                part *= a
                part += b
                part.sort(axis=1)

        list(pool.map(task, range(0, len(raw), _TASK_ROWS)))
        return tables

    def _add_earlier_equals(
        self, pairs: Pairs, raw: Tensor, scores: Tensor, closer: Tensor, equal: Tensor
    ) -> None:
        # of equal scores of other identities, those that are earlier in the gallery
        position = torch.arange(raw.shape[1], device=raw.device)
        for entries in torch.split(equal.nonzero(), max(1, _TIES // len(position))):
            row, place = entries.unbind(1)
            other = self.gallery_pids != pick(self.query_pids, pairs.queries[row])[:, None]
            other &= position < pairs.columns[row, place, None]
            found = torch.addcmul(self.scores.shift, raw[row], self.scores.scale)
            earlier = other & (found == scores[row, place, None])
            counts = [earlier[:, images].sum(1) for images in self.segments]
            closer[row, place] += torch.stack(counts, dim=1)


def count_above(tables: Sequence[Tensor], scores: Tensor) -> tuple[Tensor, Tensor]:
    """(b, P, S) values of each (b, n) table above (b, P) scores, and whether any is equal."""
    counts, equal = [], torch.zeros_like(scores, dtype=torch.bool)
    for table in tables:
        below = torch.searchsorted(table, scores, right=True)  # and equal
        if table.shape[1]:
            equal |= table.gather(1, (below - 1).clamp(min=0)) == scores
        counts.append(table.shape[1] - below)
    return torch.stack(counts, dim=2), equal
