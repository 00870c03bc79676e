import subprocess
import sys

import pytest
import torch

from camreid.errors import InputError
from camreid.evaluation import rank
from tests.evaluation import twin


@pytest.fixture
def problem() -> tuple[torch.Tensor, ...]:
    return twin.random_problem(20, 90, 5, 4, 50, seed=0).tensors()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_features_of_another_type_rank_as_the_same_numbers_in_float32(
    problem: tuple[torch.Tensor, ...], dtype: torch.dtype, metric: str
) -> None:
    q, g, *people = problem  # whole numbers to 50 are the same in each type
    result = rank(q.to(dtype), g.to(dtype), *people, metric=metric)
    assert torch.equal(result.first_match, rank(q, g, *people, metric=metric).first_match)


def test_conversion_by_chunk_gives_each_image_its_own_score(
    problem: tuple[torch.Tensor, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    q, g, *people = problem
    expected = rank(q, g, *people, metric="euclidean")
    monkeypatch.setattr("camreid.evaluation.scores._CHUNK_BYTES", 7 * 4 * g.shape[1])
    result = rank(q.half(), g.half(), *people, metric="euclidean")
    assert torch.equal(result.average_precision, expected.average_precision)


def test_a_small_budget_changes_nothing(
    problem: tuple[torch.Tensor, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = rank(*problem, metric="euclidean")
    monkeypatch.setattr("camreid.evaluation.sweep._BUDGET", 2**11)
    monkeypatch.setattr("camreid.evaluation.sweep._TIE_BYTES", 1)
    result = rank(*problem, metric="euclidean")
    assert torch.equal(result.average_precision, expected.average_precision)


def test_a_monotone_change_of_the_score_changes_nothing(problem: tuple[torch.Tensor, ...]) -> None:
    q, g, *people = problem
    expected = rank(q, g, *people, metric="euclidean").average_precision
    doubled = rank(2 * q, 2 * g, *people, metric="euclidean").average_precision
    assert torch.equal(doubled, expected)
    # of equal lengths, the cosine orders as the distance does
    generator = torch.Generator().manual_seed(0)
    q, g = (torch.randn(len(f), 8, generator=generator, dtype=torch.float64) for f in (q, g))
    q, g = (torch.nn.functional.normalize(f, dim=1) for f in (q, g))
    both = [rank(q, g, *people, metric=m).first_match for m in ("cosine", "euclidean")]
    assert torch.equal(*both)


def test_settings_of_torch_do_not_count_and_are_left_as_they_were(
    problem: tuple[torch.Tensor, ...],
) -> None:
    before = torch.get_float32_matmul_precision()
    expected = rank(*problem).average_precision
    try:
        torch.set_float32_matmul_precision("medium")
        with torch.autocast("cpu", torch.bfloat16):
            result = rank(*problem)
        assert torch.get_float32_matmul_precision() == "medium"
        with pytest.raises(InputError):
            rank(*problem, metric="dot")  # type: ignore[arg-type]
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision(before)
    assert torch.equal(result.average_precision.nan_to_num(-1), expected.nan_to_num(-1))


def test_zeros_are_at_a_right_angle_to_all(problem: tuple[torch.Tensor, ...]) -> None:
    q, g, *people = problem
    result = rank(q * 0, g, *people)
    order = torch.arange(len(g)).flip(0)
    by_place = rank(q * 0 + 1, order[:, None].expand(-1, 2).float() * 0 + 1, *people)
    assert torch.equal(result.first_match, by_place.first_match)


def test_what_is_wrong_is_said(problem: tuple[torch.Tensor, ...]) -> None:
    q, g, *people = problem
    with pytest.raises(InputError, match="max_rank=0"):
        rank(q, g, *people, max_rank=0)
    with pytest.raises(InputError, match=r"1 of 20 query features are NaN.*\[4\]"):
        rank(q.index_fill(0, torch.tensor([4]), torch.inf), g, *people)
    with pytest.raises(InputError, match="20 of 20 query features are too long"):
        rank((q + 1).double() * 1e39, g, *people)
    with pytest.raises(InputError, match="90 features, 90 pids, 90 cameras, 20 sequences"):
        rank(q, g, *people, query_sequences=people[0], gallery_sequences=people[0])


PEAK = """
import re, torch
from pathlib import Path
from camreid.evaluation import rank
def peak():  # ru_maxrss would begin with that of the process which started this one
    return int(re.search(r"VmHWM:\\s*(\\d+)", Path("/proc/self/status").read_text())[1])
torch.manual_seed(0)
q, g = (torch.randn(n, 2048, dtype=torch.bfloat16) for n in (600, 82161))
qp, gp = (torch.randint(1, 3061, (len(f),)) for f in (q, g))
qc, gc = (torch.randint(0, 15, (len(f),)) for f in (q, g))
torch.mm(torch.ones(600, 600), torch.ones(600, 600))  # what libraries need at their first use
before = peak()
rank(q, g, qp, gp, qc, gc)
print((peak() - before) / 1024)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_gallery_of_msmt17_size_takes_less_than_400_mb() -> None:
    run = subprocess.run([sys.executable, "-c", PEAK], capture_output=True, text=True, check=True)
    # 192 MB of scores are certain, so less would mean that nothing was measured
    assert 100 < float(run.stdout) < 400
