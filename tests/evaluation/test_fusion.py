"""Fusion of experts, against scores computed pair by pair."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from camreid.errors import InputError
from camreid.evaluation import (
    Calibration,
    FeatureTable,
    Images,
    RankingResult,
    RankOptions,
    rank_distances,
)
from camreid.evaluation.fusion import fuse

CAMERAS = {"c1": 1, "c2": 2, "c3": 3}
SLOPES = {"c1": 9.0, "c2": 3.0, "c3": 14.0}
Tables = dict[str, FeatureTable]


def table(seed: int, width: int = 16, turn: Tensor | None = None) -> FeatureTable:
    """20 identities under 4 cameras, junk and distractors among the gallery."""
    labels = torch.Generator().manual_seed(0)
    draw = torch.Generator().manual_seed(seed)
    parts = []
    for count, least in ((60, 1), (300, -1)):
        pids = torch.randint(least, 21, (count,), generator=labels)
        cameras = torch.randint(1, 5, (count,), generator=labels)
        centres = torch.randn(22, width, generator=torch.Generator().manual_seed(seed))
        features = centres[pids + 1] + 1.5 * torch.randn(count, width, generator=draw)
        features = features * torch.rand(count, 1, generator=draw)
        parts.append(Images(features if turn is None else features @ turn, pids, cameras))
    return FeatureTable(*parts)


@pytest.fixture
def tables() -> Tables:
    return {"c1": table(1), "c2": table(2), "c3": table(3, width=24)}


def ranked(found: FeatureTable) -> RankingResult:
    return RankOptions().rank(found)[0]


def fused(fusion: str, tables: Tables, least: float = 0, **cameras: int | None) -> FeatureTable:
    return fuse(fusion, tables, {**CAMERAS, **cameras}, least, SLOPES)  # type: ignore[arg-type]


def assert_same(first: RankingResult, second: RankingResult) -> None:
    pair = first.average_precision, second.average_precision
    torch.testing.assert_close(*pair, equal_nan=True, atol=1e-4, rtol=0)


def test_concat_ranks_by_the_mean_cosine(tables: Tables) -> None:
    units = [[F.normalize(p.features) for p in (t.query, t.gallery)] for t in tables.values()]
    distances = -torch.stack([query @ gallery.T for query, gallery in units]).mean(0)
    q, g = tables["c1"].query, tables["c1"].gallery
    expected = rank_distances(distances, q.pids, g.pids, q.cameras, g.cameras)
    assert_same(ranked(fused("concat", tables)), expected)


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_calibrated_ranks_by_the_mean_logit(tables: Tables, metric: str) -> None:
    logits = torch.zeros(60, 300)
    for name, t in tables.items():
        calibration = Calibration(SLOPES[name], -3.0, 200)
        cosines = F.normalize(t.query.features) @ F.normalize(t.gallery.features).T
        logits += calibration.probability(cosines.double()).logit().float() / 3
    q, g = tables["c1"].query, tables["c1"].gallery
    expected = rank_distances(-logits, q.pids, g.pids, q.cameras, g.cameras)
    assert_same(RankOptions(metric=metric).rank(fused("calibrated", tables))[0], expected)
    assert expected.mAP != ranked(fused("concat", tables)).mAP


def test_an_expert_without_calibration_is_named(tables: Tables) -> None:
    with pytest.raises(InputError, match="no calibration of c2"):
        fuse("calibrated", tables, CAMERAS, 0, {"c1": 9.0, "c3": 2.0})


def test_mean_ranks_by_the_mean_feature(tables: Tables) -> None:
    del tables["c3"]
    found = fused("mean", tables)
    for part in ("query", "gallery"):
        units = [F.normalize(getattr(t, part).features) for t in tables.values()]
        torch.testing.assert_close(getattr(found, part).features, F.normalize(sum(units)))


def test_each_query_is_compared_by_the_expert_of_its_camera(tables: Tables) -> None:
    found, all_experts = ranked(fused("query_camera", tables)), ranked(fused("concat", tables))
    cameras = tables["c1"].query.cameras
    for camera in (1, 2, 3, 4):  # camera 4 has no expert
        own = ranked(tables[f"c{camera}"]) if camera < 4 else all_experts
        assert_same(found.of(cameras == camera), own.of(cameras == camera))


@pytest.mark.parametrize("fusion", ["concat", "query_camera"])
def test_order_of_experts_and_length_of_features_do_not_matter(fusion: str, tables: Tables) -> None:
    longer = {
        name: FeatureTable(*(p.with_features(5 * p.features) for p in (t.query, t.gallery)))
        for name, t in reversed(tables.items())
    }
    assert_same(ranked(fused(fusion, tables)), ranked(fused(fusion, longer)))


def test_a_mean_needs_one_embedding_space(tables: Tables) -> None:
    turn = torch.linalg.qr(torch.randn(16, 16, generator=torch.Generator().manual_seed(7)))[0]
    fused("mean", {"c1": table(1), "c2": table(1)}, 1)
    with pytest.raises(InputError, match=r"c1 .* and c2 .* not comparable"):
        fused("mean", {"c1": table(1), "c2": table(1, turn=turn)}, 0.5)
    with pytest.raises(InputError, match="24 wide"):
        fused("mean", tables)


@pytest.mark.parametrize("cameras", [{"c2": 1}, {"c1": None, "c2": None, "c3": None}])
def test_routing_needs_one_expert_per_camera(
    cameras: dict[str, int | None], tables: Tables
) -> None:
    with pytest.raises(InputError, match="one expert for each"):
        fused("query_camera", tables, **cameras)


def test_a_fusion_is_of_several_experts_and_the_same_images(tables: Tables) -> None:
    other = FeatureTable(tables["c2"].gallery, tables["c2"].gallery)
    for changed, message in (({}, "1 given"), ({"c2": other}, "different images")):
        with pytest.raises(InputError, match=message):
            fused("concat", {"c1": tables["c1"], **changed})
