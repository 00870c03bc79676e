"""Experts by cameras: the numbers of each row, and paired differences on the same queries."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from camreid.errors import NoValidQuery
from camreid.evaluation.bootstrap import compare, intervals
from camreid.evaluation.result import RankingResult
from camreid.evaluation.summary import leakage


@dataclass(frozen=True)
class Row:
    """An expert, a baseline or a fusion, as tested.

    Attributes:
        ranking: of all queries.
        query_cameras: (Q,) int64 camera of each query, 1-based.
        seen: training identities of its weights.
        seen_complete: whether `seen` are all.
    """

    ranking: RankingResult
    query_cameras: Tensor
    seen: frozenset[int]
    seen_complete: bool = True

    def summary(self) -> dict[str, Any]:
        """`numbers` of all queries, and `leak`, see `leakage`."""
        leak = leakage(self.ranking, self.seen)
        numbers = self.numbers(torch.ones_like(self.ranking.valid))
        return {**numbers, "leak": leak, "seen_complete": self.seen_complete}

    def numbers(self, queries: Tensor) -> dict[str, Any]:
        """`retrieval` and 95 % `intervals` of some queries, also `by_camera`.

        Args:
            queries: (Q,) bool, of which one has a match.

        Returns:
            Nested plain values; a camera without a match is None.
        """
        cameras = torch.unique(self.query_cameras).tolist()
        by_camera: dict[str, Any] = dict.fromkeys(map(str, cameras))
        for camera in cameras:
            with suppress(NoValidQuery):
                part = self.ranking.of(queries & (self.query_cameras == camera))
                by_camera[str(camera)] = _scores(part)
        return {**_scores(self.ranking.of(queries)), "by_camera": by_camera}


def comparison(rows: Mapping[str, Row], experts: Sequence[str]) -> dict[str, Any]:
    """The strongest expert and the difference of each other row from it.

    Rows are compared on the identities that are training identities of none of them.

    Args:
        rows: by name, of the same queries.
        experts: names of the rows among which the strongest is chosen.

    Returns:
        `compared`: whether a row `leaks`, whether all training identities are known (`complete`),
        the `identities` and valid `queries` that are compared, and where these are not all, the
        numbers of the `rows` on them; `strongest`, the expert with the largest mAP, None where
        nothing can be compared; `differences` from it by row and score, see `compare`.
    """
    ranking = next(iter(rows.values())).ranking
    seen = sorted(set().union(*(row.seen for row in rows.values())))
    unseen = ~torch.isin(ranking.query_pids, torch.tensor(seen, dtype=torch.int64))
    valid = unseen & ranking.valid
    fair = {name: row.ranking.of(unseen) for name, row in rows.items()} if valid.any() else {}
    strongest = max(experts, key=lambda name: fair[name].mAP) if fair else None
    leaks = not bool(unseen.all())
    return {
        "compared": {
            "leaks": leaks,
            "complete": all(row.seen_complete for row in rows.values()),
            "identities": len(torch.unique(ranking.query_pids[valid])),
            "queries": int(valid.sum()),
            "rows": {name: rows[name].numbers(unseen) for name in fair if leaks},
        },
        "strongest": strongest,
        "differences": {
            name: {k: asdict(d) for k, d in compare(result, fair[strongest]).items()}
            for name, result in fair.items()
            if strongest is not None and name != strongest
        },
    }


def _scores(ranking: RankingResult) -> dict[str, Any]:
    return {"retrieval": ranking.scalars(), "intervals": intervals(ranking)}
