"""Experts by query cameras as tables."""

from collections.abc import Mapping
from typing import Any

from camreid.evaluation.matrix import SCORES
from camreid.runs.folder import Matrix
from camreid.runs.table import Table, percent

Row = Mapping[str, Any]


def matrix_tables(matrix: Matrix) -> list[Table]:
    """Each score by query camera, coverage with leakage, and differences from the best expert.

    Where a row leaks, the scores are shown on the compared identities too.
    """
    compared = matrix.compared
    unseen = f"{compared['identities']} identities that no row is known to be trained on"
    notes = ["Only a part of the images was tested."] if matrix.partial else []
    if compared["leaks"]:
        notes.append(f"This split leaks. Experts are compared on the {unseen}.")
    if not compared["complete"]:
        notes.append("Not all training identities are known: leakage may be larger.")
    tables = [_by_camera(matrix, score, {}, notes) for score in SCORES]
    if compared["rows"]:
        where = f" on the {unseen}"
        tables += [_by_camera(matrix, score, compared["rows"], notes, where) for score in SCORES]
    tables.append(_coverage(matrix, notes))
    return [*tables, _differences(matrix, notes)] if matrix.differences else tables


def leakage(row: Row) -> str:
    """Test identities that are training identities of a row.

    >>> leakage({"leak": {"seen": {"identities": 3}, "all": {"identities": 9}}})
    '3 of 9'
    """
    if row["leak"] is None:
        return "n/a"
    least = "" if row.get("seen_complete", True) else "at least "
    return f"{least}{row['leak']['seen']['identities']} of {row['leak']['all']['identities']}"


def _by_camera(
    matrix: Matrix, score: str, numbers: Mapping[str, Row], notes: list[str], where: str = ""
) -> Table:
    """A score with its interval; `numbers` replace those of the rows."""
    keys = [*map(str, matrix.cameras), "all"]
    rows = []
    for name, row in matrix.rows.items():
        own = numbers.get(name, row)
        cells = {**own["by_camera"], "all": own}
        rows.append([name, *(_cell(cells.get(key), score) for key in keys), leakage(row)])
    if where or not matrix.compared["leaks"]:
        best = (matrix.best.get(key, {}).get(score) for key in keys)
        rows.append(["best", *(name or "n/a" for name in best), ""])
    columns = ("", *(f"c{camera}" for camera in matrix.cameras), "all", "leakage")
    title = f"{SCORES[score]} in % by query camera{where}, {matrix.protocol}; below, 95 % intervals"
    return Table(title, columns, rows, notes)


def _cell(part: Row | None, score: str) -> str:
    if part is None:
        return "n/a"
    value, (low, high) = f"{100 * part['retrieval'][score]:.1f}", part["intervals"][score]
    return value if low is None else f"{value}\n{100 * low:.0f}..{100 * high:.0f}"


def _coverage(matrix: Matrix, notes: list[str]) -> Table:
    columns = ("", "rows", "coverage", "leakage", *(f"unseen {name}" for name in SCORES.values()))
    rows = []
    for name, row in matrix.rows.items():
        unseen = row["leak"]["unseen"] if row["leak"] else {}
        scores = (percent(unseen.get(score)) for score in SCORES)
        count = row.get("rows")
        shown = "n/a" if count is None else f"{count:,}"
        rows.append([name, shown, percent(row.get("coverage")), leakage(row), *scores])
    return Table("Coverage of the train identities, and leakage", columns, rows, notes)


def _differences(matrix: Matrix, notes: list[str]) -> Table:
    """Paired differences in points, below them the 95 % intervals."""
    columns = ["", *(column for name in SCORES.values() for column in (name, "p")), "leakage"]
    rows = []
    for name, found in matrix.differences.items():
        cells = [name]
        for score in SCORES:
            value, low, high = (found[score][key] for key in ("value", "low", "high"))
            ends = "" if low is None else f"\n{100 * low:+.1f}..{100 * high:+.1f}"
            cells += [f"{100 * value:+.1f}{ends}", f"{found[score]['p']:.3f}"]
        rows.append([*cells, leakage(matrix.rows[name])])
    title = f"Difference in points from {matrix.best['all']['mAP']}, the expert of the highest mAP"
    chosen = "That expert was chosen on this test, which favours it; p is not adjusted for rows."
    return Table(title, columns, rows, [*notes, chosen])
