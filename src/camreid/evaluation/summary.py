"""The numbers of a test: retrieval with intervals, closed-set accuracy, protocols, leakage."""

from collections.abc import Set
from dataclasses import dataclass
from typing import Any

import torch

from camreid.errors import NoValidQuery
from camreid.evaluation.bootstrap import intervals
from camreid.evaluation.ranking import Protocols
from camreid.evaluation.result import RankingResult


@dataclass(frozen=True)
class EvaluationResult:
    """The outcome of a test."""

    ranking: RankingResult
    seen: Set[int]  # training identities of the tested weights
    identity: dict[str, float] | None = None  # of the closed set; None without logits
    protocols: Protocols | None = None  # None where re-ranked

    def summary(self) -> dict[str, Any]:
        """All numbers as nested plain values; NaN where a number does not exist."""
        numbers = {
            "retrieval": self.ranking.scalars(),
            "intervals": intervals(self.ranking),
            "protocol": self.ranking.protocol,
            "dropped_queries": int((~self.ranking.valid).sum()),
            "identity": self.identity,
            "leak": leakage(self.ranking, self.seen),
        }
        if self.protocols is None:
            return numbers
        results = {
            protocol + ("" if distractors else ", without distractors"): result.scalars()
            for (protocol, distractors), result in self.protocols.results.items()
        }
        columns = vars(self.protocols.camera_pairs).items()
        pairs = {name: torch.as_tensor(column).tolist() for name, column in columns}
        return {**numbers, "protocols": results, "camera_pairs": pairs}


def leakage(result: RankingResult, seen: Set[int]) -> dict[str, dict[str, Any]]:
    """Numbers over `all` queries, and those of identities `seen` and `unseen` in training.

    Numbers of identities and queries, and the retrieval numbers, None where no query is valid.
    """
    known = torch.isin(result.query_pids, torch.tensor(sorted(seen), dtype=torch.int64))
    table: dict[str, dict[str, Any]] = {}
    for name, queries in {"all": known | True, "seen": known, "unseen": ~known}.items():
        identities = len(torch.unique(result.query_pids[queries]))
        try:
            numbers: dict[str, Any] = dict(result.of(queries).scalars())
        except NoValidQuery:
            numbers = dict.fromkeys(result.scalars())
        table[name] = {"identities": identities, "queries": int(queries.sum()), **numbers}
    return table
