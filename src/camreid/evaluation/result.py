"""Retrieval numbers, by query and over all queries."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from camreid.errors import NoValidQuery

Protocol = Literal["cross-camera", "within-camera"]


@dataclass(frozen=True)
class RankingResult:
    """Retrieval numbers of one ranking.

    Attributes:
        mAP: mean average precision over the valid queries, 0..1.
        mINP: mean inverse negative penalty (Ye et al. 2021), 0..1.
        cmc: (max_rank,) share of valid queries with a match among the first k, k from 1.
        valid_queries: number of queries with a match in the gallery.
        average_precision: (Q,) per query, NaN for a query that is not valid.
        inverse_penalty: (Q,) number of matches over the rank of the last, NaN likewise.
        first_match: (Q,) int64 rank of the first match, from 1; 0 for a query that is not valid.
        query_pids: (Q,) int64.
        protocol: which gallery images a query did not see.
        distractors: whether distractors (pid 0) were in the gallery.
    """

    mAP: float
    mINP: float
    cmc: Tensor
    valid_queries: int
    average_precision: Tensor
    inverse_penalty: Tensor
    first_match: Tensor
    query_pids: Tensor
    protocol: Protocol
    distractors: bool = True

    @property
    def valid(self) -> Tensor:
        """(Q,) bool: queries with a match in the gallery."""
        return self.first_match > 0

    @property
    def dropped_queries(self) -> int:
        """Number of queries without a match, which count nowhere."""
        return len(self.first_match) - self.valid_queries

    def of(self, queries: Tensor) -> "RankingResult":
        """The result of some of the queries: (Q,) bool.

        Raises:
            NoValidQuery: none of them is valid.
        """
        columns = (self.average_precision, self.inverse_penalty, self.first_match)
        kept = [column[queries] for column in columns]
        result = summarise(kept, self.query_pids[queries], len(self.cmc), self.protocol)
        return replace(result, distractors=self.distractors)


def summarise(
    columns: Sequence[Tensor],
    query_pids: Tensor,
    max_rank: int,
    protocol: Protocol,
    advice: str = "Take queries of which some are valid.",
) -> RankingResult:
    """The result of queries that have been measured.

    Args:
        columns: average precision, inverse penalty and first match, (Q,) each.
        query_pids: (Q,) int64.
        max_rank: length of the CMC curve.
        protocol: which gallery images a query did not see.
        advice: for the error.

    Raises:
        NoValidQuery: no query has a match.
    """
    ap, inp, first = (column.cpu() for column in columns)
    valid = first > 0
    if not valid.any():
        raise NoValidQuery(
            f"none of the {len(first)} queries has a match in the gallery under the {protocol} "
            f"protocol, so there is nothing to measure. {advice}"
        )
    count = int(valid.sum())
    cmc = torch.bincount(first[valid].clamp(max=max_rank + 1), minlength=max_rank + 2)
    return RankingResult(
        mAP=ap[valid].mean().item(),
        mINP=inp[valid].mean().item(),
        cmc=cmc[1 : max_rank + 1].cumsum(0).double() / count,
        valid_queries=count,
        average_precision=ap,
        inverse_penalty=inp,
        first_match=first,
        query_pids=query_pids.cpu(),
        protocol=protocol,
    )


def measure(valid: Tensor, closer: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Numbers of each query, from how many images of other identities are closer than a match.

    Args:
        valid: (b, P) bool on the CPU, which pairs of a query count as matches; closest first.
        closer: (b, P) int64 images of other identities that are closer than the pair.

    Returns:
        Average precision and inverse penalty, (b,) float64 each, NaN where there is no match, and
        the rank of the first match, (b,) int64, 0 where there is none.

    >>> measure(torch.tensor([[True, True]]), torch.tensor([[0, 1]]))
    (tensor([0.8333], dtype=torch.float64), tensor([0.6667], dtype=torch.float64), tensor([1]))
    """
    hits = valid.cumsum(1)
    ranks = hits + closer
    matches = hits[:, -1:]
    precision = torch.where(valid, hits.double() / ranks, 0.0)
    # a running sum adds in one order, however many columns fill the row
    ap = precision.cumsum(1)[:, -1] / matches[:, 0]
    first = (ranks * (valid & (hits == 1))).sum(1)
    last = (ranks * (valid & (hits == matches))).sum(1)
    return ap, matches[:, 0].double() / last, first


def average_precision(relevant: Tensor) -> Tensor:
    """Mean precision at each hit.

    Args:
        relevant: (..., G) bool, best match first, ignored images removed or behind the others.

    Returns:
        (...) float64 on the CPU, NaN where nothing is relevant.

    >>> average_precision(torch.tensor([True, False, True])).item()
    0.8333333333333333
    """
    relevant = relevant.cpu()
    hits = relevant.cumsum(-1, dtype=torch.float64)
    places = torch.arange(1, relevant.shape[-1] + 1, dtype=torch.float64)
    return (hits / places * relevant).sum(-1) / relevant.sum(-1, dtype=torch.float64)
