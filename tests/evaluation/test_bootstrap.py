from itertools import product

import pytest
import torch

from camreid.errors import InputError
from camreid.evaluation import compare, intervals, rank, rank_distances
from camreid.evaluation.result import summarise


def ranking(first, pids):
    """A result whose queries have one match each, at these ranks (0 for none)."""
    precision = 1 / first.double()
    precision[first == 0] = torch.nan
    return summarise([precision, precision, first], pids, 50, "cross-camera")


def drawn(people, seed, each=4):
    """A result of random people, of whom each is found at once, or not, in all queries."""
    generator = torch.Generator().manual_seed(seed)
    found = torch.rand(people, generator=generator) < 0.7
    first = torch.where(found, 1, 20).repeat_interleave(each)
    return ranking(first, torch.arange(people).repeat_interleave(each))


def test_intervals_hold_the_truth_as_often_as_they_say() -> None:
    inside = 0
    for seed in range(100):
        low, high = intervals(drawn(60, seed), resamples=300)["rank1"]
        inside += low <= 0.7 <= high
    assert 86 <= inside <= 99  # 95 % of 100, four standard deviations below


def test_people_are_drawn_not_queries() -> None:
    few = intervals(drawn(40, 0, each=1))["mAP"]
    many = intervals(drawn(40, 0, each=25))["mAP"]
    assert many == pytest.approx(few)


def test_a_result_is_inside_its_intervals_and_seeds_repeat() -> None:
    result = ranking(torch.tensor([1, 2, 7, 0, 1, 3, 30, 1]), torch.arange(8) // 2)
    found = intervals(result, seed=3)
    assert list(found) == ["mAP", "mINP", "rank1", "rank5", "rank10"]
    values = (result.mAP, result.mINP, *(result.cmc[k - 1].item() for k in (1, 5, 10)))
    for (low, high), value in zip(found.values(), values, strict=True):
        assert 0 <= low <= value <= high <= 1
        assert low < high
    assert intervals(result, seed=3) == found
    assert intervals(drawn(60, 0), seed=3) != intervals(drawn(60, 0), seed=4)


def test_intervals_do_not_depend_on_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(0)
    features = [torch.randn(n, 4, generator=generator) for n in (30, 200)]
    people = [torch.randint(1, 9, (n,), generator=generator) for n in (30, 200)]
    cameras = [torch.randint(0, 3, (n,), generator=generator) for n in (30, 200)]
    one = rank(*features, *people, *cameras)
    monkeypatch.setattr("camreid.evaluation.sweep._ROWS", 7)
    assert intervals(one) == intervals(rank(*features, *people, *cameras))


def test_a_result_does_not_differ_from_itself() -> None:
    for difference in compare(drawn(50, 0), drawn(50, 0)).values():
        assert (difference.value, difference.low, difference.high) == (0, 0, 0)
        assert difference.p == 1


def test_a_better_result_is_told_from_a_worse_one() -> None:
    result = drawn(50, 0)
    worse = ranking(result.first_match + 1, result.query_pids)
    difference = compare(result, worse)["mAP"]
    assert 0 < difference.low < difference.value < difference.high
    assert difference.value == pytest.approx(result.mAP - worse.mAP)
    assert difference.p == pytest.approx(1 / 1001)
    assert compare(worse, result)["mAP"].high == pytest.approx(-difference.low)


def test_no_difference_is_rarely_called_one() -> None:
    alarms = sum(
        compare(drawn(60, 2 * n), drawn(60, 2 * n + 1), resamples=300)["mAP"].p < 0.05
        for n in range(50)
    )
    assert alarms <= 8  # 5 % of 50, about four standard deviations above


@pytest.mark.parametrize("people", [2, 3, 5, 8, 15])
def test_few_people_are_not_taken_for_evidence(people: int) -> None:
    pids = torch.arange(people).repeat_interleave(4)

    def by_chance(seed: int):
        generator = torch.Generator().manual_seed(seed)
        return ranking(torch.randint(1, 20, (len(pids),), generator=generator), pids)

    found = (compare(by_chance(2 * n), by_chance(2 * n + 1), resamples=200) for n in range(100))
    alarms = sum(differences["mAP"].p < 0.05 for differences in found)
    assert alarms <= (0 if people < 6 else 12)  # 5 % of 100, three standard deviations above


def test_p_is_the_share_of_ways_to_swap_people() -> None:
    pids = torch.tensor([1, 1, 2, 3, 3, 3, 4])
    one = ranking(torch.tensor([1, 2, 1, 4, 1, 1, 2]), pids)
    other = ranking(torch.tensor([3, 1, 2, 5, 2, 1, 1]), pids)
    found = compare(one, other)["mAP"]
    values = (one.average_precision - other.average_precision).tolist()
    as_large = 0
    for ways in product((1, -1), repeat=4):
        signs = dict(zip((1, 2, 3, 4), ways, strict=True))
        swapped = sum(signs[p] * v for p, v in zip(pids.tolist(), values, strict=True))
        as_large += abs(swapped) >= abs(sum(values)) - 1e-12
    assert found.p == pytest.approx(as_large / 16)


def test_one_person_tells_no_difference() -> None:
    pids = torch.tensor([1, 1])
    one, other = ranking(torch.tensor([1, 1]), pids), ranking(torch.tensor([9, 9]), pids)
    found = compare(one, other)["mAP"]
    assert found.value > 0.5
    assert found.p == 1
    assert found.low != found.low


def test_results_of_different_queries_are_not_compared() -> None:
    pids = torch.tensor([1, 2, 3])
    result = ranking(torch.tensor([1, 2, 3]), pids)
    with pytest.raises(InputError, match="different queries"):
        compare(result, ranking(torch.tensor([1, 2, 3]), pids.flip(0)))
    with pytest.raises(InputError, match=r"1 queries, the first at \[1\], have a match in one"):
        compare(result, ranking(torch.tensor([1, 0, 3]), pids))
    with pytest.raises(InputError, match="resamples=0"):
        intervals(result, resamples=0)
    with pytest.raises(InputError, match="level=95"):
        intervals(result, level=95)


def test_one_person_has_no_interval() -> None:
    people = (torch.tensor(t) for t in ([1, 1], [1, 2], [0, 0], [1, 1]))
    result = rank_distances(torch.tensor([[0.1, 0.2], [0.3, 0.2]]), *people)
    assert all(low != low and high != high for low, high in intervals(result).values())
