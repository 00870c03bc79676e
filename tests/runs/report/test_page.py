"""The page shows the numbers of the files, and states what is missing."""

import base64
import re
from dataclasses import replace
from html import unescape
from pathlib import Path

import pytest
import torch

from camreid.data import Records
from camreid.runs.folder import RunFolder
from camreid.runs.report.page import build_page
from camreid.runs.report.pictures import draw
from camreid.runs.table import percent
from tests.runs.folders import change, features, make_matrix, make_run


@pytest.fixture
def folder(tmp_path: Path, records: Records) -> Path:
    seen = sorted({r.pid for r in records.query})[:3]
    return make_run(tmp_path / "finished", features(records, 0.4), seen, model={"name": "<tiny>"})


def notes(page: str) -> str:
    return unescape(" ".join(re.findall(r'<p class="note">(.*?)</p>', page, re.DOTALL)))


def cells(page: str, title: str) -> dict[str, list[str]]:
    """The cells of the first table under a title by the first cell of each row."""
    after = page[page.index(f"<figcaption>{title}") :]
    rows = re.findall(r"<tr>(<td>.*?)</tr>", after[: after.index("</table>")], re.DOTALL)
    found = [[unescape(c) for c in re.findall(r"<td>(.*?)</td>", r, re.DOTALL)] for r in rows]
    return {first: rest for first, *rest in found}


def chart(page: str, title: str) -> str:
    source = page[page.index(f"<figcaption>{title}<") :].split("base64,", 1)[1].split('"')[0]
    return base64.b64decode(source).decode()


def test_the_numbers_are_those_of_the_files(folder: Path) -> None:
    found = RunFolder(folder).metrics
    assert found is not None
    ends = {**found.intervals, "mAP": [0.1, 0.2], "rank1": [None, None]}
    change(folder, retrieval={**found.retrieval, "mAP": 0.1234}, intervals=ends)
    page = build_page([folder])
    shown = cells(page, "Test")
    assert shown["cross-camera"][1] == "12.3 %\n10.0..20.0"
    assert shown["cross-camera"][2] == percent(found.retrieval["rank1"])
    other = "cross-camera, without distractors"
    assert shown[other][1] == percent(found.protocols[other]["mAP"])
    pairs = cells(page, "mAP by query camera")
    for camera, row in zip(found.camera_pairs["cameras"], found.camera_pairs["mAP"], strict=True):
        assert pairs[f"c{camera}"] == [percent(value) for value in row]
    unseen = found.leak["unseen"]
    row = shown[f"cross-camera, {unseen['identities']} unseen identities"]
    assert row[1] == percent(unseen["mAP"])
    assert "cross-camera, 3 seen identities" in shown
    assert cells(page, "Head check")["identity"][-2:] == ["75.0 %", "80.0 %"]
    for text in ("digest: ab12", "command: camreid-train +split=&lt;x&gt;", "name: &lt;tiny&gt;"):
        assert text in page
    lines = {"Training loss": "total loss", "Validation": "mAP", "CMC": "finished"}
    assert all(line in chart(page, title) for title, line in lines.items())


def test_runs_are_paired_with_the_first_and_a_matrix_stands_alone(
    tmp_path: Path, folder: Path, records: Records
) -> None:
    noisy, third = (make_run(tmp_path / f"{n}", features(records, n)) for n in (1.0, 0.8))
    matrix = make_matrix(tmp_path / "m", records)
    page = build_page([folder, noisy, third, matrix])
    pairs = cells(page, "Paired differences")
    assert list(pairs) == [f"{folder} - {noisy}", f"{folder} - {third}"]
    assert pairs[f"{folder} - {noisy}"][1].startswith("+")
    assert f"{folder} (&lt;tiny&gt;) is better than {noisy}" in page
    assert {str(folder), str(noisy), str(third)} <= cells(page, "Test").keys()
    shown = cells(page[page.index(f"<h2>{matrix}") :], "mAP")
    kept = RunFolder(matrix).matrix
    for name, row in kept.compared["rows"].items():  # the fair numbers are the first
        assert any(f"{100 * row['retrieval']['mAP']:.1f}" in cell for cell in shown[name])
    assert "No expert is of camera 4. No row mean: the <features> differ" in notes(page)


def test_the_page_starts_with_the_answer_and_says_leakage_once(
    tmp_path: Path, folder: Path, records: Records
) -> None:
    matrix = make_matrix(tmp_path / "m", records)
    page = build_page([folder, make_run(tmp_path / "b", features(records, 0.5)), matrix])
    start = page.index("<h2>")
    for text in (RunFolder(matrix).matrix.verdict, "better than", "original split, camera 3<"):
        assert text in unescape(page[:start])
    found = re.findall("Leakage: [^<]*", page)
    assert f"Leakage: {folder} was trained on 3 of the 12 test identities." in found
    assert len(found) == len(set(found)) == 2  # of the run and of the matrix
    assert "Leakage" not in page[start:]
    folded = re.findall("<details><summary>(.*?)</summary>", page)
    assert sum("by query camera" in title for title in folded) == 2  # the two that leak
    assert page.count('<input type="checkbox"') == page.count('<img src="data:image/jpeg')


