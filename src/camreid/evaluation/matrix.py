"""Experts by cameras: what each row of the table has shown, on the same queries."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor

from camreid.errors import NoValidQuery
from camreid.evaluation.bootstrap import compare, intervals
from camreid.evaluation.protocols import Protocols
from camreid.evaluation.result import RankingResult
from camreid.evaluation.summary import EvaluationResult

NUMBERS = ("mAP", "rank1")


@dataclass(frozen=True)
class Row:
    """An expert, or several put together, as tested.

    Attributes:
        result: the headline ranking.
        query_cameras: (Q,) int64 camera of each query, 1-based.
        seen: identities that the weights were trained on.
        protocols: the other protocols, None where re-ranked.
        seen_complete: whether nobody else was seen.
    """

    result: RankingResult
    query_cameras: Tensor
    seen: frozenset[int]
    protocols: Protocols | None = None
    seen_complete: bool = True

    def summary(self) -> dict[str, Any]:
        """All numbers, ready for JSON; `leak` is None if nothing is known of who was seen."""
        evidence = EvaluationResult(self.result, self.seen, protocols=self.protocols)
        summary = {k: v for k, v in evidence.summary().items() if k != "identity"}
        if not self.seen_complete and not self.seen:
            summary["leak"] = None
        return {**summary, "seen_complete": self.seen_complete, **self.numbers()}

    def numbers(self) -> dict[str, Any]:
        """Retrieval with intervals, over all queries and by camera."""
        ends = {name: list(pair) for name, pair in intervals(self.result).items()}
        cameras = by_camera(self.result, self.query_cameras)
        return {"retrieval": self.result.scalars(), "intervals": ends, "by_camera": cameras}


@dataclass(frozen=True)
class Fair:
    """The queries that rows can be compared on: of people whom none of the rows has seen.

    Attributes:
        queries: (Q,) bool.
        identities: how many people they are of.
        leaks: whether there are others.
        complete: whether it is known of all rows whom they have seen.
    """

    queries: Tensor
    identities: int
    leaks: bool
    complete: bool

    @classmethod
    def of(cls, rows: Mapping[str, Row]) -> "Fair":
        """Of rows of the same queries."""
        first = next(iter(rows.values())).result
        seen = sorted(set().union(*(row.seen for row in rows.values())))
        queries = ~torch.isin(first.query_pids, torch.tensor(seen, dtype=torch.int64))
        people = torch.unique(first.query_pids[queries & first.valid])
        complete = all(row.seen_complete for row in rows.values())
        return cls(queries, len(people), not bool(queries.all()), complete)

    def rows(self, rows: Mapping[str, Row]) -> dict[str, Row]:
        """The rows on these queries alone, without protocols; none if no query has a match."""
        if not self.identities:
            return {}
        cameras = next(iter(rows.values())).query_cameras[self.queries]
        return {
            name: replace(
                row, result=row.result.of(self.queries), query_cameras=cameras, protocols=None
            )
            for name, row in rows.items()
        }


def comparison(rows: Mapping[str, Row], experts: Sequence[str]) -> dict[str, Any]:
    """The best experts and who is better than the best, as `matrix.json` has it.

    Args:
        rows: of the same queries.
        experts: names of those that can be the best.

    Returns:
        `compared`: whether a row `leaks`, whether all that rows have seen is known (`complete`),
        how many `identities` and `queries` are left for a fair comparison, and the `rows` on them,
        where they are not all; `best`, see `best_by_camera`; `differences` from the expert of the
        largest mAP, none where there is no such expert.
    """
    fair = Fair.of(rows)
    fair_rows = fair.rows(rows)
    numbers = {name: row.numbers() for name, row in fair_rows.items()}
    best = best_by_camera({name: numbers[name] for name in experts if name in numbers})
    strongest = best["all"]["mAP"]
    valid = next(iter(rows.values())).result.valid
    return {
        "compared": {
            "leaks": fair.leaks,
            "complete": fair.complete,
            "identities": fair.identities,
            "queries": int((fair.queries & valid).sum()),
            "rows": numbers if fair.leaks else {},
        },
        "best": best,
        "differences": differences(fair_rows, strongest) if strongest else {},
    }


def by_camera(result: RankingResult, query_cameras: Tensor) -> dict[str, dict[str, Any] | None]:
    """Numbers and intervals of the queries of each camera, None where none of them is valid.

    Args:
        result: a ranking.
        query_cameras: (Q,) int64, of its queries.
    """
    found: dict[str, dict[str, Any] | None] = {}
    for camera in torch.unique(query_cameras).tolist():
        try:
            part = result.of(query_cameras == camera)
        except NoValidQuery:
            found[str(camera)] = None
            continue
        ends = {name: list(pair) for name, pair in intervals(part).items()}
        found[str(camera)] = {"retrieval": part.scalars(), "intervals": ends}
    return found


def best_by_camera(summaries: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, str | None]]:
    """Who has the largest mAP and Rank-1 for each query camera and over `all`, first of equals.

    None where nobody is better than 0, or where no query has a match.

    Args:
        summaries: `retrieval` and `by_camera` of each row, by name.
    """
    cameras = list(dict.fromkeys(c for s in summaries.values() for c in s["by_camera"]))
    best: dict[str, dict[str, str | None]] = {}
    for camera in (*cameras, "all"):
        found = {
            name: part["retrieval"]
            for name, summary in summaries.items()
            if (part := summary if camera == "all" else summary["by_camera"].get(camera))
        }
        best[camera] = {number: _best(found, number) for number in NUMBERS}
    return best


def _best(found: Mapping[str, Mapping[str, float]], number: str) -> str | None:
    name = max(found, key=lambda name: found[name][number], default=None)
    return name if name is not None and found[name][number] > 0 else None


def differences(rows: Mapping[str, Row], against: str) -> dict[str, dict[str, dict[str, float]]]:
    """By how much each row is better than one of them; see `compare`.

    Args:
        rows: by name.
        against: whose numbers are subtracted.
    """
    return {
        name: {k: asdict(d) for k, d in compare(row.result, rows[against].result).items()}
        for name, row in rows.items()
        if name != against
    }
