"""A matrix folder as it is found: finished or not, with or without its features, or broken."""

import gc
import json
import re
import weakref
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from camreid.checkpoints.io import save
from camreid.data import OriginalSplit, Records
from camreid.evaluation import FeatureTable
from camreid.runs.report import matrix_measuring
from camreid.runs.report.matrix_reading import read_matrix
from camreid.training import ReIDModule
from tests.conftest import CONFIG, Ran
from tests.runs.report.matrices import write_matrix
from tests.runs.report.pages import content, page_of, table
from tests.runs.report.runs import write_run
from tests.runs.report.test_page import notes

Run = Callable[..., Ran]


@pytest.fixture
def folder(tmp_path: Path, records: Records) -> Path:
    return write_matrix(tmp_path / "matrix", records)


def change(folder: Path, **changed: object) -> None:
    (folder / "matrix.json").write_text(json.dumps({**content(folder), **changed}))


def test_other_numbers_in_the_file_are_called_out(folder: Path) -> None:
    assert "disagree" not in page_of(folder)
    said = content(folder)
    said["experts"]["c2"]["retrieval"]["mAP"] += 0.01
    change(folder, **said)
    told = notes(page_of(folder))
    assert "matrix.json and the saved features disagree" in told
    assert "c2: mAP" in told
    assert "c1" not in told.partition("disagree")[2]


def test_a_part_of_the_images(folder: Path) -> None:
    change(folder, partial=True)
    assert "on a part of the images only" in notes(page_of(folder))


def test_without_features_the_numbers_stay(folder: Path) -> None:
    before = table(page_of(folder), "mAP by query camera")
    for path in (folder / "features").iterdir():
        path.unlink()
    page = page_of(folder)
    assert table(page, "mAP by query camera") == before
    assert "no features of c1, c2, c3" in notes(page)
    assert list(table(page, "CMC as a table")) == ["1", "5", "10"]


def test_an_unfinished_matrix_shows_the_experts_that_it_has(folder: Path) -> None:
    before = page_of(folder)
    (folder / "matrix.json").unlink()
    (folder / "features" / "c3.safetensors").unlink()
    page = page_of(folder)
    told = notes(page)
    assert "is not finished" in told
    assert "the numbers of c1, c2 alone" in told
    assert f"camreid-matrix experts=x +split=original run_dir={folder}" in told
    title = "Rank-1 by query camera"
    for name in ("c1", "c2"):
        bare = [
            [c.replace("★", "").replace(" best expert", "") for c in table(p, title)[name]]
            for p in (before, page)
        ]
        assert bare[0] == bare[1]
    assert list(table(page, "Experts: coverage and leak")["c1"])[:3] == ["1", "n/a", "n/a"]
    for path in (folder / "features").iterdir():
        path.unlink()
    page = page_of(folder)
    assert "nothing but its config is shown" in notes(page)
    assert "matrix has no numbers yet" in page


def test_another_leak_in_matrix_json_is_called_out(folder: Path) -> None:
    whole = json.loads((folder / "matrix.json").read_text())
    assert "disagree" not in notes(page_of(folder))
    whole["experts"]["c2"]["leak"]["seen"]["identities"] = 77
    (folder / "matrix.json").write_text(json.dumps(whole))
    assert "c2: leak.seen.identities 77 there, 0 here" in notes(page_of(folder))


