"""The section of a matrix says what matrix.json and the features say, and what is missing."""

import gc
import json
import re
import weakref
from collections.abc import Callable
from html import unescape
from pathlib import Path
from typing import Any

import pytest
import torch

from camreid.checkpoints import save
from camreid.data import OriginalSplit, Records
from camreid.evaluation import FeatureTable, intervals, rank
from camreid.model import ReIDModule
from camreid.reporting import matrix_measuring
from camreid.reporting.matrix_reading import read_matrix
from camreid.reporting.page import build_page, read_folder
from tests.conftest import CONFIG, Ran
from tests.reporting.matrices import write_matrix
from tests.reporting.runs import write_run
from tests.reporting.test_page import notes

Run = Callable[..., Ran]


@pytest.fixture
def folder(tmp_path: Path, records: Records) -> Path:
    return write_matrix(tmp_path / "matrix", records)


def page_of(*folders: Path) -> str:
    return build_page([read_folder(f) for f in folders])


def table(page: str, title: str) -> dict[str, list[str]]:
    """The cells of a table by row, as one reads them."""
    whole = re.search(rf'aria-label="{re.escape(title)}">(.*?)</table>', page, re.DOTALL)
    assert whole, title
    rows = re.findall(r'<th scope="row">(.*?)</th>(.*?)</tr>', whole[1], re.DOTALL)
    return {
        re.sub("<.*?>", "", label): [
            unescape(re.sub("<.*?>", "", cell.replace("<small>", " | ")))
            for cell in re.findall(r"<td[^>]*>(.*?)</td>", row, re.DOTALL)
        ]
        for label, row in rows
    }


def content(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "matrix.json").read_text())


def change(folder: Path, **changed: object) -> None:
    (folder / "matrix.json").write_text(json.dumps({**content(folder), **changed}))


def test_heat_maps_are_those_of_the_features(folder: Path) -> None:
    page = page_of(folder)
    for title, number in (("mAP", "mAP"), ("Rank-1", "rank1")):
        said = table(page, f"{title} by query camera")
        assert list(said) == ["c1", "c2", "c3", "concat"]
        for name in ("c1", "c2", "c3"):
            q, g = _parts(folder, name)
            found = rank(q.features, g.features, q.pids, g.pids, q.cameras, g.cameras)
            for place, camera in enumerate(content(folder)["cameras"]):
                part = found.of(q.cameras == camera)
                value = part.mAP if number == "mAP" else part.cmc[0].item()
                low, high = intervals(part)[number]
                shown, _, ends = said[name][place].replace("★", "").partition(" | ")
                assert shown.removesuffix(" best expert") == f"{100 * value:.1f}"
                digits = 1 if high < 0.1 else 0
                assert ends == f"{100 * low:.{digits}f} to {100 * high:.{digits}f}"
            value = found.mAP if number == "mAP" else found.cmc[0].item()
            assert f"{100 * value:.1f}" in said[name][-1]


def _parts(folder: Path, name: str) -> tuple[Any, Any]:
    found = FeatureTable.load(folder / "features" / f"{name}.safetensors")
    return found.query, found.gallery


def test_the_best_expert_of_each_camera_is_marked_in_words_and_shape(folder: Path) -> None:
    said = table(page_of(folder), "mAP by query camera")
    experts = content(folder)["experts"]
    for place, camera in enumerate(content(folder)["cameras"]):
        scores = {n: e["by_camera"][str(camera)]["retrieval"]["mAP"] for n, e in experts.items()}
        best = max(scores.values())
        for name, value in scores.items():
            marks = [mark in said[name][place] for mark in ("★", "best expert")]
            assert marks == [value == best] * 2
    assert not any("★" in cell for cell in said["concat"])


def test_kinds_of_rows_are_apart(tmp_path: Path, records: Records) -> None:
    page = page_of(write_matrix(tmp_path / "m", records, controls=True))
    heat = page[page.index('aria-label="mAP by query camera"') :]
    heat = heat[: heat.index("</table>")]
    groups = re.findall(r'scope="rowgroup"[^>]*><span>(.*?)<', heat)
    assert groups == ["Experts", "Put together", "Controls"]
    bodies = [re.findall(r'scope="row">(.*?)<', body) for body in heat.split("<tbody>")[1:]]
    assert bodies == [["c1", "c2", "c3"], ["concat"], ["joint"]]
    said = table(page, "Headline numbers of m")
    assert said["joint"][-1] == "12,936"
    assert {said[name][-1] for name in ("c1", "concat")} == {"n/a"}
    assert "joint" in table(page, "Experts: coverage and leak")
    curves = page[page.index('aria-label="CMC as a table"') :]
    assert '<th scope="col">joint</th>' in curves[: curves.index("</table>")]


