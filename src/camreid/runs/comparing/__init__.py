"""Run folders side by side: what differs, and whether one is better."""

from camreid.runs.comparing.comparison import Comparison, compare_runs
from camreid.runs.comparing.configs import differing
from camreid.runs.comparing.pairing import Pair, Paired, pair
from camreid.runs.comparing.runs import RunFolder, read_run

__all__ = [
    "Comparison",
    "Pair",
    "Paired",
    "RunFolder",
    "compare_runs",
    "differing",
    "pair",
    "read_run",
]
