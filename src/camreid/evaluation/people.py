"""Who is ranked against whom: labels of queries and gallery, and the pairs of one person."""

from dataclasses import dataclass

import torch
from torch import Tensor

from camreid.errors import InputError

JUNK, DISTRACTOR = -1, 0


@dataclass(frozen=True)
class People:
    """The labels of some images.

    Attributes:
        pids: (N,) int64; -1 is junk, 0 a distractor.
        cameras: (N,) int64.
        sequences: (N,) int64 recordings, -1 where unknown; None if none is known.
        index: (N,) int64 image numbers, by which a query is told from the gallery's copy of it.
    """

    pids: Tensor
    cameras: Tensor
    sequences: Tensor | None = None
    index: Tensor | None = None

    def to(self, device: torch.device | str) -> "People":
        """The same on a device, as int64."""
        columns = (self.pids, self.cameras, self.sequences, self.index)
        return People(*(None if c is None else c.detach().to(device).long() for c in columns))  # type: ignore[arg-type]

    def check(self, role: str, images: int) -> None:
        """Refuse labels that are not one for each of the role's images, or none at all."""
        columns = {"pids": self.pids, "cameras": self.cameras}
        columns |= {
            name: column
            for name, column in (("sequences", self.sequences), ("index", self.index))
            if column is not None
        }
        if images == 0 or any(column.shape != (images,) for column in columns.values()):
            found = ", ".join(f"{column.numel()} {name}" for name, column in columns.items())
            raise InputError(
                f"the {role} has {images} features, {found}: expected as many of each, in one "
                "dimension, and at least one."
            )


@dataclass(frozen=True)
class Pairs:
    """For each of some queries, the gallery images of the same person.

    Attributes:
        queries: (b,) int64 rows of the query.
        columns: (b, P) int64 rows of the gallery. Short rows are filled with repeats of their last.
        real: (b, P) bool, False for the filling.
    """

    queries: Tensor
    columns: Tensor
    real: Tensor


class SamePerson:
    """Finds the gallery images of a query's person, without a Q x G table.

    Args:
        query: labels of the queries, on one device with the gallery's.
        gallery: labels of the gallery.

    >>> same = SamePerson(People(*torch.tensor([[7], [0]])), People(*torch.tensor([[7, 5, 7]] * 2)))
    >>> same.counts.tolist(), same.pairs(torch.tensor([0])).columns.tolist()
    ([2], [[0, 2]])
    """

    def __init__(self, query: People, gallery: People) -> None:
        self.order = gallery.pids.argsort(stable=True)
        pids = gallery.pids[self.order]
        self.start = torch.searchsorted(pids, query.pids)
        stop = torch.searchsorted(pids, query.pids, right=True)
        self.counts = torch.where(query.pids == JUNK, 0, stop - self.start)

    def pairs(self, queries: Tensor, width: int | None = None) -> Pairs:
        """The pairs of some queries, each of whom has at least one.

        Args:
            queries: (b,) int64.
            width: the largest of their counts, where the caller knows it.
        """
        counts = pick(self.counts, queries)[:, None]
        places = torch.arange(width or int(counts.max()), device=counts.device)
        first = pick(self.start, queries)[:, None]
        columns = pick(self.order, first + torch.minimum(places, counts - 1))
        return Pairs(queries, columns, places < counts)


def pick(values: Tensor, index: Tensor) -> Tensor:
    """`values[index]` for 1-D values, which torch does in one thread where the index is small.

    On the CPU, indexing wakes all threads for any size, and waiting for them takes longer than the
    work, above all where other programs have the cores.

    >>> pick(torch.tensor([5, 6]), torch.tensor([[1, 0]]))
    tensor([[6, 5]])
    """
    return values.index_select(0, index.flatten()).view(index.shape)


def is_nobody(pids: Tensor) -> Tensor:
    """Whether pids are junk or distractors.

    >>> is_nobody(torch.tensor([-1, 0, 1]))
    tensor([ True,  True, False])
    """
    return (pids == JUNK) | (pids == DISTRACTOR)
