"""Thresholds and error rates are those of a loop over all pairs."""

import math
from itertools import product

import pytest
import torch
import torch.nn.functional as F

from camreid.evaluation.features import FeatureTable, Images
from camreid.evaluation.verification import BINS, RATES, verify


def table(seed: int = 0, lonely: int = 3) -> FeatureTable:
    """Noisy features of 12 identities in 3 cameras, with junk, distractors and lonely queries."""
    random = torch.Generator().manual_seed(seed)
    centres = torch.randn(40, 8, generator=random)

    def part(count: int, low: int, lonely: int = 0) -> Images:
        pids = torch.randint(low, 13, (count,), generator=random)
        pids[:lonely] = torch.arange(30, 30 + lonely)
        cameras = torch.randint(1, 4, (count,), generator=random)
        noise = torch.randn(count, 8, generator=random)
        return Images(centres[pids] + 0.7 * noise, pids, cameras)

    return FeatureTable(part(40, 1, lonely), part(150, -1))


def pairs(
    data: FeatureTable,
) -> tuple[list[tuple[float, int, int, int]], list[tuple[float, int, int, int]]]:
    """Genuine and impostor pairs: cosine, query, cameras of query and gallery."""
    q, g = data.query, data.gallery
    cosines = (F.normalize(q.features) @ F.normalize(g.features).T).tolist()
    genuine, impostor = [], []
    for i, j in product(range(len(q.pids)), range(len(g.pids))):
        own, other = int(q.pids[i]), int(g.pids[j])
        cameras = int(q.cameras[i]), int(g.cameras[j])
        if other == -1 or (own == other and cameras[0] == cameras[1]):
            continue
        (genuine if own == other else impostor).append((cosines[i][j], i, *cameras))
    return genuine, impostor


@pytest.mark.parametrize("seed", range(3))
def test_points_are_those_of_all_pairs(seed: int) -> None:
    data = table(seed)
    genuine, impostor = pairs(data)
    found = verify(data).summary()
    assert found["pairs"] == {"genuine": len(genuine), "impostor": len(impostor)}
    scores = sorted((s for s, *_ in impostor), reverse=True)
    for rate in RATES:
        point = found["far"][f"{rate:g}"]
        first_refused = scores[int(rate * len(scores))]
        assert 0 < point["threshold"] - first_refused <= 2 / BINS + 1e-6
        tar = sum(s >= point["threshold"] for s, *_ in genuine) / len(genuine)
        assert point["tar"] == pytest.approx(tar)
        assert point["interval"][0] <= tar <= point["interval"][1]
    threshold = found["eer"]["threshold"]
    accepts = sum(s >= threshold for s in scores) / len(scores)
    rejects = sum(s < threshold for s, *_ in genuine) / len(genuine)
    assert abs(accepts - rejects) <= 1 / len(genuine)
    assert found["eer"]["rate"] == pytest.approx((accepts + rejects) / 2, abs=1e-3)


def test_camera_pairs_are_those_of_their_pairs() -> None:
    data = table()
    genuine, impostor = pairs(data)
    found = verify(data).summary()["camera_pairs"]
    assert found["cameras"] == [1, 2, 3]
    for a, b in product(range(3), repeat=2):
        own = [s for s, _, c, d in genuine if (c, d) == (a + 1, b + 1)]
        scores = sorted((s for s, _, c, d in impostor if (c, d) == (a + 1, b + 1)), reverse=True)
        threshold, tar = found["0.01"]["threshold"][a][b], found["0.01"]["tar"][a][b]
        if not own:
            assert math.isnan(tar)
            continue
        assert 0 < threshold - scores[int(0.01 * len(scores))] <= 2 / BINS + 1e-6
        assert tar == pytest.approx(sum(s >= threshold for s in own) / len(own))


@pytest.mark.parametrize("lonely", [3, 0])
def test_identification_is_that_of_each_query(lonely: int) -> None:
    data = table(lonely=lonely)
    genuine, impostor = pairs(data)
    queries = range(len(data.query.pids))
    best = [max((s for s, q, *_ in impostor if q == i), default=-2) for i in queries]
    mate = [max((s for s, q, *_ in genuine if q == i), default=-2) for i in queries]
    others = sorted((b for b, m in zip(best, mate, strict=True) if m == -2), reverse=True)
    found = verify(data).summary()["open_set"]
    assert found["non_mated"] == (len(others) or len(queries))
    threshold = found["fpir"]["0.1"]["threshold"]
    hits = [m >= threshold and m > b for b, m in zip(best, mate, strict=True) if m > -2]
    assert found["mated"] == len(hits)
    assert found["fpir"]["0.1"]["fnir"] == pytest.approx(1 - sum(hits) / len(hits))
    of = others or sorted(best, reverse=True)
    assert (
        sum(b >= threshold for b in of)
        <= 0.1 * len(of)
        < sum(b >= of[int(0.1 * len(of))] for b in of)
    )


def test_without_impostors_there_is_no_threshold() -> None:
    images = Images(torch.eye(2), torch.tensor([5, 5]), torch.tensor([1, 2]))
    found = verify(FeatureTable(images, images)).summary()
    assert found["far"] == {}
    assert found["eer"] is None