def test_what_there_is_not_leaves_no_column(folder: Path) -> None:
    page = page_of(folder)
    assert "images seen" not in page
    assert "Controls" not in page
    assert "This split leaks" not in page


def test_experts_and_differences(folder: Path) -> None:
    page, said = page_of(folder), content(folder)
    assert table(page, "Experts: coverage and leak")["c2"][:4] == [
        "2", "12", "75.0 %", f"0 of {said['experts']['c2']['leak']['all']['identities']}",
    ]  # fmt: skip
    best = said["best"]["all"]["mAP"]
    shown = table(page, f"Paired differences from {best}")
    assert set(shown) == {"c1", "c2", "c3", "concat"} - {best}
    for name, cells in shown.items():
        found = said["differences"][name]
        for number, value, p in (("mAP", *cells[:2]), ("rank1", *cells[2:])):
            low, high = (100 * found[number][end] for end in ("low", "high"))
            assert value == f"{100 * found[number]['value']:+.1f} | {low:+.1f} to {high:+.1f}"
            assert p == f"{found[number]['p']:.3f}"


def test_spaces_pairs_and_what_is_left_out(folder: Path) -> None:
    page, said = page_of(folder), content(folder)
    for title, key in (("Agreement", "agreement"), ("CKA", "cka")):
        shown = table(page, f"{title} of the experts' features".replace("'", "&#39;"))
        rows = zip(shown.values(), said["spaces"][key], strict=True)
        assert all(cells == [f"{100 * x:.1f}" for x in row] for cells, row in rows)
    pairs = said["combinations"]["concat"]["camera_pairs"]
    shown = table(page, "Rank-1 of concat by camera pair")
    for cells, row in zip(shown.values(), pairs["rank1"], strict=True):
        assert cells == ["n/a" if x is None else f"{100 * x:.1f}" for x in row]
    assert "No row mean: the features are <not> comparable" in notes(page)
    assert "No row image_camera: nor here" in notes(page)
    assert "camreid-matrix experts=x +split=original" in page


def test_figures_have_the_numbers_of_all_rows(folder: Path) -> None:
    page, said = page_of(folder), content(folder)
    shown = table(page, "mAP by row as a table")
    rows = {**said["experts"], **said["combinations"]}
    for name, row in rows.items():
        low, high = row["intervals"]["mAP"]
        value = row["retrieval"]["mAP"]
        assert shown[name][1:] == [
            f"{100 * value:.1f} %", f"{100 * low:.1f} % to {100 * high:.1f} %",
        ]  # fmt: skip
    curves = table(page, "CMC as a table")
    assert curves["5"] == [f"{100 * row['retrieval']['rank5']:.1f} %" for row in rows.values()]
    assert [cell == "" for cell in curves["20"]] == [False, False, False, True]
    assert "Of concat no features are kept" in page


def test_a_leak_is_said_in_every_table(tmp_path: Path, records: Records) -> None:
    page = page_of(write_matrix(tmp_path / "leaky", records, leaks=True))
    captions = re.findall(r"<caption>(.*?)</caption>", page, re.DOTALL)
    assert len(captions) > 10
    for caption in captions:
        assert "This split leaks: of " in caption
        assert "trained on c1 3." in caption
    assert table(page, "Experts: coverage and leak")["c1"][3].startswith("3 of ")


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

    monkeypatch.setattr(matrix_measuring.FeatureTable, "load", watched)
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
    assert headings == ["Headline", "CMC and ROC", "run", "matrix"]
    ids = re.findall(r'\bid="([^"]*)"', page)
    assert len(ids) == len(set(ids))
    assert "mAP" in table(page, "Headline numbers")
    assert "c1" in table(page, "Headline numbers of matrix")


def test_broken_files_are_one_paragraph(run: Run, folder: Path) -> None:
    whole = (folder / "matrix.json").read_text()
    hollow = [json.dumps({**json.loads(whole), "experts": e}) for e in ({}, {"c1": {}}, ["c1"])]
    for broken in (whole[:100], "{}", *hollow):
        (folder / "matrix.json").write_text(broken)
        ran = run("camreid-report", folder)
        assert ran.code == 1
        assert "matrix.json" in ran.err
        assert "\n" not in ran.err.strip()
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
