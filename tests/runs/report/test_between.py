"""Runs in pairs: the difference is that of the features, and what can't be paired says why."""

from pathlib import Path

import pytest

from camreid.data import Records
from camreid.evaluation import FeatureTable, RankingResult, compare, rank
from tests.runs.report.pages import page_of, table
from tests.runs.report.runs import write_run


@pytest.fixture
def first(tmp_path: Path, records: Records) -> Path:
    return write_run(tmp_path / "first", records)


def result(folder: Path) -> RankingResult:
    found = FeatureTable.load(folder / "features.safetensors")
    q, g = found.query, found.gallery
    return rank(q.features, g.features, q.pids, g.pids, q.cameras, g.cameras)


def test_each_run_is_held_to_the_first(tmp_path: Path, first: Path, records: Records) -> None:
    others = [write_run(tmp_path / f"n{n}", records, noise=n) for n in (0.8, 3.0)]
    page = page_of(first, *others)
    shown = table(page, "Paired differences from first")
    for other in others:
        found = compare(result(other), result(first))
        cells = shown[other.name]
        assert cells[0] == str(result(first).valid_queries)
        for place, number in enumerate(("mAP", "rank1", "mINP")):
            value, low, high = (
                100 * x for x in (found[number].value, found[number].low, found[number].high)
            )
            assert cells[2 + 2 * place] == f"{value:+.1f} | {low:+.1f} to {high:+.1f}"
            assert cells[3 + 2 * place] == f"{found[number].p:.3f}"
    assert any("unseen by both" in label for label in shown)
    assert "first is better than n3.0 by " in page
    assert "no p is adjusted" in page
    assert "another seed would give" in page


def test_other_queries_are_not_paired(tmp_path: Path, first: Path, records: Records) -> None:
    other = write_run(tmp_path / "other", records)
    path = other / "features.safetensors"
    path.write_bytes(path.read_bytes().replace(b"bounding_box_test", b"bounding_box_tesT"))
    page = page_of(first, other)
    assert "Paired differences" not in page
    assert "can&#39;t be told: they were tested on other images" in page
    (other / "features.safetensors").unlink()
    assert "there are no features of other to rank again" in page_of(first, other)


def test_one_tested_run_has_no_pair(tmp_path: Path, first: Path, records: Records) -> None:
    other = write_run(tmp_path / "other", records)
    for name in ("metrics.json", "features.safetensors"):
        (other / name).unlink()
    assert "Differences between runs" not in page_of(first, other)
    assert "Differences between runs" not in page_of(first)
