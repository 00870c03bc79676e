"""How many images of other people are closer than a match, counted by segment of the gallery."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import torch
from torch import Tensor

_TASK_ROWS = 32  # small tasks, so that no thread waits for one that lost its core


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
        self.place = torch.zeros_like(labels)
        for columns in self.columns:
            self.place[columns] = torch.arange(len(columns), device=labels.device)

    def views(self, table: Tensor, rows: int) -> list[Tensor]:
        """A flat buffer as one contiguous (rows, n) table for each segment."""
        pairs = zip(self.starts, self.sizes, strict=True)
        return [table[rows * a : rows * (a + n)].view(rows, n) for a, n in pairs]

    def positions(self, columns: Tensor, row: Tensor, rows: int) -> Tensor:
        """Where gallery columns (n,) of rows (n,) are in the flat buffer of `views`."""
        segment = torch.zeros_like(columns) if self.whole else self.labels[columns]
        starts, sizes = (torch.tensor(t, device=row.device) for t in (self.starts, self.sizes))
        return rows * starts[segment] + row * sizes[segment] + self.place[columns]


@contextmanager
def row_sorter(device: torch.device) -> Iterator[Callable[[list[Tensor]], list[Tensor]]]:
    """A function that sorts the rows of tables, ascending; it may do so in place.

    On the CPU, NumPy's sort of keys alone is vectorised and leaves the interpreter's lock, while
    `torch.sort` carries indices along and is an order of magnitude slower.
    """
    if device.type != "cpu":
        yield lambda tables: [table.sort(dim=1).values for table in tables]
        return
    with ThreadPoolExecutor(torch.get_num_threads()) as pool:

        def sort(tables: list[Tensor]) -> list[Tensor]:
            arrays = [table.numpy() for table in tables]

            def part(start: int) -> None:
                for array in arrays:
                    array[start : start + _TASK_ROWS].sort(axis=1)

            list(pool.map(part, range(0, len(arrays[0]), _TASK_ROWS)))
            return tables

        yield sort


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
