"""The mapping between identities and classifier rows."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from operator import index
from typing import Literal

import torch
from torch import Tensor

from camreid.errors import InputError, require_choice

Order = Literal["numeric", "fastreid"]
Unknown = Literal["skip", "drop", "extend", "reinit", "forbid"]


def rows_of(table: Tensor, pids: Tensor) -> Tensor:
    """Row of each pid in `table` (R,), the distinct pids of the rows; -1 where it has none.

    >>> rows_of(torch.tensor([10, 2, 7]), torch.tensor([2, 3, 10]))
    tensor([ 1, -1,  0])
    """
    pids = pids.long().contiguous()
    if table.numel() == 0:
        return torch.full_like(pids, -1)
    table = table.to(pids.device)
    ordered, row = table.sort()
    place = torch.searchsorted(ordered, pids).clamp_(max=len(table) - 1)
    return torch.where(ordered[place] == pids, row[place], -1)


@dataclass(frozen=True)
class LabelMap:
    """The identities of a classifier, in row order.

    >>> m = LabelMap((10, 2, 7))
    >>> len(m), m.row(7), 3 in m
    (3, 2, False)
    >>> m.rows(torch.tensor([7, 3]))
    tensor([ 2, -1])
    """

    pids: tuple[int, ...]

    def __post_init__(self) -> None:
        pids = tuple(map(index, self.pids))
        object.__setattr__(self, "pids", pids)
        if any(abs(pid) >= 2**63 for pid in pids):
            raise InputError(f"{max(pids, key=abs)} is no pid of a label map: expected 64 bits.")
        if twice := [pid for pid, count in Counter(pids).items() if count > 1]:
            raise InputError(f"pids with more than one row in a label map: {twice[:5]}.")

    @classmethod
    def of(cls, pids: Iterable[int], order: Order = "numeric") -> "LabelMap":
        """The label map of identities, repeats allowed.

        `fastreid` is the order in which FastReID sorts the *strings* `market1501_<pid>`.

        >>> LabelMap.of([2, 10, 100, 9, 2]).pids
        (2, 9, 10, 100)
        >>> LabelMap.of([2, 10, 100, 9, 2], order="fastreid").pids
        (10, 100, 2, 9)
        """
        require_choice("order", order, Order)
        unique = {int(pid) for pid in pids}
        return cls(tuple(sorted(unique, key=str if order == "fastreid" else int)))

    @classmethod
    def union(cls, maps: Iterable["LabelMap"]) -> "LabelMap":
        """The identities of all maps, one map after the other."""
        return cls(tuple(dict.fromkeys(pid for own in maps for pid in own.pids)))

    @classmethod
    def anonymous(cls, rows: int) -> "LabelMap":
        """Rows without identities, as a foreign file without labels has.

        >>> LabelMap.anonymous(2).is_anonymous, LabelMap((5, 7)).is_anonymous
        (True, False)
        """
        return cls(tuple(range(-2, -2 - rows, -1)))

    @property
    def is_anonymous(self) -> bool:
        """Whether the rows have no identities."""
        return max(self.pids, default=0) < -1

    @cached_property
    def _row(self) -> dict[int, int]:
        return {pid: row for row, pid in enumerate(self.pids)}

    def __len__(self) -> int:
        return len(self.pids)

    def __contains__(self, pid: object) -> bool:
        return pid in self._row

    def __and__(self, other: "LabelMap") -> "LabelMap":
        """The identities in both, in this map's order."""
        return LabelMap(tuple(pid for pid in self.pids if pid in other))

    def __sub__(self, other: "LabelMap") -> "LabelMap":
        """The identities not in `other`, in this map's order."""
        return LabelMap(tuple(pid for pid in self.pids if pid not in other))

    def row(self, pid: int) -> int:
        """The row of one identity; KeyError names the pid if there is none."""
        if pid not in self._row:
            raise KeyError(f"pid {pid} has no row among the {len(self)} of this label map")
        return self._row[pid]

    def rows(self, pids: Tensor) -> Tensor:
        """Row of each pid, -1 where it has none; int64 of the shape of `pids`."""
        return rows_of(torch.tensor(self.pids, dtype=torch.int64), pids)


Identities = LabelMap | Sequence[int]
HeadLabels = Identities | Mapping[int, Identities]  # of all heads, or of each camera's head


def fit_labels(start: LabelMap, split: LabelMap, unknown: Unknown) -> LabelMap:
    """The rows of a head for training on `split`, from starting weights or from none (empty).

    >>> expert, new = LabelMap((10, 2, 7)), LabelMap((2, 5))
    >>> fit_labels(expert, new, "skip").pids, fit_labels(expert, new, "extend").pids
    ((10, 2, 7), (10, 2, 7, 5))
    """
    if not len(start) or unknown == "reinit":
        return split
    if unknown == "extend" and not start.is_anonymous:
        return LabelMap(start.pids + (split - start).pids)
    return start  # HeadCheck refuses to train anonymous rows


def fit_camera_labels(
    start: LabelMap | Mapping[int, LabelMap], split: Mapping[int, LabelMap], unknown: Unknown
) -> dict[int, LabelMap]:
    """`fit_labels` of each camera's head, from such heads or from one plain head."""
    if isinstance(start, LabelMap):
        start = {c: start if start.is_anonymous else start & own for c, own in split.items()}
    none = LabelMap(())
    cameras = sorted({*start, *split})
    return {c: fit_labels(start.get(c, none), split.get(c, none), unknown) for c in cameras}
