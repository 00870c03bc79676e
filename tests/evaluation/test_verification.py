"""Thresholds and error rates are those of a loop over all pairs."""

import math
from dataclasses import replace
from itertools import product

import pytest
import torch
import torch.nn.functional as F

from camreid.errors import InputError
from camreid.evaluation.features import FeatureTable, Images
from camreid.evaluation.verification import BINS, MOST, RATES, verify


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
    assert "1-2" in found
    for a, b in product((1, 2, 3), repeat=2):
        own = [s for s, _, *cameras in genuine if cameras == [a, b]]
        scores = sorted((s for s, _, *c in impostor if c == [a, b]), reverse=True)
        assert (f"{a}-{b}" in found) == bool(own)
        if own:
            point = found[f"{a}-{b}"]["far"]["0.01"]
            assert 0 < point["threshold"] - scores[int(0.01 * len(scores))] <= 2 / BINS + 1e-6
            assert point["tar"] == pytest.approx(
                sum(s >= point["threshold"] for s in own) / len(own)
            )
            low, high = point["interval"]
            assert low <= point["tar"] <= high


def test_within_one_camera_impostors_are_of_that_camera() -> None:
    data = table()
    data = replace(
        data,
        query=replace(data.query, sequences=torch.ones_like(data.query.pids)),
        gallery=replace(data.gallery, sequences=torch.full_like(data.gallery.pids, 2)),
    )
    found = verify(data, "within-camera")
    q, g = data.query, data.gallery
    valid = (q.cameras[:, None] == g.cameras) & (g.pids != -1)
    same = q.pids[:, None] == g.pids
    assert len(found.genuine) == int((valid & same).sum()) > 0
    assert int(found.impostors.sum()) == int((valid & ~same).sum())
    assert {name for name, _ in found.by_cameras()} <= {"1-1", "2-2", "3-3"}


def test_many_cameras_have_one_table_of_all_pairs() -> None:
    data = table()
    spread = torch.arange(len(data.query.pids)) + 4
    many = verify(replace(data, query=replace(data.query, cameras=spread)))
    assert len(spread) > MOST
    assert many.impostors.shape == (1, BINS)
    assert int(many.impostors.sum()) == int(verify(data).impostors.sum())
    assert many.summary()["camera_pairs"] == {}


@pytest.mark.parametrize("lonely", [3, 0])
def test_identification_is_that_of_each_query(lonely: int) -> None:
    data = table(lonely=lonely)
    genuine, impostor = pairs(data)
    queries = range(len(data.query.pids))
    best = [max((s for s, q, *_ in impostor if q == i), default=-2) for i in queries]
    mate = [max((s for s, q, *_ in genuine if q == i), default=-2) for i in queries]
    others = sorted((b for b, m in zip(best, mate, strict=True) if m == -2), reverse=True)
    found = verify(data).summary()["open_set"]
    assert found["non_mated"] == len(others)
    threshold = found["fpir"]["0.1"]["threshold"]
    hits = [m >= threshold and m > b for b, m in zip(best, mate, strict=True) if m > -2]
    assert found["mated"] == len(hits)
    assert found["fpir"]["0.1"]["fnir"] == pytest.approx(1 - sum(hits) / len(hits))
    of = others or sorted(best, reverse=True)
    assert 0 < threshold - of[int(0.1 * len(of))] <= 2 / BINS + 1e-6


def test_without_impostors_there_is_no_threshold() -> None:
    images = Images(torch.eye(2), torch.tensor([5, 5]), torch.tensor([1, 2]))
    with pytest.raises(InputError, match="2 pairs of one identity and 0"):
        verify(FeatureTable(images, images)).summary()


def test_one_identity_has_no_interval() -> None:
    images = Images(torch.eye(4)[[0, 0, 1]], torch.tensor([5, 5, 6]), torch.tensor([1, 2, 1]))
    found = verify(FeatureTable(images, images)).summary()
    assert found["far"]["0.01"]["tar"] == 1
    assert all(map(math.isnan, found["far"]["0.01"]["interval"]))


def test_a_collapsed_model_accepts_nothing_at_any_rate() -> None:
    data = table()
    own, other = (torch.eye(1, 8).repeat(len(part.pids), 1) for part in (data.query, data.gallery))
    alike = FeatureTable(data.query.with_features(own), data.gallery.with_features(other))
    found = verify(alike).summary()
    assert {point["tar"] for point in found["far"].values()} == {0}
    assert {point["fnir"] for point in found["open_set"]["fpir"].values()} == {1}
