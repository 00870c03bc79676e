"""The record of a matrix, experts by query cameras, and its tables."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from camreid.evaluation import Difference
from camreid.runs.metrics import points
from camreid.runs.record import Record
from camreid.runs.table import Table, percent

SCORES = {"mAP": "mAP", "rank1": "Rank-1"}
Rows = Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True, kw_only=True)
class Matrix(Record):
    """`matrix.json`: every row on every query camera."""

    file = "matrix.json"
    experts: dict[str, dict[str, Any]]  # numbers by name; of a checkpoint also path, camera, rows
    baselines: dict[str, dict[str, Any]]  # checkpoints that are not fused, likewise
    fusions: dict[str, dict[str, Any]]  # the experts together, likewise
    cameras: list[int]  # of the queries, 1-based
    compared: dict[str, Any]  # identities and queries that no row was trained on; rows on them
    strongest: str | None  # expert with the largest mAP on the compared identities
    differences: dict[str, dict[str, dict[str, float]]]  # of each row from the strongest expert
    evaluation: dict[str, Any]  # the options of the test, and below as in `Metrics`
    protocol: str
    partial: bool = False
    split: dict[str, Any] | None = None
    origin: dict[str, Any] | None = None
    left_out: dict[str, str] = field(default_factory=dict)  # fusions, with the reason
    notes: list[str] = field(default_factory=list)  # limits of the comparison

    @property
    def rows(self) -> dict[str, dict[str, Any]]:
        """All rows by name."""
        return {**self.experts, **self.baselines, **self.fusions}

    def tables(self) -> list[Table]:
        """Scores by query camera of all and compared identities, coverage, and differences."""
        compared = self.compared
        unseen = f"{compared['identities']} identities that are unseen by all rows"
        notes = ["Only a part of the images was tested."] if self.partial else []
        if compared["leaks"]:
            notes.append(f"This split leaks. Experts are compared on the {unseen}.")
        if not compared["complete"]:
            notes.append("Not all training identities are known: leakage may be larger.")
        tables = [self._by_camera(self.rows, score, self.protocol, notes) for score in SCORES]
        if compared["rows"]:
            tables += [self._by_camera(compared["rows"], score, unseen, notes) for score in SCORES]
        rows = [
            [name, str(row["rows"]), percent(row["coverage"]), _leak(row)]
            for name, row in {**self.experts, **self.baselines}.items()
        ]
        limits = [*self.notes, *(f"No row {name}: {why}" for name, why in self.left_out.items())]
        columns = ("", "rows", "coverage", "leak")
        tables.append(Table("Coverage of the train identities", columns, rows, [*notes, *limits]))
        return [*tables, self._differences(notes)] if self.differences else tables

    def _by_camera(self, rows: Rows, score: str, where: str, notes: list[str]) -> Table:
        keys = [*map(str, self.cameras), "all"]
        parts = {name: {**row["by_camera"], "all": row} for name, row in rows.items()}
        cells = [
            [name, *(_cell(part[key], score) for key in keys), _leak(self.rows[name])]
            for name, part in parts.items()
        ]
        best = ["best"]
        for key in keys:
            scores = {n: parts[n][key]["retrieval"][score] for n in self.experts if parts[n][key]}
            best.append(max(scores, key=scores.__getitem__, default="n/a"))
        if rows is self.compared["rows"] or not self.compared["leaks"]:
            cells.append([*best, ""])
        columns = ("", *(f"c{camera}" for camera in self.cameras), "all", "leak")
        title = f"{SCORES[score]} in % by query camera, {where}; below, the 95 % interval"
        return Table(title, columns, cells, notes)

    def _differences(self, notes: list[str]) -> Table:
        rows = []
        for name, scores in self.differences.items():
            found = [Difference(**scores[score]) for score in SCORES]
            cells = [cell for d in found for cell in (points(d), f"{d.p:.3f}")]
            rows.append([name, *cells, _leak(self.rows[name])])
        columns = ("", *(column for score in SCORES.values() for column in (score, "p")), "leak")
        title = f"Difference from {self.strongest} (largest mAP) in points; below, 95 % intervals"
        chosen = "The test that selects this expert favours it; p is not adjusted for rows."
        return Table(title, columns, rows, [*notes, chosen])


def _leak(row: Mapping[str, Any]) -> str:
    """Number of test identities that are training identities of a row, of all test identities."""
    sign = "" if row["seen_complete"] else "≥ "
    return f"{sign}{row['leak']['seen']['identities']}/{row['leak']['all']['identities']}"


def _cell(part: Mapping[str, Any] | None, score: str) -> str:
    if part is None:
        return "n/a"
    low, high = part["intervals"][score]
    ends = "" if low is None else f"\n{100 * low:.0f}-{100 * high:.0f}"
    return f"{100 * part['retrieval'][score]:.1f}{ends}"
