"""The table of a head check."""

from collections.abc import Mapping, Sequence
from typing import Any

from camreid.runs.table import Table, percent

_COUNTS = ("rows", "dim", "identities", "shared", "unknown")


def head_check_table(title: str, heads: Sequence[Mapping[str, Any]]) -> Table:
    """One row for each head.

    Args:
        title: of the table.
        heads: the fields of each head's `HeadFit`.
    """
    rows = [
        (
            head["head"],
            *(str(head[key]) for key in _COUNTS),
            percent(head["coverage"]),
            percent(head["image_coverage"]),
        )
        for head in heads
    ]
    return Table(title, ("head", *_COUNTS, "coverage", "of images"), rows)
