"""Features in files: ours come back as they were, others' are read or refused."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from camreid.errors import InputError
from camreid.evaluation import FeatureTable, Images, RankOptions, rank


def images(count: int, seed: int, named: bool = True) -> Images:
    random = torch.Generator().manual_seed(seed)
    pids, cameras, sequences = (torch.randint(1, n, (count,), generator=random) for n in (6, 4, 3))
    paths = tuple(f"{i}.jpg" for i in range(count)) if named else ()
    return Images(torch.randn(count, 8, generator=random), pids, cameras, sequences, paths)


@pytest.fixture
def table() -> FeatureTable:
    return FeatureTable(images(12, 0), images(60, 1), {"seen": [1, 2], "model": "small"})


def same(first: FeatureTable, second: FeatureTable) -> bool:
    pairs = ((first.query, second.query), (first.gallery, second.gallery))
    names = ("features", "pids", "cameras")
    return all(torch.equal(getattr(a, n), getattr(b, n)) for a, b in pairs for n in names)


def test_a_table_comes_back_as_it_was(table: FeatureTable, tmp_path: Path) -> None:
    table.save(tmp_path / "f.safetensors")
    found = FeatureTable.load(tmp_path / "f.safetensors")
    assert same(found, table)
    assert torch.equal(found.gallery.sequences, table.gallery.sequences)
    assert found.query.paths == table.query.paths
    assert dict(found.notes) == dict(table.notes)
    assert [p.name for p in tmp_path.iterdir()] == ["f.safetensors"]


def test_features_of_other_tools_are_read(table: FeatureTable, tmp_path: Path) -> None:
    arrays = {
        f"{part}_{name}": getattr(getattr(table, part), name).numpy()
        for part in ("query", "gallery")
        for name in ("features", "pids", "cameras")
    }
    np.savez(tmp_path / "f.npz", **arrays, query_paths=np.array(table.query.paths))
    found = FeatureTable.load(tmp_path / "f.npz")
    assert same(found, table)
    assert found.query.paths == table.query.paths
    assert found.gallery.sequences is None
    assert found.gallery.paths == ()
    save_file({k: torch.from_numpy(v) for k, v in arrays.items()}, tmp_path / "f.safetensors")
    assert same(FeatureTable.load(tmp_path / "f.safetensors"), table)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"query_pids": None}, "lacks query_pids; expected query_features"),
        (
            {"query_pids": torch.zeros(11, dtype=torch.int64)},
            r"\(11,\) torch.int64: expected \(12,",
        ),
        ({"gallery_cameras": torch.zeros(60)}, r"\(60,\) torch.float32: expected \(60,\) whole"),
        ({"query_features": torch.zeros(12, dtype=torch.int64)}, r"expected \(N, D\) floating"),
    ],
)
def test_tensors_that_do_not_fit_are_named(
    table: FeatureTable, tmp_path: Path, change: dict[str, torch.Tensor | None], said: str
) -> None:
    tensors = {
        f"{part}_{name}": getattr(getattr(table, part), name)
        for part in ("query", "gallery")
        for name in ("features", "pids", "cameras")
    }
    save_file({k: v for k, v in (tensors | change).items() if v is not None}, tmp_path / "f.st")
    with pytest.raises(InputError, match=said):
        FeatureTable.load(tmp_path / "f.st")


@pytest.mark.parametrize("name", ["f.safetensors", "f.npz"])
def test_files_that_are_none_are_refused(name: str, table: FeatureTable, tmp_path: Path) -> None:
    path = tmp_path / name
    with pytest.raises(InputError, match="no features at"):
        FeatureTable.load(path)
    path.write_bytes(b"no features")
    with pytest.raises(InputError, match=r"\(11 bytes\) can't be read as features"):
        FeatureTable.load(path)
    np.savez(tmp_path / "o.npz", query_features=np.array([object()], dtype=object))
    with pytest.raises(InputError, match="can't be read as features"):
        FeatureTable.load(tmp_path / "o.npz")


def test_the_headline_is_the_ranking(table: FeatureTable) -> None:
    q, g = table.query, table.gallery
    people = (q.pids, g.pids, q.cameras, g.cameras)
    for metric in ("cosine", "euclidean"):
        result, protocols = RankOptions(metric=metric).rank(table)  # type: ignore[arg-type]
        assert result.mAP == rank(q.features, g.features, *people, metric=metric).mAP  # type: ignore[arg-type]
        assert protocols is not None
        assert protocols.results["cross-camera", True].mAP == result.mAP
    within, _ = RankOptions(protocol="within-camera").rank(table)
    expected = rank(
        q.features, g.features, *people, protocol="within-camera",
        query_sequences=q.sequences, gallery_sequences=g.sequences,
    )  # fmt: skip
    assert within.mAP == expected.mAP


def test_re_ranking_and_expansion_change_the_ranking(table: FeatureTable) -> None:
    plain, _ = RankOptions().rank(table)
    for options in ({"rerank": "k-reciprocal"}, {"expand": 1}):
        result, protocols = RankOptions(**options).rank(table)  # type: ignore[arg-type]
        assert result.mAP != plain.mAP
        assert (protocols is None) == ("rerank" in options)
    with pytest.raises(InputError, match="k1"):
        RankOptions(rerank="k-reciprocal", rerank_k1=100).rank(table)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"metric": "l1"}, "evaluation.metric=l1: type one of cosine, euclidean"),
        ({"protocol": "any"}, "cross-camera, within-camera"),
        ({"rerank": "best"}, "null or one of k-reciprocal"),
        ({"rerank": "k-reciprocal", "protocol": "within-camera"}, "for the official protocol"),
        ({"expand": -1}, "evaluation.expand=-1"),
        ({"rerank_lambda": 2}, "evaluation.rerank_lambda=2"),
    ],
)
def test_options_that_are_none_are_refused(options: dict[str, object], said: str) -> None:
    with pytest.raises(InputError, match=said):
        RankOptions(**options)  # type: ignore[arg-type]


def test_unit_features_rank_by_euclidean_distance_as_by_cosine(table: FeatureTable) -> None:
    cosine, _ = RankOptions().rank(table)
    unit = table.normalized()
    euclidean, _ = RankOptions(metric="euclidean").rank(unit)
    assert euclidean.mAP == pytest.approx(cosine.mAP, abs=1e-6)
    assert unit.notes["computed"] == {"normalize": True}
