"""The table of terminal and report, and how numbers are written in it."""

import csv
import io
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Console, JustifyMethod
from rich.table import Table as RichTable

from camreid.progress import printable

_FORMULA = re.compile(r"(?m)^[=+\-@](?![\d.]+$)")  # what a spreadsheet would compute
_TEX = str.maketrans({c: rf"\{c}" for c in "%_&#${}"} | {c: rf"\char{ord(c)}{{}}" for c in "\\^~"})


@dataclass(frozen=True)
class Table:
    """A titled table of text with notes; rich prints it, and `page.html.j2` has its HTML."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    notes: Sequence[str] = ()
    folded: bool = False  # in the report

    def __rich__(self) -> RichTable:
        caption = printable("\n".join(self.notes)) or None
        table = RichTable(title=printable(self.title), caption=caption)
        table.title_justify = table.caption_justify = "left"
        table.padding = (0, 1 if len(self.columns) < 8 else 0)
        for place, column in enumerate(self.columns):
            justify: JustifyMethod = "right" if place else "left"
            lines = [line for row in self.rows for line in row[place].splitlines()]
            # numbers stay whole where that leaves room for the other columns
            short = max(map(len, (column, *lines))) <= 12 and (not place or len(self.columns) < 9)
            table.add_column(printable(column), justify=justify, overflow="fold", no_wrap=short)
        for row in self.rows:
            table.add_row(*map(printable, row))
        return table

    def text(self, suffix: str) -> str:
        """The table for a .csv, .md or .tex file; a .csv has an interval in a column of its own."""
        if suffix == ".csv":
            rows = ([f"{column}\n{column} interval" for column in self.columns], *self.rows)
            safe = [[_FORMULA.sub(r"'\g<0>", c.replace(" %", "")) for c in row] for row in rows]
            grid = [[part for cell in row for part in cell.partition("\n")[::2]] for row in safe]
            filled = [column for column in zip(*grid, strict=True) if any(column[1:])]
            csv.writer(file := io.StringIO()).writerows(zip(*filled, strict=True))
            return file.getvalue()
        grid = [[cell.replace("\n", " ") for cell in row] for row in (self.columns, *self.rows)]
        if suffix == ".md":
            grid.insert(1, ["---"] * len(self.columns))
            grid = [[re.sub(r"([\\|<\[])", r"\\\1", cell) for cell in row] for row in grid]
            return "".join(f"| {' | '.join(row)} |\n" for row in grid)
        escaped = ([cell.translate(_TEX) for cell in row] for row in grid)
        head, *lines = [" & ".join(row) + " \\\\\n" for row in escaped]
        start = f"\\begin{{tabular}}{{l{'r' * (len(self.columns) - 1)}}}\n"
        return "".join([start, head, "\\hline\n", *lines, "\\end{tabular}\n"])

    def show(self) -> None:
        """Print on the terminal."""
        Console(markup=False, emoji=False).print(self)


def percent(share: float | None) -> str:
    """A share as per cent with one digit; `n/a` for None and NaN."""
    return "n/a" if share is None or math.isnan(share) else f"{100 * share:.1f} %"


def interval(low: float | None, high: float | None) -> str:
    """The ends of an interval in per cent or points; empty where there is none."""
    if low is None or high is None or math.isnan(low):
        return ""
    return f"{100 * low:.1f}..{100 * high:.1f}"


def in_points(*shares: float) -> list[str]:
    """Shares as points with equal decimals: two significant digits of the largest, 1 to 4.

    >>> in_points(0.0004, -0.001, 0.002), in_points(0.021, -0.00004)
    (['0.04', '-0.10', '0.20'], ['2.1', '0.0'])
    """
    values = [100 * share for share in shares]
    largest = max((abs(v) for v in values if not math.isnan(v)), default=0)
    places = min(4, max(1, 1 - math.floor(math.log10(largest)))) if largest else 1
    return [f"{round(v, places) + 0.0:.{places}f}" for v in values]  # + 0.0: no minus zero
