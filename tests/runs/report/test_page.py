"""The page shows the numbers of the files, and states what is missing."""

import json
import re
from collections.abc import Callable
from html import unescape
from pathlib import Path
from typing import Any

import pytest

from camreid.cli import report as command
from camreid.data import Records
from camreid.errors import InputError
from camreid.evaluation import FeatureTable, RankOptions
from camreid.runs.report.page import build_page
from camreid.runs.table import percent
from tests.conftest import TINY, Ran
from tests.runs.report.runs import change, write_matrix, write_run

Run = Callable[..., Ran]


@pytest.fixture
def folder(tmp_path: Path, records: Records) -> Path:
    return write_run(tmp_path / "finished", records)


def notes(page: str) -> str:
    return unescape(" ".join(re.findall(r'<p class="note">(.*?)</p>', page, re.DOTALL)))


def cells(page: str, title: str) -> dict[str, list[str]]:
    """The cells of the table under a title by the first cell of each row."""
    after = page[page.index(f"<figcaption>{title}") :]
    table = after[: after.index("</table>")]
    rows = re.findall(r"<tr>(<td>.*?)</tr>", table, re.DOTALL)
    found = [[unescape(c) for c in re.findall(r"<td>(.*?)</td>", r, re.DOTALL)] for r in rows]
    return {first: rest for first, *rest in found}


def test_the_numbers_are_those_of_the_file(folder: Path) -> None:
    found = metrics(folder)
    change(folder, retrieval={**found["retrieval"], "mAP": 0.1234})
    change(folder, intervals={**found["intervals"], "mAP": [0.1, 0.2], "rank1": [None, None]})
    page = build_page([folder])
    _, mean, rank1, *_ = cells(page, "Test, with")["finished"]
    assert mean == "12.3 % (10.0 .. 20.0 %)"
    assert rank1 == f"{percent(found['retrieval']['rank1'])} (n/a)"
    assert cells(page, "Leakage")["finished"][0] == "3"


def test_runs_are_paired_with_the_first(tmp_path: Path, folder: Path, records: Records) -> None:
    noisy = write_run(tmp_path / "noisy", records, noise=4.0)
    third = write_run(tmp_path / "third", records, noise=3.0)
    matrix = write_matrix(tmp_path / "m", records)
    page = build_page([folder, noisy, third, matrix])
    pairs = cells(page, "Paired differences")
    assert [name for name in pairs if "unseen" not in name] == [
        "noisy - finished",
        "third - finished",
    ]
    assert pairs["noisy - finished"][2].startswith("-")
    (folder / "features.safetensors").unlink()
    page = build_page([folder, noisy])
    assert "Paired differences" not in page
    assert "not comparable: noisy" in page


def test_folders_of_one_name_are_named_by_their_paths(tmp_path: Path, records: Records) -> None:
    runs = [write_run(tmp_path / name / "run", records, queries=9) for name in ("a", "b")]
    assert list(cells(build_page(runs), "Test, with")) == ["a/run", "b/run"]


def metrics(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "metrics.json").read_text())


def test_the_cmc_curve_is_that_of_the_features(folder: Path) -> None:
    table = FeatureTable.load(folder / "features.safetensors")
    cmc = RankOptions().rank(table)[0].cmc
    curve = cells(build_page([folder]), "CMC by rank")
    for k in (1, 5, 20):
        assert curve[str(k)] == [percent(cmc[k - 1].item())]


def test_camera_pairs_and_head_check_are_those_of_the_files(folder: Path) -> None:
    page = build_page([folder])
    pairs = json.loads((folder / "metrics.json").read_text())["camera_pairs"]
    shown = cells(page, "mAP by camera")
    for camera, row in zip(pairs["cameras"], pairs["mAP"], strict=True):
        assert shown[f"c{camera}"] == [percent(x) for x in row]
    assert "75.0 %" in cells(page, "Head check (model")["identity"]


def test_training_curves_join_the_parts_of_a_resumed_run(folder: Path) -> None:
    page = build_page([folder])
    assert cells(page, "Training loss by epoch")["3"] == ["3"]
    assert cells(page, "Validation by epoch")["3"] == ["20.0 %"]
    assert cells(page, "Learning rate by epoch")["3"] == ["0.0003"]
    (folder / "metrics.csv").rename(folder / "metrics.10.csv")
    (folder / "metrics.2.csv").write_text("epoch,step,train/loss\n3,5,9.5\n")
    (folder / "metrics.csv").write_text("epoch,step,train/loss\n4,25,1.5\n")
    curve = cells(build_page([folder]), "Training loss by epoch")
    assert (curve["4"], curve["5"]) == (["2.5"], ["1.5"])


def test_leakage_is_a_caveat(folder: Path, records: Records) -> None:
    assert "Leakage" in notes(build_page([folder]))
    leak = metrics(folder)["leak"]
    change(folder, leak={**leak, "seen": {**leak["seen"], "identities": 0, "queries": 0}})
    assert "Leakage" not in notes(build_page([folder]))
    change(folder, seen_complete=False)
    assert "Not all training identities" in notes(build_page([folder]))


def test_provenance(folder: Path) -> None:
    page = build_page([folder])
    shown = dict(re.findall(r"<dt>(.*?)</dt><dd>(.*?)</dd>", page))
    assert shown["Command"] == "camreid-train +split=&lt;x&gt;"
    assert shown["Arguments"] == "+split=original model=small"
    assert shown["Commit"] == "c0ffee"
    assert shown["Versions"] == "torch 2.9"
    assert "digest-of-the-split" in shown["Split"]
    assert "name: &lt;tiny&gt;" in page


