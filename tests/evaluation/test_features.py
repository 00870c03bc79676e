"""Features in files, and how they are ranked."""

import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from camreid.errors import InputError
from camreid.evaluation import FeatureTable, Images, RankOptions, rank
from camreid.evaluation.features import doubts


def images(count: int, seed: int) -> Images:
    random = torch.Generator().manual_seed(seed)
    labels = (torch.randint(1, n, (count,), generator=random) for n in (6, 4, 3))
    paths = tuple(f"{i}.jpg" for i in range(count))
    return Images(torch.randn(count, 8, generator=random), *labels, paths)


@pytest.fixture
def table() -> FeatureTable:
    return FeatureTable(images(12, 0), images(60, 1), {"seen": [1, 2], "model": "small"})


def same(first: FeatureTable, second: FeatureTable) -> bool:
    return all(torch.equal(x, second.tensors[name]) for name, x in first.tensors.items())


def test_a_table_comes_back_as_it_was(table: FeatureTable, tmp_path: Path) -> None:
    table.save(tmp_path / "f.safetensors")
    found = FeatureTable.load(tmp_path / "f.safetensors")
    assert same(table, found)
    assert found.query.paths == table.query.paths
    assert dict(found.notes) == dict(table.notes)
    assert [p.name for p in tmp_path.iterdir()] == ["f.safetensors"]


def test_features_of_other_tools_are_read(table: FeatureTable, tmp_path: Path) -> None:
    tensors = {name: x for name, x in table.tensors.items() if "sequences" not in name}
    arrays = {name: x.numpy() for name, x in tensors.items()}
    np.savez(tmp_path / "f.npz", **arrays, query_paths=np.array(table.query.paths))
    found = FeatureTable.load(tmp_path / "f.npz")
    assert same(found, table)
    assert found.query.paths == table.query.paths
    assert found.gallery.sequences is None
    assert found.gallery.paths == ()
    save_file(tensors, tmp_path / "f.safetensors")
    assert same(FeatureTable.load(tmp_path / "f.safetensors"), table)


@pytest.mark.parametrize(
    ("change", "found"),
    [
        ({"query_pids": None}, "KeyError: 'query_pids'"),
        ({"query_pids": torch.zeros(11, dtype=torch.int64)}, r"'pids': \(11,\)"),
        ({"gallery_cameras": torch.zeros(60)}, "gallery_cameras are torch.float32"),
        ({"query_features": torch.zeros(12, dtype=torch.int64)}, "query_features are torch.int64"),
        ({"query_features": torch.full((12, 8), torch.nan)}, "query_features .*NaN"),
        ({"gallery_features": torch.full((60, 8), torch.inf)}, "gallery_features .*infinite"),
        ({"gallery_features": torch.zeros(60)}, r"gallery_features \(60,\) are not"),
        ({"gallery_features": torch.zeros(60, 9)}, "differ in D"),
        ({"query_pids": torch.full((12,), -2)}, "below -1"),
        ({"query_cameras": torch.zeros(12, 1).long()}, r"'cameras': \(12, 1\)"),
        ({"gallery_sequences": torch.zeros(2).long()}, r"'sequences': \(2,\)"),
        ({"query_features": torch.zeros(0, 8)}, "query_features are empty"),
    ],
)
def test_tensors_that_do_not_fit_are_named(
    table: FeatureTable, tmp_path: Path, change: dict[str, torch.Tensor | None], found: str
) -> None:
    changed = {**table.tensors, **change}
    save_file({k: v for k, v in changed.items() if v is not None}, tmp_path / "f.st")
    with pytest.raises(InputError, match=f"f.st .*{found}"):
        FeatureTable.load(tmp_path / "f.st")


@pytest.mark.parametrize("column", [np.array(["0001"] * 12), np.array([object()] * 12)])
def test_text_for_pids_is_named(column: np.ndarray, table: FeatureTable, tmp_path: Path) -> None:
    arrays = {name: x.numpy() for name, x in table.tensors.items()}
    np.savez(tmp_path / "f.npz", **{**arrays, "query_pids": column})
    with pytest.raises(InputError, match=r"f.npz .*(query_pids are <U4|allow_pickle)"):
        FeatureTable.load(tmp_path / "f.npz")


