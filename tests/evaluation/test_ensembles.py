"""Experts put together, against scores computed pair by pair."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from camreid.errors import InputError
from camreid.evaluation import FeatureTable, Images, RankingResult, rank, rank_distances
from camreid.evaluation.ensembles import combine, compare_spaces

CAMERAS = {"c1": 1, "c2": 2, "c3": 3}


def table(
    seed: int, width: int = 16, turn: Tensor | None = None, noise: float = 1.5
) -> FeatureTable:
    """20 people under 4 cameras, junk and distractors among the gallery."""
    labels = torch.Generator().manual_seed(0)
    draw = torch.Generator().manual_seed(seed)
    parts = []
    for count, least in ((60, 1), (300, -1)):
        pids = torch.randint(least, 21, (count,), generator=labels)
        cameras = torch.randint(1, 5, (count,), generator=labels)
        centres = torch.randn(22, width, generator=torch.Generator().manual_seed(seed))
        features = centres[pids + 1] + noise * torch.randn(count, width, generator=draw)
        parts.append(Images(features * torch.rand(count, 1, generator=draw), pids, cameras))
    if turn is not None:
        parts = [p.with_features(p.features @ turn) for p in parts]
    return FeatureTable(parts[0], parts[1])


@pytest.fixture
def tables() -> dict[str, FeatureTable]:
    return {"c1": table(1), "c2": table(2), "c3": table(3, width=24)}


def ranked(found: FeatureTable) -> RankingResult:
    q, g = found.query, found.gallery
    return rank(q.features, g.features, q.pids, g.pids, q.cameras, g.cameras)


def by_scores(scores: Tensor, found: FeatureTable) -> RankingResult:
    q, g = found.query, found.gallery
    return rank_distances(-scores, q.pids, g.pids, q.cameras, g.cameras)


def cosines(found: FeatureTable) -> Tensor:
    return F.normalize(found.query.features) @ F.normalize(found.gallery.features).T


def together(how: str, tables: dict[str, FeatureTable], least: float = 0, **cameras: int | None):
    known = {**CAMERAS, **cameras}
    return combine(how, tables, known, compare_spaces(tables), least)  # type: ignore[arg-type]


def assert_same(first: RankingResult, second: RankingResult) -> None:
    assert torch.equal(first.valid, second.valid)
    torch.testing.assert_close(
        first.average_precision, second.average_precision, equal_nan=True, atol=1e-4, rtol=0
    )


def test_concat_ranks_by_the_mean_cosine(tables: dict[str, FeatureTable]) -> None:
    scores = torch.stack([cosines(t) for t in tables.values()]).mean(0)
    assert_same(ranked(together("concat", tables)), by_scores(scores, tables["c1"]))


def test_zscore_ranks_by_standardised_cosines(tables: dict[str, FeatureTable]) -> None:
    real = tables["c1"].gallery.pids != -1
    scores = torch.zeros_like(cosines(tables["c1"]))
    for found in tables.values():
        own = cosines(found)
        spread = own[:, real].std(1, correction=0, keepdim=True)
        scores += (own - own[:, real].mean(1, keepdim=True)) / spread
    found = ranked(together("zscore", tables))
    assert_same(found, by_scores(scores, tables["c1"]))
    assert found.mAP != ranked(together("concat", tables)).mAP


def test_mean_ranks_by_the_mean_feature(tables: dict[str, FeatureTable]) -> None:
    del tables["c3"]
    query, gallery = (
        F.normalize(sum(F.normalize(getattr(t, part).features) for t in tables.values()))
        for part in ("query", "gallery")
    )
    found = together("mean", tables)
    torch.testing.assert_close(found.query.features, query)
    torch.testing.assert_close(found.gallery.features, gallery)


def test_each_query_asks_the_expert_of_its_camera(tables: dict[str, FeatureTable]) -> None:
    found = ranked(together("query_camera", tables))
    own = {camera: ranked(tables[name]) for name, camera in CAMERAS.items()}
    everyone = ranked(together("concat", tables))  # camera 4 has no expert
    cameras = tables["c1"].query.cameras
    for camera in (1, 2, 3, 4):
        queries = cameras == camera
        assert queries.any()
        assert_same(found.of(queries), own.get(camera, everyone).of(queries))


def test_each_image_has_the_features_of_its_cameras_expert(
    tables: dict[str, FeatureTable],
) -> None:
    del tables["c3"]
    found = together("image_camera", tables)
    for part in ("query", "gallery"):
        images = getattr(found, part)
        units = [F.normalize(getattr(t, part).features) for t in tables.values()]
        for features, camera, one, two in zip(images.features, images.cameras, *units, strict=True):
            expected = {1: one, 2: two}.get(int(camera), F.normalize(one + two, dim=0))
            torch.testing.assert_close(features, expected)


def test_the_order_of_experts_and_the_length_of_features_do_not_matter(
    tables: dict[str, FeatureTable],
) -> None:
    turned = dict(reversed(tables.items()))
    longer = {
        name: FeatureTable(
            t.query.with_features(5 * t.query.features),
            t.gallery.with_features(5 * t.gallery.features),
        )
        for name, t in tables.items()
    }
    for how in ("concat", "zscore", "query_camera"):
        first = ranked(together(how, tables))
        assert_same(first, ranked(together(how, turned)))
        assert_same(first, ranked(together(how, longer)))


def test_a_rotated_space_is_alike_but_not_comparable() -> None:
    turn = torch.linalg.qr(torch.randn(16, 16, generator=torch.Generator().manual_seed(7)))[0]
    spaces = compare_spaces({"a": table(1), "b": table(1, turn=turn), "c": table(1)})
    torch.testing.assert_close(spaces.cka, torch.ones(3, 3))
    assert spaces.agreement[0, 2] == spaces.agreement[0, 0] == 1
    assert spaces.agreement[0, 1] < 0.1
    with pytest.raises(InputError, match=r"a and b are not comparable: .* asked for"):
        spaces.require(0.5)
    compare_spaces({"a": table(1), "c": table(1)}).require(1)


def test_cka_is_that_of_the_covariances() -> None:
    one, two = table(1), table(2, width=24)
    real = one.gallery.pids != -1
    x, y = (F.normalize(t.gallery.features)[real].double() for t in (one, two))
    x, y = x - x.mean(0), y - y.mean(0)
    expected = (x.T @ y).norm() ** 2 / ((x.T @ x).norm() * (y.T @ y).norm())
    spaces = compare_spaces({"a": one, "b": two})
    assert spaces.cka[0, 1].item() == pytest.approx(expected.item())
    assert spaces.agreement[0, 1].isnan()
    assert spaces.images == int(real.sum())
    assert compare_spaces({"a": one, "b": two}, images=50).images == 50


REFUSED: list[tuple[str, Callable[[dict[str, FeatureTable]], object], str]] = [
    ("widths", lambda t: together("mean", t), "c1 and c3 are of different widths"),
    (
        "spaces",
        lambda t: together("image_camera", {k: t[k] for k in ("c1", "c2")}, 0.5),
        "not comp",
    ),
    ("alone", lambda t: together("concat", {"c1": t["c1"]}), "one expert alone"),
    ("twice", lambda t: together("query_camera", t, c2=1), "several experts are of camera 1"),
    (
        "unknown",
        lambda t: together("query_camera", t, c1=None, c2=None, c3=None),
        "no checkpoint says",
    ),
    (
        "images",
        lambda t: together("concat", {**t, "c2": FeatureTable(t["c2"].gallery, t["c2"].gallery)}),
        "the query images of c1",
    ),
]


@pytest.mark.parametrize(("case", "make", "said"), REFUSED, ids=[r[0] for r in REFUSED])
def test_what_makes_no_sense_says_why(
    case: str, make: Callable[..., object], said: str, tables: dict[str, FeatureTable]
) -> None:
    with pytest.raises(InputError, match=said):
        make(tables)
