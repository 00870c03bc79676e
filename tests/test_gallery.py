"""Galleries: search, and files that do not mix models."""

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from camreid import Gallery, InputError
from camreid import gallery as gallery_module


@pytest.fixture
def gallery() -> Gallery:
    made = Gallery()
    features = torch.randn(70, 16, generator=torch.Generator().manual_seed(0))
    made.add(features[:30], [f"{n}.jpg" for n in range(30)], "a-1")
    made.add(features[30:], [f"{n}.jpg" for n in range(30, 70)], "a-1")
    return made


def test_search_is_a_sort_of_all_cosines(gallery: Gallery) -> None:
    queries = torch.randn(9, 16, generator=torch.Generator().manual_seed(1))
    found = gallery.search(queries, k=5, threshold=0.45)
    cosines = F.normalize(queries) @ gallery.features.T
    for row, scores, index, names in zip(cosines, *vars(found).values(), strict=True):
        expected = [i for i in row.argsort(descending=True).tolist()[:5] if row[i] >= 0.45]
        assert index.tolist() == expected + [-1] * (5 - len(expected))
        assert torch.allclose(scores[: len(expected)], row[expected], atol=1e-6)
        assert list(names) == [f"{i}.jpg" for i in expected]
    assert (found.index < 0).any()


def test_a_file_gives_the_gallery_back(gallery: Gallery, tmp_path: Path) -> None:
    for suffix in ("safetensors", "npz"):
        path = tmp_path / f"g.{suffix}"
        gallery.save(path)
        again = Gallery.load(path, source="a-1")
        assert torch.allclose(again.features, gallery.features, atol=1e-6)
        assert (again.names, again.source) == (gallery.names, "a-1")
        with pytest.raises(InputError, match="not comparable"):
            Gallery.load(path, source="b-2")


def test_parquet_gives_the_gallery_back(gallery: Gallery, tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    gallery.save(tmp_path / "g.parquet")
    again = Gallery.load(tmp_path / "g.parquet")
    assert torch.allclose(again.features, gallery.features, atol=1e-6)
    assert again.names == gallery.names


@pytest.mark.parametrize("width", [16, 33])
@pytest.mark.parametrize("clusters", [40, 3000])
def test_codes_leave_out_no_image(
    width: int, clusters: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    random = torch.Generator().manual_seed(0)
    centres = torch.randn(clusters, width, generator=random)[torch.arange(3000) % clusters]
    made = Gallery()
    features = centres + 0.05 * torch.randn(3000, width, generator=random)
    made.add(torch.cat([features, torch.zeros(2, width)]), [str(n) for n in range(3002)])
    queries = torch.cat([features[:3] + 0.01, -features[:1]])
    expected = made.search(queries, k=20)
    assert "_codes" not in vars(made)
    monkeypatch.setattr(gallery_module, "_LARGE", 100)
    found = made.search(queries, k=20)
    assert "_codes" in vars(made)
    torch.testing.assert_close(found.scores, expected.scores, rtol=0, atol=1e-6)
    assert (found.index == expected.index).float().mean() > 0.98  # equal scores in any order
    monkeypatch.delattr(torch, gallery_module._PRODUCT)  # as a later torch may do
    monkeypatch.delattr(Gallery, "_by_codes")
    torch.testing.assert_close(made.search(queries, k=20).scores, expected.scores)
    made.add(queries[3:], ["own"])
    assert made.search(queries[3:], k=1).names == (("own",),)


def test_faiss_finds_the_same(gallery: Gallery, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("faiss")
    queries = torch.randn(9, 16, generator=torch.Generator().manual_seed(1))
    expected = gallery.search(queries, k=5)
    monkeypatch.setattr(gallery_module, "_MANY", 2)
    found = gallery.search(queries, k=5)
    assert found.names == expected.names
    torch.testing.assert_close(found.scores, expected.scores, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("features", "names", "source", "expected"),
    [
        (torch.ones(2, 16), ["a"], None, "2 features and 1 names"),
        (torch.ones(1, 8), ["a"], None, r"expected \(N, 16\)"),
        (torch.full((1, 16), torch.nan), ["a"], None, "NaN"),
        (torch.ones(1, 16), ["a"], "b-2", "not comparable"),
    ],
)
def test_what_does_not_fit_is_refused(
    features: torch.Tensor, names: list[str], source: str | None, expected: str, gallery: Gallery
) -> None:
    with pytest.raises(InputError, match=expected):
        gallery.add(features, names, source)
    assert len(gallery) == 70


def test_no_query_and_no_image() -> None:
    with pytest.raises(InputError, match="empty"):
        Gallery().search(torch.ones(1, 16))
    made = Gallery("a-1")
    made.add(torch.ones(1, 16), ["a"])
    assert made.search(torch.empty(0, 16)).scores.shape == (0, 1)


@pytest.mark.parametrize("suffix", ["safetensors", "npz", "parquet"])
def test_a_flipped_bit_changes_nothing_or_is_refused(
    suffix: str, gallery: Gallery, tmp_path: Path
) -> None:
    if suffix == "parquet":
        pytest.importorskip("pyarrow")
    path, chance, refused = tmp_path / f"g.{suffix}", random.Random(0), 0
    gallery.save(path)
    whole, expected = path.read_bytes(), Gallery.load(path)
    for _ in range(150):
        damaged = bytearray(whole)
        damaged[chance.randrange(len(whole))] ^= 1 << chance.randrange(8)
        path.write_bytes(damaged)
        try:
            read = Gallery.load(path)
        except InputError:
            refused += 1
        else:
            assert torch.equal(read.features, expected.features)
            assert (read.names, read.source) == (expected.names, expected.source)
    assert refused > 75


@pytest.mark.parametrize("content", [b"", b"{}", b"\x80" * 64])
def test_a_broken_file_is_refused(content: bytes, tmp_path: Path) -> None:
    for suffix in ("safetensors", "npz"):
        path = tmp_path / f"g.{suffix}"
        path.write_bytes(content)
        with pytest.raises(InputError, match=path.name):
            Gallery.load(path)


@pytest.mark.parametrize(
    "part",
    [
        {"features": np.eye(1).astype("U")},
        {"features": np.array([[Path("x")]])},  # pickled
        {"features": np.eye(1).astype(">f4")},
        {"features": np.array(1.0)},
        {"names": np.array(5)},
        {"features": np.zeros((1100, 60_000), np.float16)},  # 132 MB in memory
    ],
    ids=["text", "pickle", "byte order", "no rows", "no list", "bomb"],
)
def test_parts_of_another_form_are_refused(part: dict[str, Any], tmp_path: Path) -> None:
    content = {"features": np.eye(1), "names": np.array(["a"]), "source": "m", **part}
    np.savez_compressed(tmp_path / "g.npz", **content)
    with pytest.raises(InputError, match=r"g\.npz is no gallery of camreid"):
        Gallery.load(tmp_path / "g.npz")