@pytest.mark.parametrize(
    "note",
    [{"seen": 3}, {"seen": ["a"]}, {"seen": [[1]]}, {"seen": [2**63]}, {"computed": [1]}],
)
def test_notes_of_another_type_are_named(
    note: dict[str, Any], table: FeatureTable, tmp_path: Path
) -> None:
    replace(table, notes=note).save(tmp_path / "f.st")
    with pytest.raises(InputError, match=r"f\.st"):
        FeatureTable.load(tmp_path / "f.st")


@pytest.mark.parametrize("name", ["f.safetensors", "f.npz"])
def test_a_flipped_bit_changes_nothing_or_is_refused(
    name: str, table: FeatureTable, tmp_path: Path
) -> None:
    path, chance, refused = tmp_path / name, random.Random(0), 0
    table.save(path)
    if name == "f.npz":
        np.savez(path, **{name: x.numpy() for name, x in table.tensors.items()})
    whole = path.read_bytes()
    for _ in range(200):
        damaged = bytearray(whole)
        damaged[chance.randrange(len(whole))] ^= 1 << chance.randrange(8)
        path.write_bytes(damaged)
        try:
            read = FeatureTable.load(path)
        except InputError:
            refused += 1
        else:
            assert same(table, read)
    assert refused > 100


@pytest.mark.parametrize("name", ["f.safetensors", "f.npz"])
def test_unreadable_files_are_refused(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    with pytest.raises(InputError, match="no features at"):
        FeatureTable.load(path)
    path.write_bytes(b"no features")
    with pytest.raises(InputError, match=r"\(11 bytes\)"):
        FeatureTable.load(path)
    np.savez(tmp_path / "o.npz", query_features=np.array([object()], dtype=object))
    with pytest.raises(InputError, match="ValueError"):
        FeatureTable.load(tmp_path / "o.npz")


def test_the_headline_is_the_ranking(table: FeatureTable) -> None:
    for options in ({"metric": "cosine"}, {"metric": "euclidean"}, {"protocol": "within-camera"}):
        result, protocols = RankOptions(**options).rank(table)
        expected = rank(**table.numbered().tensors, **options)
        assert result.mAP == expected.mAP
        assert protocols is not None
        assert protocols.results[result.protocol, True].mAP == result.mAP


def test_re_ranking_and_expansion_change_the_ranking(table: FeatureTable) -> None:
    plain, _ = RankOptions().rank(table)
    for options in ({"rerank": "k-reciprocal"}, {"expand": 1}):
        result, protocols = RankOptions(**options).rank(table)
        assert result.mAP != plain.mAP
        assert (protocols is None) == ("rerank" in options)
    with pytest.raises(InputError, match="k1"):
        RankOptions(rerank="k-reciprocal", rerank_k1=100).rank(table)
    with pytest.raises(InputError, match="protocol=within-camera"):
        RankOptions(rerank="k-reciprocal", protocol="within-camera")


def test_a_small_file_with_large_arrays_is_refused(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "f.npz", query_features=np.zeros((1100, 60_000), np.float16))
    assert (tmp_path / "f.npz").stat().st_size < 10**6
    with pytest.raises(InputError, match="grows by more than 99 times"):
        FeatureTable.load(tmp_path / "f.npz")


def test_zero_and_collapsed_features_are_doubted() -> None:
    good = torch.eye(40)
    assert doubts(query=good, gallery=good) == []
    zero = good * (torch.arange(40) > 1)[:, None]
    found = doubts(query=zero, gallery=1 + 1e-5 * good)
    assert len(found) == 2
    assert "5.0% of the query" in found[0]
    assert doubts(gallery=torch.ones(9, 40)) == []  # a few copies of one image
