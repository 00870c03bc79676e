"""The page says what the features say, and what is missing."""

import json
import re
from collections.abc import Callable
from html import unescape
from pathlib import Path
from typing import Any

import pytest
import torch

from camreid.cli import report as command
from camreid.data import Records
from camreid.evaluation import FeatureTable, intervals, rank
from camreid.evaluation.report import percent
from camreid.runs.report.page import build_page
from camreid.runs.report.ranked import ranked_lists
from camreid.runs.report.reading import read_run
from tests.conftest import TINY, Ran
from tests.runs.report.runs import write_run

Run = Callable[..., Ran]


@pytest.fixture
def folder(tmp_path: Path, records: Records) -> Path:
    return write_run(tmp_path / "finished", records)


def page_of(*folders: Path) -> str:
    return build_page([read_run(f) for f in folders])


def notes(page: str) -> str:
    return unescape(" ".join(re.findall(r'<p class="note">(.*?)</p>', page, re.DOTALL)))


def cells(page: str, label: str) -> list[str]:
    """The first row of a table with this label."""
    row = re.search(rf'<th scope="row">{label}</th>(.*?)</tr>', page, re.DOTALL)
    assert row, label
    return [unescape(cell) for cell in re.findall(r"<td[^>]*>(.*?)</td>", row[1], re.DOTALL)]


def ranked_again(folder: Path) -> tuple[FeatureTable, object]:
    table = FeatureTable.load(folder / "features.safetensors")
    q, g = table.query, table.gallery
    people = (q.pids, g.pids, q.cameras, g.cameras)
    return table, rank(q.features, g.features, *people)


def test_the_headline_is_that_of_the_features(folder: Path) -> None:
    page = page_of(folder)
    _, result = ranked_again(folder)
    ends = intervals(result)
    shares = {"mAP": result.mAP, "Rank-1": result.cmc[0].item(), "mINP": result.mINP}
    for label, key in (("mAP", "mAP"), ("Rank-1", "rank1"), ("mINP", "mINP")):
        low, high = ends[key]
        assert cells(page, label) == [
            f"{percent(shares[label])} ({100 * low:.1f} to {100 * high:.1f})"
        ]
    assert 0.05 < result.mAP < 0.95
    assert cells(page, "Coverage") == ["75.0 % of train identities"]
    assert cells(page, "Leak")[0].startswith("3 of ")
    assert "disagree" not in page


def test_curves_and_camera_pairs_are_those_of_the_features(folder: Path) -> None:
    page = page_of(folder)
    _, result = ranked_again(folder)
    cmc = page[page.index("CMC as a table") :]
    for k in (1, 5, 20):
        assert cells(cmc, str(k)) == [percent(result.cmc[k - 1].item())]
    pairs = json.loads((folder / "metrics.json").read_text())["camera_pairs"]
    heat = page[page.index('class="heat"') :]
    for camera, row in zip(pairs["cameras"], pairs["mAP"], strict=True):
        said = ["n/a" if x is None else f"{100 * x:.1f}" for x in row]
        assert cells(heat, f"c{camera}") == said


def test_the_training_is_that_of_the_file(folder: Path) -> None:
    page = page_of(folder)
    for chart, said in (
        ("Training loss", "3"),
        ("Validation", "20.0 %"),
        ("Learning rate", "0.0003"),
    ):
        assert cells(page[page.index(f"{chart} as a table") :], "3") == [said]
    (folder / "metrics.csv").rename(folder / "metrics.0.csv")
    (folder / "metrics.csv").write_text("epoch,step,train/loss\n4,25,1.5\n")
    page = page_of(folder)
    assert cells(page[page.index("Training loss as a table") :], "5") == ["1.5"]


def test_of_parts_put_aside_the_last_counts(folder: Path) -> None:
    for number in (2, 10):
        text = f"epoch,step,train/loss\n0,5,{number}.5\n"
        (folder / f"metrics.{number}.csv").write_text(text)
    (folder / "metrics.csv").unlink()
    page = page_of(folder)
    assert cells(page[page.index("Training loss as a table") :], "1") == ["10.5"]


