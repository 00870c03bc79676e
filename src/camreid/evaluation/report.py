"""Numbers as evidence: retrieval, closed-set accuracy with its coverage, and the leak table."""

import math
from collections.abc import Set
from dataclasses import dataclass
from typing import Any

import torch
from rich.table import Table

from camreid.errors import NoValidQuery
from camreid.evaluation.metric import scalars
from camreid.evaluation.ranking import RankingResult


@dataclass(frozen=True)
class Evidence:
    """What a test has shown.

    Attributes:
        result: the ranking.
        identity: `accuracy`, `coverage` and `images` of the closed set.
        seen: identities that the tested weights were trained on.
    """

    result: RankingResult
    identity: dict[str, float]
    seen: Set[int]

    def summary(self) -> dict[str, Any]:
        """All numbers, ready for JSON; what could not be measured is None."""
        accuracy = self.identity["accuracy"]
        return {
            "retrieval": scalars(self.result),
            "protocol": self.result.protocol,
            "identity": {**self.identity, "accuracy": None if math.isnan(accuracy) else accuracy},
            "leak": leak_table(self.result, self.seen),
        }


def leak_table(result: RankingResult, seen: Set[int]) -> dict[str, dict[str, Any]]:
    """Retrieval over all queries, over people the weights have seen, and over people they have not.

    Args:
        result: a ranking.
        seen: identities that the weights were trained on.

    Returns:
        For `all`, `seen` and `unseen`: `identities`, `queries`, and the retrieval numbers, None
        where no query is valid.
    """
    known = torch.tensor([int(pid) in seen for pid in result.query_pids], dtype=torch.bool)
    groups = {"all": torch.ones_like(known), "seen": known, "unseen": ~known}
    table: dict[str, dict[str, Any]] = {}
    for name, queries in groups.items():
        people = {
            "identities": len(set(result.query_pids[queries].tolist())),
            "queries": int(queries.sum()),
        }
        try:
            table[name] = {**people, **scalars(result.of(queries))}
        except NoValidQuery:
            table[name] = {**people, **dict.fromkeys(scalars(result))}
    return table


def evidence_tables(summary: dict[str, Any], title: str) -> list[Table]:
    """Tables for the terminal: the numbers, and the leak table where a tested person was seen.

    `accuracy` is that of the closed set, over the share of images (`coverage`) with a row.
    """
    retrieval, identity = summary["retrieval"], summary["identity"]
    main = Table(title=title, title_justify="left")
    for name in ("mAP", "Rank-1", "Rank-5", "Rank-10", "mINP", "queries", "accuracy", "coverage"):
        main.add_column(name, justify="right")
    main.add_row(
        *(percent(retrieval[key]) for key in ("mAP", "rank1", "rank5", "rank10", "mINP")),
        f"{retrieval['valid_queries']:.0f}",
        percent(identity["accuracy"]),
        percent(identity["coverage"]),
    )
    leak = summary["leak"]
    if not leak["seen"]["queries"]:
        return [main]
    table = Table(
        title="Leak: tested people whom the weights were trained on", title_justify="left"
    )
    for name in ("people", "identities", "queries", "mAP", "Rank-1", "mINP"):  # valid queries
        table.add_column(name, justify="right")
    for name, row in leak.items():
        numbers = (percent(row[key]) for key in ("mAP", "rank1", "mINP"))
        valid = f"{row['valid_queries'] or 0:.0f}"
        table.add_row(name, str(row["identities"]), valid, *numbers)
    return [main, table]


def percent(share: float | None) -> str:
    """A share as per cent with one digit.

    >>> percent(0.1234), percent(None)
    ('12.3 %', 'n/a')
    """
    return "n/a" if share is None else f"{100 * share:.1f} %"
