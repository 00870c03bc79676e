"""Retrieval numbers, by query and over all queries."""

from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from camreid.errors import NoValidQuery

Protocol = Literal["cross-camera", "within-camera"]
NUMBERS = ("mAP", "mINP", "rank1", "rank5", "rank10")


@dataclass(frozen=True)
class RankingResult:
    """Retrieval numbers of one ranking, on the CPU; shares are in 0..1."""

    average_precision: Tensor  # (Q,) float64, NaN for a query without a match
    inverse_penalty: Tensor  # (Q,) float64, matches over the rank of the last (Ye et al. 2021)
    first_match: Tensor  # (Q,) int64 rank from 1; 0 for a query without a match
    query_pids: Tensor  # (Q,) int64
    protocol: Protocol = "cross-camera"
    distractors: bool = True  # whether distractors (pid 0) were in the gallery
    max_rank: int = 50  # length of the CMC curve

    @property
    def valid(self) -> Tensor:
        """(Q,) bool: queries with a match in the gallery. The others count nowhere."""
        return self.first_match > 0

    @property
    def valid_queries(self) -> int:
        """Number of queries with a match in the gallery."""
        return int(self.valid.sum())

    @property
    def mAP(self) -> float:
        """Mean average precision over the valid queries."""
        return self.average_precision[self.valid].mean().item()

    @property
    def mINP(self) -> float:
        """Mean inverse negative penalty over the valid queries."""
        return self.inverse_penalty[self.valid].mean().item()

    @property
    def cmc(self) -> Tensor:
        """(max_rank,) float64 share of valid queries with a match among the first k, k from 1."""
        first = self.first_match[self.valid].clamp(max=self.max_rank + 1)
        found = torch.bincount(first, minlength=self.max_rank + 2)[1:-1]
        return found.cumsum(0).double() / len(first)

    @property
    def per_query(self) -> Tensor:
        """(V, 5) float64: what each valid query adds to the mean of each of `NUMBERS`."""
        columns = (self.average_precision, self.inverse_penalty)
        hits = [(self.first_match <= k).double() for k in (1, 5, 10)]
        return torch.stack([*columns, *hits], dim=1)[self.valid]

    def scalars(self) -> dict[str, float]:
        """`mAP`, `mINP`, `rank1`, `rank5`, `rank10` and `valid_queries`."""
        means = self.per_query.mean(0).tolist()
        return {**dict(zip(NUMBERS, means, strict=True)), "valid_queries": self.valid_queries}

    def of(self, queries: Tensor) -> "RankingResult":
        """The result of some of the queries, (Q,) bool; NoValidQuery where none has a match."""
        if not self.valid[queries].any():
            raise NoValidQuery(f"none of the {int(queries.sum())} queries has a match.")
        names = ("average_precision", "inverse_penalty", "first_match", "query_pids")
        return replace(self, **{name: getattr(self, name)[queries] for name in names})


def measure(matches: Tensor, closer: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """AP, inverse penalty and first rank from (b, P) matches and counts of closer others."""
    hits = matches.cumsum(1)
    ranks = hits + closer
    count = hits[:, -1]
    precision = torch.where(matches, hits.double() / ranks, 0.0)
    ap = precision.cumsum(1)[:, -1] / count  # adds in one order, however many columns fill the row
    first = (ranks * (matches & (hits == 1))).sum(1)
    last = (ranks * (matches & (hits == count[:, None]))).sum(1)
    return ap, count.double() / last, first
