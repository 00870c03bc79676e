import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from camreid.errors import InputError, NoValidQuery
from camreid.evaluation import rank, rank_distances
from tests.conftest import GOLDEN
from tests.golden.fill_rule import uniform


def by_hand(distances, qp, gp, qc, gc, max_rank):
    """The official protocol, one query at a time, in plain Python."""
    precisions, penalties, curves = [], [], []
    for q in range(len(qp)):
        order = sorted(range(len(gp)), key=lambda g: (distances[q][g], g))
        seen = [g for g in order if gp[g] != -1 and not (gp[g] == qp[q] and gc[g] == qc[q])]
        hits = [gp[g] == qp[q] for g in seen]
        if not any(hits):
            precisions.append(math.nan)
            continue
        places = [i + 1 for i, hit in enumerate(hits) if hit]
        precisions.append(sum((n + 1) / place for n, place in enumerate(places)) / len(places))
        penalties.append(len(places) / places[-1])
        curves.append([any(p <= k for p in places) for k in range(1, max_rank + 1)])
    return precisions, penalties, curves


problems = st.tuples(
    st.integers(1, 8), st.integers(1, 30), st.integers(0, 10**6), st.sampled_from([2, 50])
)


@settings(deadline=None, max_examples=150)
@given(problems)
def test_agrees_with_a_ranking_by_hand(problem: tuple[int, int, int, int]) -> None:
    queries, images, seed, levels = problem
    rng = np.random.default_rng(seed)
    qp, qc = rng.integers(1, 4, queries), rng.integers(0, 3, queries)
    gp, gc = rng.integers(-1, 4, images), rng.integers(0, 3, images)
    # whole numbers: squared distances are exact in float32, and ties are many
    q, g = (torch.from_numpy(rng.integers(0, levels, (n, 2))).float() for n in (queries, images))
    distances = torch.cdist(q.double(), g.double()).square().round().tolist()
    precisions, penalties, curves = by_hand(distances, qp, gp, qc, gc, 10)
    people = [torch.from_numpy(a) for a in (qp, gp, qc, gc)]
    if not penalties:
        with pytest.raises(NoValidQuery):
            rank(q, g, *people, metric="euclidean")
        return
    result = rank(q, g, *people, metric="euclidean", max_rank=10)
    assert result.average_precision.tolist() == pytest.approx(precisions, nan_ok=True)
    assert result.mAP == pytest.approx(np.nanmean(precisions))
    assert result.mINP == pytest.approx(np.mean(penalties))
    assert result.cmc.tolist() == pytest.approx(np.mean(curves, axis=0).tolist())
    assert result.valid_queries == len(penalties)


def test_agrees_with_fastreid() -> None:
    golden = json.loads((GOLDEN / "fastreid_evaluation.json").read_text())
    qp, gp = (1 + 12 * uniform("ev.qp", 40)).astype(int), (12 * uniform("ev.gp", 300)).astype(int)
    qc, gc = (6 * uniform("ev.qc", 40)).astype(int), (6 * uniform("ev.gc", 300)).astype(int)
    distances = uniform("ev.dist", 40 * 300).reshape(40, 300)
    distances = np.where(qp[:, None] == gp, distances / 2, distances).astype(np.float32)
    result = rank_distances(torch.from_numpy(distances), *map(torch.from_numpy, (qp, gp, qc, gc)))
    assert result.mAP == pytest.approx(golden["mAP"], abs=1e-6)
    assert result.mINP == pytest.approx(golden["mINP"], abs=1e-6)
    assert result.cmc.tolist() == pytest.approx(golden["cmc"], abs=1e-6)
    assert result.valid_queries == golden["valid_queries"]
    precisions = result.average_precision
    assert precisions.isnan().nonzero().flatten().tolist() == golden["queries_without_match"]
    valid = precisions[~precisions.isnan()].tolist()
    assert valid == pytest.approx(golden["AP_of_valid_queries"], abs=1e-6)


@pytest.fixture
def problem() -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(0)
    features = [torch.randn(n, 16, generator=generator) for n in (20, 90)]
    people = [torch.randint(1, 6, (n,), generator=generator) for n in (20, 90)]
    cameras = [torch.randint(0, 4, (n,), generator=generator) for n in (20, 90)]
    return *features, *people, *cameras


def test_the_order_of_the_gallery_does_not_matter(problem: tuple[torch.Tensor, ...]) -> None:
    q, g, qp, gp, qc, gc = problem
    order = torch.randperm(90, generator=torch.Generator().manual_seed(1))
    expected, result = rank(*problem), rank(q, g[order], qp, gp[order], qc, gc[order])
    assert torch.equal(result.average_precision, expected.average_precision)
    assert torch.equal(result.first_match, expected.first_match)


def test_cosine_does_not_see_lengths_and_euclidean_does(problem: tuple[torch.Tensor, ...]) -> None:
    q, g, *people = problem
    longer = g * torch.linspace(0.1, 9, 90)[:, None]
    cosine = rank(q, longer, *people).average_precision
    assert torch.allclose(cosine, rank(*problem).average_precision)
    euclidean = rank(q, longer, *people, metric="euclidean").average_precision
    assert not torch.allclose(euclidean, rank(*problem, metric="euclidean").average_precision)


def test_within_camera_leaves_out_other_cameras_and_the_image_itself() -> None:
    f = torch.tensor([[1.0, 0], [0.9, 0.1], [0, 1], [1.0, 0]])
    pids, cameras, index = torch.tensor([1, 1, 2, 1]), torch.tensor([0, 0, 0, 1]), torch.arange(4)
    result = rank(
        f, f, pids, pids, cameras, cameras,
        protocol="within-camera", query_index=index, gallery_index=index,
    )  # fmt: skip
    assert result.first_match.tolist() == [1, 1, 0, 0]
    assert result.valid_queries == 2


def test_a_short_gallery_still_has_a_long_curve() -> None:
    f, people = torch.eye(2), (torch.tensor([1]), torch.tensor([2, 1]), torch.tensor([0]))
    result = rank(f[:1], f, *people, torch.tensor([1, 1]), max_rank=50)
    assert result.cmc.tolist() == [0.0] + [1.0] * 49


def test_no_valid_query_is_no_silent_zero() -> None:
    same = torch.tensor([1, 1])
    with pytest.raises(NoValidQuery, match="within-camera"):
        rank(torch.eye(2), torch.eye(2), same, same, same, same)


def test_bad_features_are_refused(problem: tuple[torch.Tensor, ...]) -> None:
    q, g, *people = problem
    with pytest.raises(InputError, match=r"shapes \(20, 16\) and \(90, 8\)"):
        rank(q, g[:, :8], *people)
    broken = g.clone()
    broken[7, 3] = torch.nan
    with pytest.raises(InputError, match=r"1 of 90 gallery features are NaN or infinite.*\[7\]"):
        rank(q, broken, *people)
    with pytest.raises(InputError, match="the gallery has 0 features"):
        rank(q, g[:0], people[0], people[1][:0], people[2], people[3][:0])
    with pytest.raises(InputError, match="the query has 20 features, 19 pids"):
        rank(q, g, people[0][1:], *people[1:])
    with pytest.raises(InputError, match="metric='dot'"):
        rank(q, g, *people, metric="dot")  # type: ignore[arg-type]
