"""Intervals and paired differences of results, by bootstrap over identities.

Queries of one identity are not independent, so identities are drawn, each with all its queries.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from camreid.errors import InputError, require_number, require_whole
from camreid.evaluation.result import NUMBERS, RankingResult

EXACT = 9  # identities up to which all ways to swap two results are tried


@dataclass(frozen=True)
class Difference:
    """How much better one result is than another on the same queries.

    Attributes:
        value: of the first result minus that of the second.
        low: lower end of the interval of the difference; NaN where there is one identity.
        high: upper end, likewise.
        p: two-sided p-value of a randomisation test, see `compare`.
    """

    value: float
    low: float
    high: float
    p: float


def intervals(
    result: RankingResult, resamples: int = 1000, seed: int = 0, level: float = 0.95
) -> dict[str, tuple[float, float]]:
    """Percentile intervals of `mAP`, `mINP`, `rank1`, `rank5` and `rank10`.

    Args:
        result: a ranking.
        resamples: number of draws of identities.
        seed: of the draws.
        level: share of the resamples inside the interval.

    Returns:
        The lower and the upper end of each number; NaN where all valid queries are of one identity.

    Raises:
        InputError: an argument is out of range.

    >>> from camreid.evaluation import rank_distances
    >>> labels = (torch.tensor(t) for t in ([1, 2], [1, 2], [0, 0], [1, 1]))
    >>> intervals(rank_distances(torch.tensor([[0.1, 0.2], [0.1, 0.2]]), *labels))["rank1"]
    (0.0, 1.0)
    """
    low, high = _ends(_by_identity(result, result.per_query), resamples, seed, level)
    return dict(zip(NUMBERS, zip(low, high, strict=True), strict=True))


def compare(
    first: RankingResult,
    second: RankingResult,
    resamples: int = 1000,
    seed: int = 0,
    level: float = 0.95,
) -> dict[str, Difference]:
    """Paired differences of two results on the same queries, such as those of two models.

    Intervals are by bootstrap over identities. p is by randomisation (Smucker et al. 2007): the
    share of ways to swap the two results, identity by identity, that give as large a difference.
    All ways are tried for up to 9 identities, otherwise `resamples` at random; so p is never below
    0.05 for 5 identities or fewer.

    Args:
        first: a ranking.
        second: another of the same queries.
        resamples: number of draws of identities, and of random swaps.
        seed: of the draws.
        level: share of the resamples inside the interval.

    Returns:
        The difference in each of the numbers of `intervals`.

    Raises:
        InputError: the results are of different queries, or an argument is out of range.
    """
    _check_pair(first, second)
    values = first.per_query - second.per_query
    sums = _by_identity(first, values)
    low, high = _ends(sums, resamples, seed, level)
    p = _randomised(sums[:, :-1], resamples, seed).tolist()
    columns = zip(values.mean(0).tolist(), low, high, p, strict=True)
    return {name: Difference(*column) for name, column in zip(NUMBERS, columns, strict=True)}


def _by_identity(result: RankingResult, values: Tensor) -> Tensor:
    """(I, N + 1) sums of the valid queries' values (V, N), and the number of queries."""
    pids, identity = torch.unique(result.query_pids[result.valid], return_inverse=True)
    values = torch.cat([values, torch.ones_like(values[:, :1])], dim=1)
    return values.new_zeros(len(pids), values.shape[1]).index_add_(0, identity, values)


def _ends(sums: Tensor, resamples: int, seed: int, level: float) -> tuple[list[float], list[float]]:
    """Ends of the interval of each mean, from the sums (I, N + 1) of each identity."""
    require_whole("resamples", resamples, least=1)
    require_whole("seed", seed, least=0)
    require_number("level", level, 0, 1)
    identities = len(sums)
    if identities < 2:
        return [math.nan] * len(NUMBERS), [math.nan] * len(NUMBERS)
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randint(identities, (resamples, identities), generator=generator)
    drawn += torch.arange(resamples)[:, None] * identities
    times = torch.bincount(drawn.flatten(), minlength=drawn.numel()).view(resamples, -1)
    totals = times.to(sums.dtype) @ sums
    tails = torch.tensor([(1 - level) / 2, (1 + level) / 2], dtype=sums.dtype)
    low, high = (totals[:, :-1] / totals[:, -1:]).quantile(tails, dim=0).tolist()
    return low, high


def _randomised(sums: Tensor, resamples: int, seed: int) -> Tensor:
    """(N,) share of sign changes of the identities' sums, (I, N), with as large a total."""
    identities = len(sums)
    exact = identities <= EXACT
    if exact:
        swapped = (torch.arange(2**identities)[:, None] >> torch.arange(identities)) & 1
    else:
        generator = torch.Generator().manual_seed(seed)
        swapped = torch.randint(2, (resamples, identities), generator=generator)
    totals = (1 - 2 * swapped).to(sums.dtype) @ sums  # (ways, N)
    observed = sums.sum(0).abs()
    # rounding must not make a way less than itself
    as_large = (totals.abs() >= observed * (1 - 1e-9)).sum(0)
    # the observed way is one of all, or counts as one more, so that no p is 0
    return as_large / len(swapped) if exact else (as_large + 1) / (len(swapped) + 1)


def _check_pair(first: RankingResult, second: RankingResult) -> None:
    if not torch.equal(first.query_pids, second.query_pids):
        raise InputError(
            f"the results are of different queries ({len(first.query_pids)} and "
            f"{len(second.query_pids)}), or in another order: a paired comparison needs two "
            "rankings of the same queries in the same order."
        )
    if not torch.equal(first.valid, second.valid):
        differ = (first.valid != second.valid).nonzero().flatten()
        raise InputError(
            f"{len(differ)} queries, the first at {differ[:5].tolist()}, have a match in one "
            f"result only ({first.protocol} and {second.protocol}): rank both against the same "
            "gallery, by the same protocol."
        )
