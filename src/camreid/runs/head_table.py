"""The table of a head check."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from camreid.evaluation.report import percent

_COLUMNS = ("rows", "dim", "identities", "shared", "unknown", "coverage", "of images")


def print_head_check(title: str, heads: Sequence[Mapping[str, Any]]) -> None:
    """Print one line for each head.

    Args:
        title: of the table.
        heads: the fields of each head's `HeadFit`.
    """
    table = Table(title=title, title_justify="left")
    table.add_column("head")
    for column in _COLUMNS:
        table.add_column(column, justify="right")
    for head in heads:
        members = head["members"]
        rows = head["rows"] if members is None else f"{members}/{head['rows']}"
        numbers = (rows, *(head[key] for key in ("dim", "identities", "shared", "unknown")))
        coverage = (percent(head["coverage"]), percent(head["image_coverage"]))
        table.add_row(head["head"], *map(str, numbers), *coverage)
    Console().print(table)