def test_names_are_text_and_the_page_fetches_nothing(tmp_path: Path, records: Records) -> None:
    strange = write_run(tmp_path / "_--><script>alert(1)<b>$x_{1$&amp;", records, queries=20)
    page = build_page([strange, write_matrix(tmp_path / "m<b>", records)])
    assert "<script" not in page
    assert "<b>$" not in page
    assert "m<b>" not in page
    assert "default-src 'none'" in page
    for address in re.findall(r'(?:src|href)="([^"]*)"|url\(([^)]*)\)', page):
        assert "".join(address).startswith(("data:", "#"))
    assert len(page) < 3e6
    ids = re.findall(r'\bid="([^"]*)"', page)
    assert len(ids) == len(set(ids))


def test_an_unfinished_run_is_shown_as_far_as_it_went(folder: Path) -> None:
    for name in ("metrics.json", "features.safetensors"):
        (folder / name).unlink()
    page = build_page([folder])
    assert "n/a" in cells(page, "Runs")["finished"]
    assert "no metrics.json" in notes(page)
    assert "Training loss by epoch" in page
    assert "Head check" in page
    assert "CMC" not in page


def test_numbers_need_no_features(folder: Path) -> None:
    before = cells(build_page([folder]), "Test, with")
    (folder / "features.safetensors").unlink()
    page = build_page([folder])
    assert cells(page, "Test, with") == before
    assert "save_features=true" in notes(page)
    assert "CMC by rank" not in page


def test_lists_are_in_the_order_before_re_ranking(folder: Path) -> None:
    before = re.findall("<p>Identity.*?</p>", build_page([folder]))
    options = {"rerank": "k-reciprocal", "expand": 1, "rerank_k1": 5, "rerank_k2": 2}
    change(folder, evaluation=options)
    page = build_page([folder])
    assert re.findall("<p>Identity.*?</p>", page) == before
    assert "before re-ranking" in notes(page)


def test_missing_pictures_are_counted(folder: Path) -> None:
    path = folder / "features.safetensors"
    content = path.read_bytes().replace(b"query/", b"quarY/")
    path.write_bytes(content.replace(b"bounding_box_test", b"bounding_box_tesT"))
    page = build_page([folder])
    assert "pictures of the ranked lists are missing" in notes(page)
    assert '<img src="data:image/jpeg' not in page


def test_a_matrix_is_shown_as_tables(tmp_path: Path, records: Records) -> None:
    folder = write_matrix(tmp_path / "matrix", records)
    page = build_page([folder])
    content = json.loads((folder / "matrix.json").read_text())
    shown = cells(page, "mAP in % by query camera")
    for name, row in content["experts"].items():
        assert shown[name][-2].startswith(f"{100 * row['retrieval']['mAP']:.1f}")
    assert "No expert is of camera 4." in notes(page)
    assert "mean is left out: the <features> differ" in notes(page)


def test_an_unfinished_matrix_names_its_rows(tmp_path: Path) -> None:
    (tmp_path / "matrix" / "features").mkdir(parents=True)
    (tmp_path / "matrix" / "features" / "c3.safetensors").touch()
    assert "Tested: c3." in notes(build_page([tmp_path / "matrix"]))


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("metrics.json", '{"retrieval": {'),
        ("metrics.json", "[]"),
        ("metrics.json", '{"mAP": 0.5}'),
        ("head_check.json", '{"heads": [{"head": "x"}]}'),
        ("matrix.json", "{}"),
        ("metrics.csv", "epoch,step,train/loss\n0,5,three\n"),
        ("config.yaml", "\udcff"),
        ("features.safetensors", "cut short"),
    ],
)
def test_a_broken_file_is_named(folder: Path, name: str, content: str) -> None:
    (folder / name).write_text(content, errors="surrogateescape")
    with pytest.raises(InputError, match=re.escape(str(folder / name))):
        build_page([folder])


def test_wrong_arguments_are_one_paragraph(
    run: Run, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*arguments: object) -> str:
        ran = run("camreid-report", *arguments)
        assert ran.code == 1
        assert ran.err.startswith("camreid-report: ")
        assert "\n" not in ran.err.strip()
        assert not list(Path().rglob("*.html*"))
        return ran.err

    Path("empty").mkdir()
    assert "empty" in refused("empty")
    assert "finished" in refused(folder.parent)
    assert "nowhere" in refused("nowhere")
    assert "once" in refused(folder, folder.parent / "." / folder.name)
    assert ".html" in refused(folder, "-o", folder / "metrics.json")
    assert "x.html" in refused(folder, "-o", folder / "metrics.json" / "x.html")
    monkeypatch.setattr(command, "find_spec", lambda name: None)
    assert "pip install 'camreid[report]'" in refused(folder)


@pytest.mark.slow
def test_a_trained_run_and_its_evaluation(run: Run, market: Path) -> None:
    options = (f"data.root={market}", *TINY, "split.val_fraction=0.2", "trainer.max_epochs=2")
    ran = run("camreid-train", "+split=resplit", *options, "run_dir=trained")
    assert ran.code == 0, ran.err
    features = "features=trained/features.safetensors"
    ran = run("camreid-evaluate", features, "evaluation.rerank=k-reciprocal", "run_dir=reranked")
    assert ran.code == 0, ran.err
    ran = run("camreid-report", "trained", "reranked", "-o", "both.html")
    assert ran.code == 0, ran.err
    page = Path("both.html").read_text()
    for title in ("Training loss", "Validation", "CMC", "Paired differences"):
        assert title in page
    assert "before re-ranking" in notes(page)
