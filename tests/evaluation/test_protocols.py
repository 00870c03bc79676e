"""The protocols against a slow twin, and where sequences are not known."""

import math
from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from camreid.errors import NoValidQuery
from camreid.evaluation import FeatureTable, Images, RankOptions, rank, rank_protocols
from tests.evaluation import twin

tables = st.builds(
    twin.random_table,
    queries=st.integers(1, 8),
    images=st.integers(1, 40),
    identities=st.integers(1, 4),
    cameras=st.integers(1, 3),
    levels=st.sampled_from([1, 3, 50]),
    seed=st.integers(0, 10**6),
)
blocks = st.sampled_from([1, 3, 1024])


@contextmanager
def blocks_of(rows):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("camreid.evaluation.sweep._ROWS", rows)
        yield


def agrees(result, expected):
    ap, inp, first = zip(*expected, strict=True)
    assert result.average_precision.tolist() == pytest.approx(ap, nan_ok=True)
    assert result.inverse_penalty.tolist() == pytest.approx(inp, nan_ok=True)
    assert result.first_match.tolist() == list(first)
    valid = [a for a in ap if not math.isnan(a)]
    assert result.valid_queries == len(valid)
    assert result.mAP == pytest.approx(sum(valid) / len(valid))
    assert result.mINP == pytest.approx(sum(i for i in inp if i == i) / len(valid))
    for k, share in enumerate(result.cmc.tolist(), start=1):
        assert share == pytest.approx(sum(0 < f <= k for f in first) / len(valid))


@settings(deadline=None, max_examples=120)
@given(tables, st.sampled_from(["cross-camera", "within-camera"]), st.booleans(), blocks)
def test_rank_agrees_with_a_ranking_by_hand(table, protocol, distractors, rows) -> None:
    found = [twin.places(table, q, protocol, distractors) for q in range(len(table.query.pids))]
    options = {"metric": "euclidean", "protocol": protocol, "distractors": distractors}
    if not any(found):
        with pytest.raises(NoValidQuery, match=protocol):
            rank(**table.tensors, **options)
        return
    with blocks_of(rows):
        result = rank(**table.tensors, max_rank=7, **options)
    agrees(result, [twin.numbers(places) for places in found])


@settings(deadline=None, max_examples=80)
@given(tables, blocks)
def test_all_protocols_agree_with_a_ranking_by_hand(table, rows) -> None:
    queries = range(len(table.query.pids))
    keys = [(p, d) for p in ("cross-camera", "within-camera") for d in (True, False)]
    expected = {key: [twin.places(table, q, *key) for q in queries] for key in keys}
    with blocks_of(rows):
        protocols = rank_protocols(table.query, table.gallery, "euclidean", max_rank=7)
    assert set(protocols.results) == {key for key, found in expected.items() if any(found)}
    for key, result in protocols.results.items():
        assert (result.protocol, result.distractors) == key
        agrees(result, [twin.numbers(places) for places in expected[key]])
    pairs, query_cameras = protocols.camera_pairs, table.query.cameras.tolist()
    assert pairs.cameras == tuple(sorted({*query_cameras, *table.gallery.cameras.tolist()}))
    for row, a in enumerate(pairs.cameras):
        for column, b in enumerate(pairs.cameras):
            protocol = "within-camera" if a == b else "cross-camera"
            own = [q for q in queries if query_cameras[q] == a]
            found = [twin.places(table, q, protocol, camera=b) for q in own]
            valid = [twin.numbers(places) for places in found if places]
            assert pairs.valid_queries[row, column] == len(valid)
            mean_ap = sum(ap for ap, _, _ in valid) / len(valid) if valid else math.nan
            rank1 = sum(first == 1 for *_, first in valid) / len(valid) if valid else math.nan
            assert pairs.mAP[row, column].item() == pytest.approx(mean_ap, nan_ok=True)
            assert pairs.rank1[row, column].item() == pytest.approx(rank1, nan_ok=True)


def test_without_sequences_and_indices_there_is_no_within_camera() -> None:
    table = twin.random_table(8, 60, 3, 2, 50, seed=0)
    query, gallery = (replace(part, sequences=None) for part in (table.query, table.gallery))
    protocols = rank_protocols(query, gallery)
    assert {protocol for protocol, _ in protocols.results} == {"cross-camera"}
    assert protocols.camera_pairs.mAP.diagonal().isnan().all()
    assert not protocols.camera_pairs.valid_queries.diagonal().any()


@pytest.mark.parametrize(
    ("pids", "query", "gallery", "valid"),
    [
        ([1, 1, 1, 1], None, None, 4),
        ([1, 1, 1, 1], None, [1, 1, 1, 1], 4),
        ([1, 1, 1, 1], [0, 0, 0, 0], [0, 0, 0, 0], 4),
        ([1, 1, 1, 1], [1, 1, 1, 1], [0, 0, 0, 0], 4),
        ([1, 1, 1, 1], [-1, -1, 2, 2], [-1, -1, 2, 2], 4),
        ([1, 1, 1, 1], [1, 1, 1, 1], [1, 1, 1, 1], 0),
        ([1, 2, 3, 4], [0, 0, 0, 0], [0, 0, 0, 0], 0),
    ],
)
def test_without_sequences_only_the_query_image_is_excluded(pids, query, gallery, valid) -> None:
    f, ones, index, pids = torch.eye(4), torch.ones(4).long(), torch.arange(4), torch.tensor(pids)
    arguments = (f, f, pids, pids, ones, ones)
    labels = {"query_index": index, "gallery_index": index}
    for name, sequences in (("query_sequences", query), ("gallery_sequences", gallery)):
        labels[name] = None if sequences is None else torch.tensor(sequences)
    query, gallery = (
        Images(f, pids, ones, labels[f"{part}_sequences"], index=index)
        for part in ("query", "gallery")
    )
    results = rank_protocols(query, gallery).results
    if valid:
        found = rank(*arguments, protocol="within-camera", **labels)
        assert found.valid_queries == results["within-camera", True].valid_queries == valid
        return
    assert not results
    with pytest.raises(NoValidQuery, match="within-camera"):
        rank(*arguments, protocol="within-camera", **labels)


def test_names_without_a_sequence_are_ranked_within_their_camera() -> None:
    names = tuple(f"0001_c2_f00461{i}.jpg" for i in range(4))
    labels = (torch.ones(4, dtype=torch.int64), torch.full((4,), 2))
    images = Images(torch.eye(4), *labels, torch.zeros(4, dtype=torch.int64), names)
    result, protocols = RankOptions(protocol="within-camera").rank(FeatureTable(images, images))
    assert result.valid_queries == 4
    assert protocols is not None
    assert protocols.results["within-camera", True].valid_queries == 4
