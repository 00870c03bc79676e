"""How sure a result is: intervals and paired differences by bootstrap over identities.

Queries of one person are not independent, so people are drawn, each with all of their queries.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from camreid.errors import InputError, require_number, require_whole
from camreid.evaluation.result import RankingResult

RANKS = (1, 5, 10)
EXACT = 9  # people of whom all ways are tried


@dataclass(frozen=True)
class Difference:
    """How much better one result is than another on the same queries.

    Attributes:
        value: of the first result minus that of the second.
        low: lower end of the interval of the difference; NaN where all queries are of one person.
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
        resamples: how many times people are drawn.
        seed: of the draws.
        level: share of the resamples inside the interval.

    Returns:
        For each number, the lower and the upper end; NaN where all valid queries are of one
        person, of whom no sample says how others would do.

    Raises:
        InputError: an argument is out of range.

    >>> from camreid.evaluation import rank_distances
    >>> people = (torch.tensor(t) for t in ([1, 2], [1, 2], [0, 0], [1, 1]))
    >>> intervals(rank_distances(torch.tensor([[0.1, 0.2], [0.1, 0.2]]), *people))["rank1"]
    (0.0, 1.0)
    """
    require_number("level", level, 0, 1)
    names, values = _per_query(result)
    if len(torch.unique(result.query_pids[result.valid])) < 2:
        return dict.fromkeys(names, (math.nan, math.nan))
    low, high = _ends(_resampled(result, values, resamples, seed), level)
    return dict(zip(names, zip(low, high, strict=True), strict=True))


def compare(
    first: RankingResult,
    second: RankingResult,
    resamples: int = 1000,
    seed: int = 0,
    level: float = 0.95,
) -> dict[str, Difference]:
    """Paired differences of two results: of two models, say, on the same queries.

    Intervals are by bootstrap over people. p is by randomisation (Smucker et al. 2007): the share
    of ways to swap the two results, person by person, that give as large a difference. All ways
    are tried for up to 9 people, otherwise `resamples` at random; so that of 5 people or fewer, no
    p is below 0.05.

    Args:
        first: a ranking.
        second: another of the same queries.
        resamples: how many times people are drawn, and swapped.
        seed: of the draws.
        level: share of the resamples inside the interval.

    Returns:
        The difference in each of the numbers of `intervals`.

    Raises:
        InputError: the results are of different queries, or an argument is out of range.
    """
    require_number("level", level, 0, 1)
    _check_pair(first, second)
    names, ours = _per_query(first)
    values = ours - _per_query(second)[1]
    low, high = _ends(_resampled(first, values, resamples, seed), level)
    sums = _by_person(first, values)
    if len(sums) < 2:
        low = high = [math.nan] * len(names)
    p = _randomised(sums, resamples, seed).tolist()
    mean = values.mean(0).tolist()
    return {
        name: Difference(*numbers) for name, *numbers in zip(names, mean, low, high, p, strict=True)
    }


def _per_query(result: RankingResult) -> tuple[list[str], Tensor]:
    """Names of the numbers, and (V, 5) float64 of each valid query, whose means they are."""
    valid = result.valid
    first = result.first_match[valid]
    hits = [(first <= k).double() for k in RANKS]
    columns = [result.average_precision[valid], result.inverse_penalty[valid], *hits]
    return ["mAP", "mINP", *(f"rank{k}" for k in RANKS)], torch.stack(columns, dim=1)


def _resampled(result: RankingResult, values: Tensor, resamples: int, seed: int) -> Tensor:
    """(R, 5) means of the valid queries' values (V, 5), for R draws of people."""
    require_whole("resamples", resamples, least=1)
    require_whole("seed", seed, least=0)
    with_count = torch.cat([values, torch.ones(len(values), 1, dtype=values.dtype)], dim=1)
    sums = _by_person(result, with_count)
    people = len(sums)
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randint(people, (resamples, people), generator=generator)
    drawn += torch.arange(resamples)[:, None] * people
    times = torch.bincount(drawn.flatten(), minlength=drawn.numel()).view(resamples, -1)
    totals = times.to(values.dtype) @ sums
    return totals[:, :-1] / totals[:, -1:]


def _by_person(result: RankingResult, values: Tensor) -> Tensor:
    """(people, N) sums of the valid queries' values (V, N)."""
    pids, person = torch.unique(result.query_pids[result.valid], return_inverse=True)
    sums = torch.zeros(len(pids), values.shape[1], dtype=values.dtype)
    return sums.index_add_(0, person, values)


def _randomised(sums: Tensor, resamples: int, seed: int) -> Tensor:
    """(N,) share of sign changes of the people's sums, (people, N), with as large a total."""
    people = len(sums)
    exact = people <= EXACT
    if exact:
        swapped = (torch.arange(2**people)[:, None] >> torch.arange(people)) & 1
    else:
        generator = torch.Generator().manual_seed(seed)
        swapped = torch.randint(2, (resamples, people), generator=generator)
    totals = (1 - 2 * swapped).to(sums.dtype) @ sums  # (ways, N)
    observed = sums.sum(0).abs()
    # rounding must not make a way less than itself
    as_large = (totals.abs() >= observed * (1 - 1e-9)).sum(0)
    # the observed way is one of all, or counts as one more, so that no p is 0
    return as_large / len(swapped) if exact else (as_large + 1) / (len(swapped) + 1)


def _ends(drawn: Tensor, level: float) -> tuple[list[float], list[float]]:
    tails = torch.tensor([(1 - level) / 2, (1 + level) / 2], dtype=drawn.dtype)
    low, high = drawn.quantile(tails, dim=0).tolist()
    return low, high


def _check_pair(first: RankingResult, second: RankingResult) -> None:
    if not torch.equal(first.query_pids, second.query_pids):
        raise InputError(
            f"the results are of different queries: {len(first.query_pids)} of "
            f"{len(set(first.query_pids.tolist()))} people, and {len(second.query_pids)} of "
            f"{len(set(second.query_pids.tolist()))}, or in another order. A paired comparison "
            "needs two rankings of the same queries in the same order."
        )
    if not torch.equal(first.valid, second.valid):
        differ = (first.valid != second.valid).nonzero().flatten()
        raise InputError(
            f"{len(differ)} queries, the first at {differ[:5].tolist()}, have a match in one "
            f"result only ({first.protocol} and {second.protocol}): the galleries or the protocols "
            "differ. Rank both against the same gallery, by the same protocol."
        )
