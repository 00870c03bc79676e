from itertools import product

import pytest
import torch

from camreid.errors import InputError
from camreid.evaluation import Difference, RankingResult, compare, intervals


def ranking(first, pids):
    """A result of queries with one match each, at these ranks (0 for none)."""
    first, pids = torch.as_tensor(first), torch.as_tensor(pids)
    precision = (1 / first.double()).masked_fill(first == 0, torch.nan)
    return RankingResult(precision, precision, first, pids)


def drawn(identities, seed, each=4):
    """A result of random identities, each found at once, or not, in all its queries."""
    generator = torch.Generator().manual_seed(seed)
    found = torch.rand(identities, generator=generator) < 0.7
    first = torch.where(found, 1, 20).repeat_interleave(each)
    return ranking(first, torch.arange(identities).repeat_interleave(each))


def test_intervals_have_their_coverage() -> None:
    found = [intervals(drawn(60, seed), resamples=200)["rank1"] for seed in range(100)]
    assert 86 <= sum(low <= 0.7 <= high for low, high in found) <= 99  # 95 % +- 4 deviations


def test_identities_are_drawn_not_queries() -> None:
    few, many = (intervals(drawn(40, 0, each=each))["mAP"] for each in (1, 25))
    assert many == pytest.approx(few)
    assert intervals(drawn(60, 0), seed=3) != intervals(drawn(60, 0), seed=4)


def test_a_result_is_inside_its_intervals_and_seeds_repeat() -> None:
    result = ranking([1, 2, 7, 0, 1, 3, 30, 1], torch.arange(8) // 2)
    found, values = intervals(result, seed=3), result.scalars()
    assert list(found) == ["mAP", "mINP", "rank1", "rank5", "rank10"]
    assert [values["mAP"], values["rank5"]] == [result.mAP, result.cmc[4].item()]
    for name, (low, high) in found.items():
        assert 0 <= low <= values[name] <= high <= 1
        assert low < high
    assert intervals(result, seed=3) == found


def test_a_better_result_is_better_and_an_equal_one_is_not() -> None:
    result = drawn(50, 0)
    assert compare(result, drawn(50, 0))["mAP"] == Difference(0, 0, 0, 1)
    worse = ranking(result.first_match + 1, result.query_pids)
    difference = compare(result, worse)["mAP"]
    assert 0 < difference.low < difference.value < difference.high
    assert difference.value == pytest.approx(result.mAP - worse.mAP)
    assert difference.p == pytest.approx(1 / 1001)
    assert compare(worse, result)["mAP"].high == pytest.approx(-difference.low)


@pytest.mark.parametrize("identities", [5, 8, 60])
def test_false_alarms_are_as_rare_as_promised(identities: int) -> None:
    pids = torch.arange(identities).repeat_interleave(4)

    def by_chance(seed: int):
        generator = torch.Generator().manual_seed(seed)
        return ranking(torch.randint(1, 20, (len(pids),), generator=generator), pids)

    found = (compare(by_chance(2 * n), by_chance(2 * n + 1), resamples=200) for n in range(60))
    alarms = sum(differences["mAP"].p < 0.05 for differences in found)
    assert alarms <= (0 if identities < 6 else 8)  # 5 % of 60, three deviations above


def test_p_is_the_share_of_ways_to_swap_identities() -> None:
    pids = [1, 1, 2, 3, 3, 3, 4]
    one, other = ranking([1, 2, 1, 4, 1, 1, 2], pids), ranking([3, 1, 2, 5, 2, 1, 1], pids)
    found = compare(one, other)["mAP"]
    values = (one.average_precision - other.average_precision).tolist()
    as_large = 0
    for ways in product((1, -1), repeat=4):
        swapped = sum(ways[pid - 1] * value for pid, value in zip(pids, values, strict=True))
        as_large += abs(swapped) >= abs(sum(values)) - 1e-12
    assert found.p == pytest.approx(as_large / 16)


def test_one_identity_has_no_interval() -> None:
    one, other = ranking([1, 1], [1, 1]), ranking([9, 9], [1, 1])
    found = compare(one, other)["mAP"]
    assert found.value > 0.5
    assert found.p == 1
    assert all(low != low and high != high for low, high in intervals(one).values())
    assert found.low != found.low


def test_results_of_different_queries_are_refused() -> None:
    result = ranking([1, 2, 3], [1, 2, 3])
    with pytest.raises(InputError, match="different queries"):
        compare(result, ranking([1, 2, 3], [3, 2, 1]))
    with pytest.raises(InputError, match=r"1 queries, the first at \[1\]"):
        compare(result, ranking([1, 0, 3], [1, 2, 3]))
