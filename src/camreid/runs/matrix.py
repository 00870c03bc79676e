"""The record of a matrix, experts by query cameras, and its tables."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from camreid.evaluation import Difference
from camreid.provenance import Record
from camreid.runs.metrics import limits, points, verdict
from camreid.runs.table import Table, interval, percent

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
    differences: dict[str, dict[str, Difference]]  # of each row from the strongest expert
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

    @property
    def warnings(self) -> list[str]:
        """Leakage and other limits, each once."""
        return limits(self.rows, self.partial)

    @property
    def verdict(self) -> str:
        """The best expert, and whether the best other row is better, in a sentence."""
        best, count = self.strongest, self.compared["identities"]
        unseen = " that no row was trained on" if self.compared["leaks"] else ""
        if best is None:
            return f"No verdict: there is no tested identity{unseen}."
        own = percent((self.compared["rows"] or self.rows)[best]["retrieval"]["mAP"])
        texts = [f"{best} is the best expert: {own} mAP on {count} identities{unseen}"]
        if found := {name: scores["mAP"] for name, scores in self.differences.items()}:
            other = max(found, key=lambda name: found[name].value)
            texts.append(verdict(other, best, found[other], count))
        return f"{'. '.join(texts)}."

    def tables(self) -> list[Table]:
        """Scores of compared and all identities by query camera, coverage, and differences."""
        compared = self.compared
        unseen = f"{compared['identities']} identities that are unseen by all rows"
        shown = [(compared["rows"], unseen)] * bool(compared["rows"]) + [(self.rows, self.protocol)]
        tables = [t for some in shown for score in SCORES for t in self._by_camera(score, *some)]
        models = {**self.experts, **self.baselines}.items()
        rows = [[n, str(m["rows"]), percent(m["coverage"]), _leak(m)] for n, m in models]
        limits = [*self.notes, *(f"No row {name}: {why}" for name, why in self.left_out.items())]
        columns = ("", "rows", "coverage", "leak")
        tables.append(Table("Coverage of the train identities", columns, rows, limits))
        return [*tables, self._differences()] if self.differences else tables

    def _by_camera(self, score: str, rows: Rows, where: str) -> list[Table]:
        """Tables of at most 6 cameras, which fit 80 columns; each best expert has a star."""
        fair, tables = rows is self.compared["rows"] or not self.compared["leaks"], []
        keys = [*map(str, self.cameras), "all"]
        parts = {name: {**row["by_camera"], "all": row} for name, row in rows.items()}
        best = {}
        for key in keys:
            own = {n: parts[n][key]["retrieval"][score] for n in self.experts if parts[n][key]}
            best[key] = max(own, key=own.__getitem__, default="") if fair else ""
        title = f"{SCORES[score]} in % by query camera, {where}; below, the 95 % interval"
        title += "; * is the best expert of a column" if fair else ""
        for some in (keys[start : start + 7] for start in range(0, len(keys), 7)):
            cells = []
            for name, part in parts.items():
                scores = [_cell(part[k], score, best[k] == name) for k in some]
                cells.append([name, *scores, _leak(self.rows[name])])
            names = (key if key == "all" else f"c{key}" for key in some)
            tables.append(Table(title, ("", *names, "leak"), cells, folded=not fair))
        return tables

    def _differences(self) -> Table:
        rows = []
        for name, scores in self.differences.items():
            found = (scores[score] for score in SCORES)
            cells = [cell for d in found for cell in (points(d), f"{d.p:.3f}")]
            rows.append([name, *cells, _leak(self.rows[name])])
        columns = ("", *(column for score in SCORES.values() for column in (score, "p")), "leak")
        title = f"Difference from {self.strongest} (largest mAP) in points; below, 95 % intervals"
        chosen = "The test that selects this expert favours it; p is not adjusted for rows."
        return Table(title, columns, rows, [chosen])


def _leak(row: Mapping[str, Any]) -> str:
    sign = "" if row["seen_complete"] else "≥ "
    return f"{sign}{row['leak']['seen']['identities']}/{row['leak']['all']['identities']}"


def _cell(part: Mapping[str, Any] | None, score: str, best: bool) -> str:
    if part is None:
        return "n/a"
    ends = interval(*part["intervals"][score]).replace("..", "..\n")
    return f"{'*' * best}{100 * part['retrieval'][score]:.1f}\n{ends}".rstrip()
