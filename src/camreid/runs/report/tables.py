"""Tables of the page: plain ones, and those whose cells are coloured by their share."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from camreid.evaluation.protocols import CameraPairs


@dataclass(frozen=True)
class Cell:
    """A cell: a number by itself, read by anyone.

    Attributes:
        text: what it says.
        small: below it in smaller type, such as the interval.
        share: 0..1, by which it is coloured; None for no colour.
        best: whether it is marked as the best of its column.
    """

    text: str
    small: str = ""
    share: float | None = None
    best: bool = False


@dataclass(frozen=True)
class Group:
    """Rows that belong together, apart from those of the next group.

    Attributes:
        title: above them, empty for none.
        rows: cells by label.
    """

    title: str
    rows: Mapping[str, Sequence[Cell]]


@dataclass(frozen=True)
class Table:
    """A table with its caption.

    Attributes:
        title: names it to a screen reader.
        text: the caption.
        columns: above the cells.
        groups: of rows.
        corner: above the labels, empty for nothing.
        caveat: what makes its numbers unfair, empty for nothing.
    """

    title: str
    text: str
    columns: Sequence[str]
    groups: Sequence[Group]
    corner: str = ""
    caveat: str = ""

    @property
    def coloured(self) -> bool:
        """Whether cells have shares."""
        return any(c.share is not None for g in self.groups for row in g.rows.values() for c in row)


def shared(value: float | None) -> Cell:
    """A share in per cent, coloured; n/a where there is none.

    >>> shared(0.5).text, shared(None).text
    ('50.0', 'n/a')
    """
    if value is None or math.isnan(value):
        return Cell("n/a")
    return Cell(f"{100 * value:.1f}", share=value)


def text_cells(values: Iterable[str]) -> tuple[Cell, ...]:
    """Cells without colour."""
    return tuple(map(Cell, values))


def pair_numbers(pairs: CameraPairs) -> dict[str, Any]:
    """Camera pairs as `metrics.json` holds them, but for NaN."""
    numbers = {"mAP": pairs.mAP.tolist(), "rank1": pairs.rank1.tolist()}
    return {"cameras": pairs.cameras, **numbers}


def camera_pairs(pairs: Mapping[str, Any], caveat: str = "", of: str = "") -> tuple[Table, ...]:
    """Two tables, mAP and Rank-1, of each query camera and each gallery camera.

    Args:
        pairs: `cameras`, and rows of shares by number.
        caveat: what makes the numbers unfair.
        of: whose they are, empty where the heading says so.
    """
    names = [f"c{camera}" for camera in pairs["cameras"]]
    whose = f" of {of}" if of else ""
    return tuple(
        Table(
            title=f"{title}{whose} by camera pair",
            text=f"{title}{whose} in per cent, from a query camera (rows) to a gallery camera "
            "(columns); the diagonal is within one camera.",
            columns=names,
            groups=[Group("", {n: [*map(shared, r)] for n, r in zip(names, rows, strict=True)})],
            caveat=caveat,
        )
        for title, rows in (("mAP", pairs["mAP"]), ("Rank-1", pairs["rank1"]))
    )
