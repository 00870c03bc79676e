import math
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from camreid.errors import InputError
from camreid.evaluation import expand_queries, neighbours, rerank
from tests.conftest import GOLDEN
from tests.golden.fill_rule import normal

Golden = dict[str, torch.Tensor]
BLOCK = "camreid.evaluation.neighbours.BLOCK"


def by_hand(
    squares: list[list[float]], queries: int, k1: int, k2: int, lambda_value: float
) -> list[list[float]]:
    """The definition, dense, one image at a time, with sets; `squares[i][j]` is of i to j."""
    n = len(squares)
    d = [[x / (max(row) or 1) for x in row] for row in squares]
    order = [sorted(range(n), key=lambda j, i=i: (squares[i][j], j)) for i in range(n)]

    def reciprocal_neighbours(i: int, count: int) -> set[int]:
        return {j for j in order[i][:count] if i in order[j][:count]}

    size, half = k1 + 1, round(k1 / 2) + 1
    encodings = []
    for i in range(n):
        own = reciprocal_neighbours(i, size)
        expanded = set(own)
        for j in own:
            others = reciprocal_neighbours(j, half)
            if len(others & own) * 3 > len(others) * 2:
                expanded |= others
        weights = {j: math.exp(-d[i][j]) for j in expanded}
        # among many equal images, one may not be among its own nearest: no neighbours, all 0
        total = sum(weights.values()) or 1
        encodings.append([weights.get(j, 0) / total for j in range(n)])
    if k2 > 1:
        encodings = [
            [sum(encodings[j][c] for j in order[i][:k2]) / k2 for c in range(n)] for i in range(n)
        ]
    result = []
    for i in range(queries):
        row = []
        for j in range(queries, n):
            low = sum(map(min, encodings[i], encodings[j]))
            jaccard = 1 - low / (2 - low)
            row.append((1 - lambda_value) * jaccard + lambda_value * d[i][j])
        result.append(row)
    return result


@st.composite
def problems(draw: st.DrawFn) -> tuple[torch.Tensor, torch.Tensor, dict[str, float]]:
    """Features of whole numbers, for exact squared distances and many ties, with settings."""
    queries, gallery = draw(st.integers(1, 8)), draw(st.integers(1, 40))
    k1, levels = draw(st.integers(1, min(gallery, 12))), draw(st.sampled_from([2, 6, 1000]))
    k2, share = draw(st.integers(1, k1)), draw(st.sampled_from([0, 0.3, 1]))
    rng = np.random.default_rng(draw(st.integers(0, 10**6)))
    centres = rng.integers(0, levels, (6, 3))[rng.integers(0, 6, queries + gallery)]
    features = torch.from_numpy(rng.integers(0, levels, centres.shape) + centres).float()
    return features[:queries], features[queries:], {"k1": k1, "k2": k2, "lambda_value": share}


def squares_of(features: torch.Tensor) -> list[list[float]]:
    apart = features.double()[:, None] - features.double()
    return apart.square().sum(2).tolist()


def assert_close(found: torch.Tensor, expected: object, tolerance: float = 1e-5) -> None:
    apart = (found.double() - torch.as_tensor(expected, dtype=torch.float64)).abs().max()
    assert apart <= tolerance


@settings(deadline=None, max_examples=120)
@given(problems(), st.sampled_from([1, 5, 16, 1000]))
def test_agrees_with_the_definition(
    problem: tuple[torch.Tensor, torch.Tensor, dict], block: int
) -> None:
    query, gallery, parameters = problem
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(BLOCK, block)
        result = rerank(query, gallery, metric="euclidean", **parameters)
    squares = squares_of(torch.cat([query, gallery]))
    assert_close(result, by_hand(squares, len(query), **parameters))


@pytest.fixture
def golden() -> Golden:
    query, gallery = normal("rr.q", 12, 16), normal("rr.g", 80, 16)
    gallery[:48] += 2 * np.tile(query, (4, 1))
    arrays = np.load(GOLDEN / "fastreid_rerank_aqe.npz")
    answers = {name: torch.from_numpy(arrays[name]) for name in arrays}
    return {"q": torch.from_numpy(query), "g": torch.from_numpy(gallery), **answers}


@pytest.mark.parametrize("block", [7, 1000])
def test_agrees_with_the_authors_code_and_fastreid(
    golden: Golden, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(BLOCK, block)
    before = {name: golden[name].clone() for name in "qg"}
    assert_close(rerank(golden["q"], golden["g"]), golden["classic_final"], 1e-6)
    monkeypatch.setattr(sys.modules["camreid.evaluation.rerank"], "_ENTRIES", 100)
    assert_close(rerank(golden["q"], golden["g"]), golden["classic_final"], 1e-6)
    query, gallery = expand_queries(golden["q"], golden["g"])
    scale = golden["aqe_gallery"].abs().max().item()
    assert_close(query, golden["aqe_query"], 1e-6 * scale)
    assert_close(gallery, golden["aqe_gallery"], 1e-6 * scale)
    assert all(torch.equal(golden[name], before[name]) for name in "qg")


def test_query_expansion_twice_is_an_expansion_of_the_expanded(golden: Golden) -> None:
    once = expand_queries(golden["q"], golden["g"], k=3, alpha=2)
    twice = expand_queries(golden["q"], golden["g"], k=3, alpha=2, times=2)
    assert all(map(torch.equal, twice, expand_queries(*once, k=3, alpha=2)))
    unchanged = expand_queries(golden["q"], golden["g"], times=0)
    assert all(map(torch.equal, unchanged, (golden["q"], golden["g"])))


@pytest.mark.parametrize("levels", [3, 10**6])
def test_the_nearest_of_many_images_are_those_of_a_stable_sort(
    levels: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    # large enough for the search by groups; few levels make ties at the edge of the nearest
    monkeypatch.setattr(BLOCK, 400)
    line = torch.randint(0, levels, (900, 1), generator=torch.Generator().manual_seed(0)).float()
    line = line % 2**11  # squares stay exact
    squares = torch.tensor(squares_of(line))
    distances = neighbours.Distances(line, queries=100)
    near = neighbours.nearest(distances, 5)
    values, order = squares.sort(stable=True)
    assert torch.equal(near.index, order[:, :5])
    assert torch.equal(near.distances.double(), values[:, :5])
    assert torch.equal(near.farthest.double(), values[:, -1])
    assert torch.equal(distances.query_gallery.double(), squares[:100, 100:])


def test_equal_images_have_a_result() -> None:
    result = rerank(torch.ones(2, 4), torch.ones(5, 4), k1=3, k2=2, metric="euclidean")
    assert_close(result, by_hand([[0.0] * 7 for _ in range(7)], 2, 3, 2, 0.3))


def test_bad_features_are_refused(golden: Golden) -> None:
    q, g = golden["q"], golden["g"]
    broken = g.index_fill(0, torch.tensor([7, 9]), torch.nan)
    for function in (rerank, expand_queries):
        with pytest.raises(InputError, match="shapes"):
            function(q, g[:, :8])
        with pytest.raises(InputError, match=r"2 of 80 gallery features are NaN.*\[7, 9\]"):
            function(q, broken)
    with pytest.raises(InputError, match=r"k=93.*1\.\.92"):
        expand_queries(q, g, k=93)
