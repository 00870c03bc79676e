"""Experts by cameras: the numbers of each row, and paired differences on the same queries."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor

from camreid.errors import NoValidQuery
from camreid.evaluation.bootstrap import compare, intervals
from camreid.evaluation.result import RankingResult
from camreid.evaluation.summary import leakage

SCORES = {"mAP": "mAP", "rank1": "Rank-1"}


@dataclass(frozen=True)
class Row:
    """An expert, a baseline or a fusion, as tested.

    Attributes:
        result: its ranking.
        query_cameras: (Q,) int64 camera of each query, 1-based.
        seen: training identities of its weights.
        seen_complete: whether `seen` are all.
    """

    result: RankingResult
    query_cameras: Tensor
    seen: frozenset[int]
    seen_complete: bool = True

    def summary(self) -> dict[str, Any]:
        """`numbers`, and `leak`: see `leakage`; None if no training identity is known."""
        known = self.seen or self.seen_complete
        leak = leakage(self.result, self.seen) if known else None
        return {**self.numbers(), "leak": leak, "seen_complete": self.seen_complete}

    def numbers(self) -> dict[str, Any]:
        """`retrieval` with 95 % `intervals`; the same `by_camera`, None without a valid query."""
        cameras = torch.unique(self.query_cameras).tolist()
        parts = {str(camera): self._of(self.query_cameras == camera) for camera in cameras}
        by_camera = {camera: part and _scores(part.result) for camera, part in parts.items()}
        return {**_scores(self.result), "by_camera": by_camera}

    def _of(self, queries: Tensor) -> "Row | None":
        """The row on some queries, (Q,) bool; None if none of them is valid."""
        try:
            part = self.result.of(queries)
        except NoValidQuery:
            return None
        return replace(self, result=part, query_cameras=self.query_cameras[queries])


def comparison(rows: Mapping[str, Row], experts: Sequence[str]) -> dict[str, Any]:
    """The best expert, and the difference of each other row from it.

    Rows are compared on identities that are training identities of none of them.

    Args:
        rows: by name, of the same queries.
        experts: names of the rows among which the best is chosen.

    Returns:
        `compared`: whether a row `leaks`, whether all training identities are known (`complete`),
        the `identities` and valid `queries` that are compared, and the numbers of the `rows` on
        them where these are not all. `best`: name of the expert with the largest mAP and Rank-1,
        by query camera and over `all`; None where there is no query. `differences` from the expert
        with the largest mAP, see `compare`.
    """
    first = next(iter(rows.values())).result
    seen = torch.tensor(
        sorted(set().union(*(row.seen for row in rows.values()))), dtype=torch.int64
    )
    unseen = ~torch.isin(first.query_pids, seen)
    fair = {name: part for name, row in rows.items() if (part := row._of(unseen))}
    numbers = {name: row.numbers() for name, row in fair.items()}
    best = _best({name: numbers[name] for name in experts if name in fair})
    strongest = best["all"]["mAP"]
    valid = unseen & first.valid
    return {
        "compared": {
            "leaks": not bool(unseen.all()),
            "complete": all(row.seen_complete for row in rows.values()),
            "identities": len(torch.unique(first.query_pids[valid])),
            "queries": int(valid.sum()),
            "rows": {} if unseen.all() else numbers,
        },
        "best": best,
        "differences": {
            name: {k: asdict(d) for k, d in compare(row.result, fair[strongest].result).items()}
            for name, row in fair.items()
            if strongest is not None and name != strongest
        },
    }


def _best(numbers: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, str | None]]:
    """Name of the row with the largest score, the first of equals, by camera and over `all`."""
    cells = {name: {**row["by_camera"], "all": row} for name, row in numbers.items()}
    cameras = ["all", *(camera for row in numbers.values() for camera in row["by_camera"])]
    found: dict[str, dict[str, str | None]] = {}
    for camera in dict.fromkeys(cameras):
        scores = {n: row[camera]["retrieval"] for n, row in cells.items() if row.get(camera)}
        found[camera] = {score: _largest(scores, score) for score in SCORES}
    return found


def _largest(scores: Mapping[str, Mapping[str, float]], score: str) -> str | None:
    return max(scores, key=lambda name: scores[name][score], default=None)


def _scores(result: RankingResult) -> dict[str, Any]:
    return {"retrieval": result.scalars(), "intervals": intervals(result)}