def test_one_file_of_features_is_read_at_a_time(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held: list[weakref.ref[FeatureTable]] = []
    load, ranked = FeatureTable.load, []

    def watched(path: str | Path) -> FeatureTable:
        gc.collect()
        assert [ref for ref in held if ref() is not None] == []
        found = load(path)
        held.append(weakref.ref(found))
        ranked.append(Path(path).stem)
        return found

    monkeypatch.setattr(FeatureTable, "load", watched)
    found = matrix_measuring.measure_matrix(read_matrix(folder))
    assert ranked == ["c1", "c2", "c3"]
    for result in found.results.values():
        for name in ("query_pids", "first_match", "average_precision", "cmc"):
            column = getattr(result, name)
            assert column.untyped_storage().nbytes() <= 16 * max(len(column), 50), name


def test_beside_runs(tmp_path: Path, folder: Path, records: Records) -> None:
    run = write_run(tmp_path / "run", records)
    page = page_of(run, folder)
    headings = re.findall(r"<h2[^>]*>(.*?)</h2>", page)
    assert headings == ["Headline", "CMC", "run", "matrix"]
    ids = re.findall(r'\bid="([^"]*)"', page)
    assert len(ids) == len(set(ids))
    assert "mAP" in table(page, "Headline numbers")
    assert "c1" in table(page, "Headline numbers of matrix")


def test_broken_files_are_one_paragraph(run: Run, folder: Path) -> None:
    whole = (folder / "matrix.json").read_text()
    for broken in (whole[:100], "{}"):
        (folder / "matrix.json").write_text(broken)
        assert run("camreid-report", folder).code == 0
        assert "matrix.json (" in notes((folder / "report.html").read_text())
    (folder / "matrix.json").write_text(whole)
    ran = run("camreid-report", folder.parent)
    assert f"type {folder}" in ran.err
    (folder / "features" / "c1.safetensors").write_bytes(b"short")
    assert run("camreid-report", folder).code == 0
    assert "features of c1 can&#39;t be ranked" in (folder / "report.html").read_text()


@pytest.mark.slow
def test_a_matrix_of_the_command(run: Run, market: Path, records: Records, tmp_path: Path) -> None:
    paths = []
    for camera in (1, 2):
        torch.manual_seed(camera)
        module = ReIDModule(CONFIG, OriginalSplit(camera=camera)(records).labels)
        module.seen = frozenset(module.labels.pids)
        paths.append(tmp_path / f"{camera}.ckpt")
        save(module.eval(), paths[-1])
    ran = run(
        "camreid-matrix", f"data.root={market}", f"experts=[{paths[0]},{paths[1]}]",
        "+split=resplit", "trainer=cpu", "trainer.enable_progress_bar=false", "data.workers=0",
        "run_dir=matrix",
    )  # fmt: skip
    assert ran.code == 0, ran.err
    ran = run("camreid-report", "matrix")
    assert ran.code == 0, ran.err
    page = Path("matrix/report.html").read_text()
    assert "disagree" not in page
    said = content(Path("matrix"))
    assert set(table(page, "mAP by query camera")) == {*said["experts"], *said["combinations"]}
    assert "This split leaks" in page


def test_features_of_several_tests_are_not_set_against_each_other(folder: Path) -> None:
    (folder / "matrix.json").unlink()
    path = folder / "features" / "c2.safetensors"
    whole = FeatureTable.load(path)
    keep = torch.arange(len(whole.query.pids)) % 2 == 0
    q = whole.query
    part = replace(
        q, features=q.features[keep], pids=q.pids[keep], cameras=q.cameras[keep],
        sequences=None if q.sequences is None else q.sequences[keep], paths=(),
    )  # fmt: skip
    replace(whole, query=part).save(path)
    page = page_of(folder)
    assert "of several tests, so no row is to be set against another" in notes(page)
    assert "★" not in re.sub(r"★ the best expert", "", page)
    assert "Paired differences" not in page


def test_only_experts_are_the_best_of_an_unfinished_matrix(
    tmp_path: Path, records: Records
) -> None:
    folder = write_matrix(tmp_path / "m", records, controls=True)
    (folder / "matrix.json").unlink()
    path = folder / "features" / "joint.safetensors"
    table_ = FeatureTable.load(path)
    replace(table_, notes={**table_.notes, "kind": "control"}).save(path)
    shown = table(page_of(folder), "mAP by query camera")
    assert not any("★" in cell for cell in shown["joint"])
    assert any("★" in cell for name in ("c1", "c2", "c3") for cell in shown[name])
