"""A gallery of which each process holds a part."""

from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from camreid.errors import InputError
from camreid.evaluation.people import People


@dataclass(frozen=True)
class Shards:
    """The gallery as one, in the order of the processes.

    Attributes:
        gallery: labels of all its images.
        start: row of this process's first image.
        largest: number of images of the largest part.
        group: the processes, or None where this one holds the whole gallery.
    """

    gallery: People
    start: int
    largest: int
    group: dist.ProcessGroup | None = None

    @classmethod
    def join(cls, part: People, group: dist.ProcessGroup | None) -> "Shards":
        """Bring the labels of all parts together.

        Args:
            part: labels of the images that this process holds.
            group: the processes, None for this one alone.
        """
        if group is None:
            return cls(part, 0, len(part.pids))
        parts: list[People] = gathered(part.to("cpu"), group)
        sizes = [len(p.pids) for p in parts]
        start = sum(sizes[: dist.get_rank(group)])
        columns = (_cat([getattr(p, name) for p in parts]) for name in part.__dataclass_fields__)
        return cls(People(*columns).to(part.pids.device), start, max(sizes), group)  # type: ignore[arg-type]

    def add(self, values: Tensor) -> Tensor:
        """The sum of a tensor over the processes, in place."""
        if self.group is not None:
            dist.all_reduce(values, group=self.group)
        return values

    def hull(self, bounds: tuple[float, float]) -> tuple[float, float]:
        """The lowest and the highest of the processes' bounds."""
        if self.group is None:
            return bounds
        low, high = zip(*gathered(bounds, self.group), strict=True)
        return min(low), max(high)


def agree(error: InputError | None, group: dist.ProcessGroup | None) -> None:
    """Raise an error in every process if there is one in any, so that none waits for it.

    Raises:
        InputError: this process's own, or that of the first process that has one.
    """
    errors = [error] if group is None else gathered(error, group)
    for number, found in enumerate(errors):
        if found is not None:
            raise error or InputError(f"process {number} of {len(errors)}: {found}")


def gathered(value: Any, group: dist.ProcessGroup) -> list[Any]:
    """The values of all processes, which they pickle."""
    values: list[Any] = [None] * dist.get_world_size(group)
    dist.all_gather_object(values, value, group=group)
    return values


def _cat(parts: list[Tensor | None]) -> Tensor | None:
    known = [part for part in parts if part is not None]
    return torch.cat(known) if len(known) == len(parts) else None
