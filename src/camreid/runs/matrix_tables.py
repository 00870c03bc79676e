"""Experts by query cameras as tables."""

from collections.abc import Mapping
from typing import Any

from camreid.runs.folder import Matrix
from camreid.runs.table import Table, interval, percent

SCORES = {"mAP": "mAP", "rank1": "Rank-1"}
Rows = Mapping[str, Mapping[str, Any]]


def matrix_tables(matrix: Matrix) -> list[Table]:
    """Each score by query camera, coverage, and differences from the strongest expert.

    Where a row leaks, scores are also shown on the compared identities.
    """
    compared = matrix.compared
    unseen = f"{compared['identities']} identities that no row is known to be trained on"
    notes = ["Only a part of the images was tested."] if matrix.partial else []
    if compared["leaks"]:
        notes.append(f"This split leaks. Experts are compared on the {unseen}.")
    if not compared["complete"]:
        notes.append("Not all training identities are known: leakage may be larger.")
    tables = [_by_camera(matrix, matrix.rows, score, matrix.protocol, notes) for score in SCORES]
    if compared["rows"]:
        tables += [_by_camera(matrix, compared["rows"], score, unseen, notes) for score in SCORES]
    rows = [
        [name, str(row["rows"]), percent(row["coverage"]), leaked(row)]
        for name, row in {**matrix.experts, **matrix.baselines}.items()
    ]
    columns = ("", "rows", "coverage", "leak")
    tables.append(Table("Coverage of the train identities", columns, rows, notes))
    return [*tables, _differences(matrix, notes)] if matrix.differences else tables


def leaked(row: Mapping[str, Any]) -> str:
    """Test identities that are training identities of a row, of all test identities.

    >>> leaked({"leak": {"seen": {"identities": 3}, "all": {"identities": 9}}})
    '3/9'
    """
    sign = "" if row.get("seen_complete", True) else "≥ "
    return f"{sign}{row['leak']['seen']['identities']}/{row['leak']['all']['identities']}"


def _by_camera(matrix: Matrix, rows: Rows, score: str, where: str, notes: list[str]) -> Table:
    """A score with its interval, in per cent, and the expert with the largest."""
    keys = [*map(str, matrix.cameras), "all"]
    parts = {name: {**row["by_camera"], "all": row} for name, row in rows.items()}
    cells = [
        [name, *(_cell(part[key], score) for key in keys), leaked(matrix.rows[name])]
        for name, part in parts.items()
    ]
    best = ["best"]
    for key in keys:
        scores = {n: parts[n][key]["retrieval"][score] for n in matrix.experts if parts[n][key]}
        best.append(max(scores, key=scores.__getitem__, default="n/a"))
    if rows is matrix.compared["rows"] or not matrix.compared["leaks"]:
        cells.append([*best, ""])
    columns = ("", *(f"c{camera}" for camera in matrix.cameras), "all", "leak")
    title = f"{SCORES[score]} in % by query camera, {where}; below, the 95 % interval"
    return Table(title, columns, cells, notes)


def _cell(part: Mapping[str, Any] | None, score: str) -> str:
    if part is None:
        return "n/a"
    low, high = part["intervals"][score]
    ends = "" if low is None else f"\n{100 * low:.0f}-{100 * high:.0f}"
    return f"{100 * part['retrieval'][score]:.1f}{ends}"


def _differences(matrix: Matrix, notes: list[str]) -> Table:
    rows = []
    for name, scores in matrix.differences.items():
        found = [scores[score] for score in SCORES]
        values = [f"{100 * d['value']:+.1f}\n{interval(d['low'], d['high'])}" for d in found]
        cells = zip(values, (f"{d['p']:.3f}" for d in found), strict=True)
        rows.append([name, *(cell for pair in cells for cell in pair), leaked(matrix.rows[name])])
    columns = ("", *(column for score in SCORES.values() for column in (score, "p")), "leak")
    title = f"Points above {matrix.strongest}, the expert of the largest mAP; below, 95 % intervals"
    chosen = "That expert was chosen on this test, which favours it; p is not adjusted for rows."
    return Table(title, columns, rows, [*notes, chosen])