def test_thresholds_and_reliability_are_those_of_the_file(folder: Path) -> None:
    page, found = build_page([folder]), RunFolder(folder).metrics
    shown, kept = cells(page, "Thresholds of the cosine"), found.verification
    for rate, point in kept["far"].items():
        threshold, tar, fnmr = shown[f"{100 * float(rate):g} %"]
        assert (threshold, fnmr) == (f"{point['threshold']:.3f}", percent(point["fnmr"]))
        assert tar.split("\n")[0] == percent(point["tar"])
    assert f"EER {percent(kept['eer']['rate'])}" in shown
    point, row = kept["open_set"]["fpir"]["0.1"], shown["open set, FPIR 10 %"]
    assert row[::2] == [f"{point['threshold']:.3f}", percent(point["fnir"])]
    by_camera = cells(page, "TAR at 0.1 %")
    pair = kept["camera_pairs"]["1-3"]["far"]["0.001"]
    assert by_camera["c1"][2] == f"{percent(pair['tar'])}\n{pair['threshold']:.3f}"
    assert by_camera["c1"][0] == "n/a"  # no match in the query's camera
    assert len(cells(page, "Reliability of")) == len(found.reliability)
    assert "calibrated probability" in chart(page, "Reliability")


def test_a_table_of_many_camera_pairs_is_left_out(tmp_path: Path, records: Records) -> None:
    table = features(records, 0.4)
    many = torch.arange(len(table.query.cameras)) + 1
    table = replace(table, query=replace(table.query, cameras=many))
    assert len(many) > 24
    page = build_page([make_run(tmp_path / "many", table)])
    assert "Thresholds of the cosine" in page
    assert "TAR at 0.1 %" not in page
    assert "mAP by query camera" not in page


def test_the_reason_for_no_thresholds_is_shown(folder: Path) -> None:
    change(folder, verification=None, reliability=None, no_thresholds="there are 0 pairs.")
    page = build_page([folder])
    assert "No thresholds: there are 0 pairs." in notes(page)
    assert "Thresholds of" not in page
    assert "Reliability" not in page


def test_one_epoch_is_a_visible_point_between_whole_numbers() -> None:
    svg = base64.b64decode(draw("epoch", {"mAP": [(1, 0.02)]}).split(",")[1]).decode()
    ticks = re.findall(r">([\d.]+%?)</text>", svg)
    assert [tick for tick in ticks if "%" not in tick] == ["1"]
    assert "100%" in ticks
    assert "<use" in svg  # a marker


def test_names_are_text_and_the_page_fetches_nothing(tmp_path: Path, records: Records) -> None:
    name = "_--><script>alert(1)<b>$x_{1$&amp;"
    strange = make_run(tmp_path / name, features(records))
    matrix = make_matrix(tmp_path / "m<b>", records)
    page = build_page([strange, matrix])
    assert not any(text in page for text in ("<script", "<b>$", "m<b>"))
    assert "default-src 'none'" in page
    for address in re.findall(r'(?:src|href)="([^"]*)"|url\(([^)]*)\)', page):
        assert "".join(address).startswith(("data:", "#"))
    assert page.count('<img src="data:image/jpeg') == page.count('<li class="')
    assert len(page) < 3e6


def test_an_unfinished_run_is_shown_as_far_as_it_went(folder: Path) -> None:
    table, _ = RunFolder(folder).ranked
    for part in (table.query, table.gallery):
        object.__setattr__(part, "paths", tuple(f"gone/{path}" for path in part.paths))
    table.save(folder / "features.safetensors")
    page = build_page([folder])
    assert page.count("no picture") == page.count('<li class="')
    (folder / "features.safetensors").unlink()
    page = build_page([folder])
    assert "No saved features" in notes(page)
    assert "cross-camera" in cells(page, "Test")
    assert "CMC<" not in page
    (folder / "metrics.json").unlink()
    page = build_page([folder])
    assert "no metrics.json" in notes(page)
    assert "Training loss" in page
    assert "identity" in cells(page, "Head check")


def test_lists_are_in_the_order_before_re_ranking(folder: Path) -> None:
    before = re.findall("<p>Best.*?</p>", build_page([folder]))
    change(folder, evaluation={"rerank": "k-reciprocal", "rerank_k1": 5, "rerank_k2": 2})
    page = build_page([folder])
    assert re.findall("<p>Best.*?</p>", page) == before
    assert "before re-ranking" in notes(page)
