"""Intervals and paired differences of results: identities are drawn with all their queries."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from camreid.errors import InputError
from camreid.evaluation.protocols import NUMBERS, RankingResult

Results = RankingResult | Sequence[RankingResult]
EXACT = 9  # identities up to which all ways to swap two results are tried


@dataclass(frozen=True)
class Difference:
    """The first result minus the second on the same queries; see `compare`."""

    value: float
    low: float  # ends of the interval, NaN where there is one identity
    high: float
    p: float  # two-sided


def intervals(
    result: RankingResult, resamples: int = 1000, seed: int = 0
) -> dict[str, tuple[float, float]]:
    """95 % intervals of `mAP`, `mINP`, `rank1`, `rank5`, `rank10`.

    Identities are drawn; both ends are NaN where all valid queries are of one.

    >>> from camreid.evaluation import rank_distances
    >>> labels = (torch.tensor(t) for t in ([1, 2], [1, 2], [0, 0], [1, 1]))
    >>> intervals(rank_distances(torch.tensor([[0.1, 0.2], [0.1, 0.2]]), *labels))["rank1"]
    (0.0, 1.0)
    """
    sums = by_identity(result.query_pids[result.valid], result.per_query)
    low, high = percentiles(sums, resamples, seed)
    return dict(zip(NUMBERS, zip(low, high, strict=True), strict=True))


def compare(
    first: Results, second: Results, resamples: int = 1000, seed: int = 0
) -> dict[str, Difference]:
    """Paired differences of two results in the numbers of `intervals`, with its arguments.

    Several results, of trainings with different seeds, count as one with their mean of each query.
    p is from a randomisation test (Smucker et al. 2007): the share of the ways to swap the two
    results by identity with a difference at least as large. Up to 9 identities, all ways are
    tried, else `resamples` random ones; so p is never below 0.05 for 5 identities or fewer.
    InputError if the results are of different queries.
    """
    ours, theirs = ([r] if isinstance(r, RankingResult) else r for r in (first, second))
    reference = ours[0]
    for other in (*ours, *theirs):
        if not torch.equal(reference.query_pids, other.query_pids):
            raise InputError("the results are of different queries, or in another order.")
        if differ := (reference.valid != other.valid).nonzero().flatten().tolist():
            found = f"{len(differ)} queries, the first at {differ[:5]}, have a match in one result"
            raise InputError(f"{found} only: rank the same gallery by the same protocol.")
    own, other_values = (torch.stack([r.per_query for r in rs]).mean(0) for rs in (ours, theirs))
    values = own - other_values
    sums = by_identity(reference.query_pids[reference.valid], values)
    low, high = percentiles(sums, resamples, seed)
    p = _randomised(sums[:, :-1], resamples, seed).tolist()
    columns = zip(values.mean(0).tolist(), low, high, p, strict=True)
    return {name: Difference(*column) for name, column in zip(NUMBERS, columns, strict=True)}


def by_identity(pids: Tensor, values: Tensor) -> Tensor:
    """(I, N + 1) sums of (V, N) values of the identities (V,), and the number of values."""
    pids, identity = torch.unique(pids, return_inverse=True)
    values = torch.cat([values, torch.ones_like(values[:, :1])], dim=1)
    return values.new_zeros(len(pids), values.shape[1]).index_add_(0, identity, values)


def percentiles(sums: Tensor, draws: int = 1000, seed: int = 0) -> tuple[list[float], list[float]]:
    """2.5 and 97.5 % points of the means of (I, N + 1) sums `by_identity`; NaN for one identity."""
    if (identities := len(sums)) < 2:
        nan = [math.nan] * (sums.shape[1] - 1)
        return nan, nan
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randint(identities, (draws, identities), generator=generator)
    drawn += torch.arange(draws)[:, None] * identities
    times = torch.bincount(drawn.flatten(), minlength=drawn.numel()).view(draws, -1)
    totals = times.to(sums.dtype) @ sums
    tails = torch.tensor([0.025, 0.975], dtype=sums.dtype)
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