def test_names_are_text_and_nothing_else(tmp_path: Path, folder: Path, records: Records) -> None:
    odd = write_run(tmp_path / "_--><script>alert(1)<b>$x_{1$&amp;", records, noise=1.0)
    page = page_of(folder, odd)
    assert "<script>alert" not in page
    assert "<b>$" not in page
    assert page.count("<script>") == 1


def test_lists_are_those_of_sorting_everything(folder: Path) -> None:
    from camreid.runs.report.measuring import measure, options_of

    run = read_run(folder)
    lists = ranked_lists(measure(run.features, options_of(run.metrics)), 4)
    table, result = ranked_again(folder)
    q, g = table.query, table.gallery
    assert [some.kind for some in lists] == ["best"] * 4 + ["worst"] * 4 + ["random"] * 4
    ap = result.average_precision
    assert lists[0].average_precision == ap[~ap.isnan()].max()
    assert lists[4].average_precision == ap[~ap.isnan()].min()
    assert len({some.query.path for some in lists}) == len(lists)
    for some in lists:
        i = q.paths.index(some.query.path)
        cosine = [
            torch.nn.functional.cosine_similarity(q.features[i], f, dim=0).item()
            for f in g.features
        ]
        seen = [
            j
            for j in sorted(range(len(cosine)), key=lambda j: -cosine[j])
            if g.pids[j] != -1 and (g.pids[j] != q.pids[i] or g.cameras[j] != q.cameras[i])
        ]
        assert [shown.path for shown in some.gallery] == [g.paths[j] for j in seen[:10]]
        hits = [bool(g.pids[j] == q.pids[i]) for j in seen]
        assert [shown.match for shown in some.gallery] == hits[:10]
        assert some.first_match == hits.index(True) + 1
        assert [s.score for s in some.gallery] == pytest.approx([cosine[j] for j in seen[:10]])
        assert all(s.picture.startswith("data:image/jpeg;base64,") for s in some.gallery)


def test_the_page_fetches_nothing_and_is_small(folder: Path) -> None:
    page = page_of(folder)
    for address in re.findall(r'(?:src|href)="([^"]*)"|url\(([^)]*)\)', page):
        assert "".join(address).startswith(("data:", "#"))
    assert len(page) < 3e6
    ids = re.findall(r'\bid="([^"]*)"', page)
    assert len(ids) == len(set(ids))
    assert "&lt;tiny&gt;" in page
    assert "camreid-train +split=original model=small" in page


def test_another_metrics_json_is_called_out(folder: Path) -> None:
    path = folder / "metrics.json"
    content = json.loads(path.read_text())
    content["retrieval"]["mAP"] += 0.01
    path.write_text(json.dumps(content))
    said = notes(page_of(folder))
    assert "disagree" in said
    assert "mAP" in said
    assert "rank1" not in said


@pytest.mark.parametrize(
    ("place", "value", "says"),
    [
        (("leak", "seen", "identities"), 77, "leak.seen.identities 77 there, 3 here"),
        (("leak", "unseen", "mAP"), None, "leak.unseen.mAP None there, 0."),
        (("dropped_queries",), 9, "dropped_queries 9 there, "),
        (("camera_pairs", "cameras", 0), 17, "camera_pairs of [17, "),
        (("camera_pairs", "mAP", 0, 0), 0.0123, "camera_pairs.mAP: 1 of "),
        (("camera_pairs", "rank1", 1, 0), None, "camera_pairs.rank1: 1 of "),
    ],
)
def test_any_number_of_another_test_is_called_out(
    folder: Path, place: tuple[Any, ...], value: Any, says: str
) -> None:
    assert "disagree" not in notes(page_of(folder))
    path = folder / "metrics.json"
    whole = part = json.loads(path.read_text())
    for name in place[:-1]:
        part = part[name]
    assert part[place[-1]] != value
    part[place[-1]] = value
    path.write_text(json.dumps(whole))
    assert says in notes(page_of(folder))


