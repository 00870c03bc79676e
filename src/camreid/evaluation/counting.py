"""How many images of other people are closer than a match, counted by segment of the gallery."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import torch
from torch import Tensor

_TASK_ROWS = 8  # small tasks, so that no thread waits for one that lost its core


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
