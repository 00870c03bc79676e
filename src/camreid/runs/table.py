"""One table for the terminal, HTML and Markdown, and how numbers are written in it."""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from rich.console import Console
from rich.table import Table as RichTable


@dataclass(frozen=True)
class Table:
    """A titled table of text cells; the first column is left-aligned, the others right-aligned.

    Attributes:
        title: above the table.
        columns: headings.
        rows: cells, one for each column.
        notes: sentences below the table.

    >>> table = Table("mAP", ("model", "mAP"), [("a<b", "50.0 %")], ["one run"])
    >>> "a&lt;b" in table.to_html(), table.to_markdown().splitlines()[2]
    (True, '| model | mAP |')
    """

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    notes: Sequence[str] = ()

    def to_rich(self) -> RichTable:
        """For the terminal."""
        notes = "\n".join(self.notes) or None
        table = RichTable(title=self.title, title_justify="left", caption=notes)
        table.caption_justify = "left"
        for place, column in enumerate(self.columns):
            table.add_column(column, justify="right" if place else "left")
        for row in self.rows:
            table.add_row(*row)
        return table

    def show(self) -> None:
        """Print on the terminal."""
        Console().print(self.to_rich())

    def to_html(self) -> str:
        """As an HTML figure; all text is escaped."""
        head = "".join(f"<th>{escape(column)}</th>" for column in self.columns)
        body = "".join(
            f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>\n" for row in self.rows
        )
        notes = "".join(f"<p class=note>{escape(note)}</p>" for note in self.notes)
        return (
            f"<figure><figcaption>{escape(self.title)}</figcaption><div class=scroll><table>"
            f"<thead><tr>{head}</tr></thead>\n<tbody>{body}</tbody></table></div>{notes}</figure>"
        )

    def to_markdown(self) -> str:
        """As a Markdown table under its title."""
        lines = [self.columns, ["---"] * len(self.columns), *self.rows]
        text = "\n".join(f"| {' | '.join(c.replace('|', '/') for c in line)} |" for line in lines)
        return "\n\n".join([self.title, text, *self.notes]) + "\n"


def percent(share: float | None) -> str:
    """A share as per cent with one digit.

    >>> percent(0.1234), percent(None)
    ('12.3 %', 'n/a')
    """
    return "n/a" if share is None else f"{100 * share:.1f} %"


def interval(ends: Sequence[float | None] | None) -> str:
    """Two shares as an interval in per cent.

    >>> interval((0.1, 0.25)), interval(None)
    ('10.0 .. 25.0 %', 'n/a')
    """
    if ends is None or ends[0] is None or ends[1] is None:
        return "n/a"
    return f"{100 * ends[0]:.1f} .. {100 * ends[1]:.1f} %"
