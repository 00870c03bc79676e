"""A comparison for people: tables for the terminal, and the same as Markdown."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.table import Table

from camreid.evaluation.report import percent
from camreid.runs.comparing.comparison import Comparison
from camreid.runs.comparing.configs import as_typed
from camreid.runs.comparing.heads import by_coverage
from camreid.runs.comparing.pairing import LEVEL, Pair, Paired
from camreid.runs.comparing.runs import RunFolder

SCORES = {"mAP": "mAP", "rank1": "Rank-1", "rank5": "Rank-5", "mINP": "mINP"}
NONE = "n/a"


@dataclass(frozen=True)
class Grid:
    """A table of text.

    Attributes:
        title: above it.
        header: one word for each column.
        rows: the cells, as many in each as there are columns.
    """

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]


def grids(comparison: Comparison) -> list[Grid]:
    """The tables of a comparison, those without a row left out."""
    runs = comparison.runs
    interval = f"{100 * LEVEL:.0f} %"
    columns = ("pair", "queries", "people", *SCORES.values(), "p (mAP)")
    found = [
        Grid(
            "Runs",
            ("", "folder", "split", "tested weights", "images seen"),
            list(map(_origin, runs)),
        ),
        Grid("Config: what differs", ("option", *_letters(runs)), _options(comparison)),
        Grid(
            "Head check",
            ("", "unknown", "heads", "rows", "shared", "unknown people", "coverage", "of images"),
            [_head(run) for run in runs if run.head],
        ),
        Grid(
            f"Test, with {interval} intervals",
            ("", "queries", *SCORES.values()),
            [_scores(run) for run in runs if run.metrics],
        ),
        Grid(
            "Leak: mAP of the tested people whom the weights have seen, and of the others",
            ("", "seen", "queries", "mAP", "unseen", "queries", "mAP"),
            [_leak(run) for run in runs if run.metrics],
        ),
        Grid(
            f"Paired differences in points, with {interval} intervals",
            columns,
            [row for pair in comparison.pairs for row in _differences(pair)],
        ),
    ]
    return [grid for grid in found if grid.rows]


def rich_table(grid: Grid) -> Table:
    """A grid for the terminal."""
    table = Table(title=grid.title, title_justify="left")
    for name in grid.header:
        table.add_column(name, overflow="fold")
    for row in grid.rows:
        table.add_row(*row)
    return table


def markdown(comparison: Comparison) -> str:
    """The whole comparison as a Markdown page."""
    parts = ["# Comparison", *comparison.verdicts]
    for grid in grids(comparison):
        lines = [grid.header, ["---"] * len(grid.header), *grid.rows]
        parts += [f"## {grid.title}", "\n".join(_line(cells) for cells in lines)]
    parts += ["## What this does not show", "\n".join(f"- {text}" for text in comparison.caveats)]
    if comparison.lacks:
        parts += ["## What is missing", comparison.lacks]
    return "\n\n".join(parts) + "\n"


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def _letters(runs: Sequence[RunFolder]) -> list[str]:
    return [run.letter for run in runs]


def _origin(run: RunFolder) -> list[str]:
    split = (run.metrics or {}).get("split") or {}
    named = f"{split.get('strategy')}, {split.get('digest')}" if split else NONE
    images = NONE if run.images_seen is None else f"{run.images_seen:,}"
    return [run.letter, str(run.path), named, run.weights or NONE, images]


def _options(comparison: Comparison) -> list[list[str]]:
    return [[key, *map(as_typed, values)] for key, values in comparison.config.items()]


def _head(run: RunFolder) -> list[str]:
    """The head with the least coverage, of those that have people to learn."""
    assert run.head is not None
    heads = run.head.get("heads") or []
    worst: Mapping[str, Any] = next(iter(by_coverage(heads)), {})
    counts = (str(worst.get(name, NONE)) for name in ("rows", "shared", "unknown"))
    shares = (percent(worst.get(name)) for name in ("coverage", "image_coverage"))
    return [run.letter, str(run.head.get("unknown")), str(len(heads)), *counts, *shares]


def _scores(run: RunFolder) -> list[str]:
    assert run.metrics is not None
    retrieval, ends = run.metrics["retrieval"], run.metrics["intervals"]
    cells = (
        f"{percent(retrieval[key])}{_ends(ends[key][0], ends[key][1], '.1f')}" for key in SCORES
    )
    return [run.letter, f"{retrieval['valid_queries']:.0f}", *cells]


def _leak(run: RunFolder) -> list[str]:
    assert run.metrics is not None
    cells = [run.letter]
    for group in ("seen", "unseen"):
        row = run.metrics["leak"][group]
        queries = f"{row['valid_queries'] or 0:.0f}"
        cells += [str(row["identities"]), queries, percent(row["mAP"])]
    return cells


def _differences(pair: Pair) -> list[list[str]]:
    name = f"{pair.first} - {pair.second}"
    found = [] if pair.shared is None else [_difference(name, pair.shared)]
    if pair.unseen is not None:
        found.append(_difference(f"{name}, unseen", pair.unseen))
    return found


def _difference(name: str, paired: Paired) -> list[str]:
    cells = []
    for key in SCORES:
        found = paired.differences[key]
        cells.append(f"{100 * found.value:+.1f}{_ends(found.low, found.high, '+.1f')}")
    p = f"{paired.differences['mAP'].p:.2g}"
    return [name, str(paired.queries), str(paired.people), *cells, p]


def _ends(low: float | None, high: float | None, form: str) -> str:
    """An interval of shares in per cent; nothing where there is none, as of one person."""
    if low is None or high is None or math.isnan(low):
        return ""
    return f" ({100 * low:{form}}..{100 * high:{form}})"