def test_an_unfinished_run_shows_what_there_is(folder: Path) -> None:
    for name in ("metrics.json", "features.safetensors"):
        (folder / name).unlink()
    page = page_of(folder)
    assert "has not been tested" in notes(page)
    assert cells(page, "mAP") == ["not tested"]
    assert "Training loss as a table" in page
    assert "Head check" in page
    assert "CMC as a table" not in page
    (folder / "checkpoints").mkdir()
    (folder / "checkpoints" / "last.ckpt").write_bytes(b"cut short")
    said = notes(page_of(folder))
    assert f"resume={folder}/checkpoints/last.ckpt" in said
    assert f"camreid-evaluate checkpoint={folder}/checkpoints/last.ckpt" in said


def test_without_features_the_numbers_stay(folder: Path) -> None:
    before = cells(page_of(folder), "mAP")
    (folder / "features.safetensors").unlink()
    page = page_of(folder)
    assert cells(page, "mAP") == before
    assert 'class="heat"' in page
    assert "evaluation.save_features=true" in notes(page)


def test_without_metrics_json_the_features_give_the_numbers(folder: Path) -> None:
    before = page_of(folder)
    (folder / "metrics.json").unlink()
    page = page_of(folder)
    for label in ("mAP", "Rank-5", "Leak"):
        assert cells(page, label) == cells(before, label)


def test_pictures_that_are_gone_are_said(folder: Path) -> None:
    path = folder / "features.safetensors"
    content = path.read_bytes()
    gone = content.replace(b"query/", b"quarY/").replace(b"bounding_box_test", b"bounding_box_tesT")
    path.write_bytes(gone)
    page = page_of(folder)
    assert "pictures are left out" in notes(page)
    assert "<img" not in page
    assert "no picture" in page


def test_runs_side_by_side(tmp_path: Path, folder: Path, records: Records) -> None:
    same = write_run(tmp_path / "noisier", records, noise=3.0)
    other = write_run(tmp_path / "fewer", records, queries=20)
    assert not notes(page_of(folder, same)).count("different images")
    page = page_of(folder, same, other)
    assert "different images (finished, noisier | fewer)" in notes(page)
    assert len(cells(page, "mAP")) == 3
    content = json.loads((same / "metrics.json").read_text())
    content["evaluation"]["metric"] = "euclidean"
    (same / "metrics.json").write_text(json.dumps(content))
    assert "different rules" in notes(page_of(folder, same))


def test_what_is_typed_wrong_is_one_paragraph(
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
    assert "is no run" in refused("empty")
    assert f"type {folder.parent}/finished" in refused(folder.parent)
    assert "is not there" in refused("nowhere")
    assert "is a file" in refused(folder / "metrics.json")
    assert "typed twice" in refused(folder, folder)
    assert "typed twice" in refused(folder, folder.parent / "." / "x" / ".." / folder.name)
    assert "ends in .html" in refused(folder, "-o", folder / "metrics.json")
    assert "can't be written" in refused(folder, "-o", folder / "metrics.json" / "x.html")
    monkeypatch.setattr(command, "find_spec", lambda name: None)
    assert "pip install 'camreid[report]'" in refused(folder)


@pytest.mark.slow
def test_a_trained_run_and_its_evaluation(run: Run, market: Path) -> None:
    options = (f"data.root={market}", *TINY, "split.val_fraction=0.2")
    ran = run(
        "camreid-train", "+split=resplit", *options, "trainer.max_epochs=2", "run_dir=trained"
    )
    assert ran.code == 0, ran.err
    ran = run("camreid-report", "trained")
    assert ran.code == 0, ran.err
    page = Path("trained/report.html").read_text()
    assert "Written to trained/report.html" in ran.out
    assert 'class="note"' not in page
    for chart in ("Training loss", "Validation", "CMC"):
        assert f"{chart} as a table" in page
    assert "pytorch-lightning" in page
    for extra in ("evaluation.rerank=k-reciprocal", "evaluation.metric=euclidean"):
        name = extra.rpartition("=")[2]
        features = "features=trained/features.safetensors"
        assert run("camreid-evaluate", features, extra, f"run_dir={name}").code == 0
        ran = run("camreid-report", "trained", name, "-o", f"{name}.html")
        assert ran.code == 0, ran.err
        page = Path(f"{name}.html").read_text()
        assert "disagree" not in page
        assert "different rules" in page
        assert ("after re-ranking" in page) == (name == "k-reciprocal")
