"""Run folders side by side: what differs, and whether one is better."""

from camreid.comparing.comparison import Comparison, compare_runs
from camreid.comparing.configs import differing
from camreid.comparing.pairing import Pair, Paired, pair
from camreid.comparing.runs import RunFolder, read_run
from camreid.comparing.tables import grids, markdown, rich_table

__all__ = [
    "Comparison",
    "Pair",
    "Paired",
    "RunFolder",
    "compare_runs",
    "differing",
    "grids",
    "markdown",
    "pair",
    "read_run",
    "rich_table",
]
