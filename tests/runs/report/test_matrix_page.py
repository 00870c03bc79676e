"""The section of a matrix says what matrix.json and the features say, and what is missing."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from camreid.data import Records
from camreid.evaluation import FeatureTable, intervals, rank
from tests.runs.report.matrices import write_matrix
from tests.runs.report.pages import content, page_of, table
from tests.runs.report.test_page import notes


@pytest.fixture
def folder(tmp_path: Path, records: Records) -> Path:
    return write_matrix(tmp_path / "matrix", records)


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


def test_notes_and_origin_of_a_matrix_are_shown(folder: Path) -> None:
    page = page_of(folder)
    assert "No expert is of camera 4." in notes(page)
    assert "c0ffee" in page
    assert "torch 2.9" in page


def test_where_it_leaks_the_best_is_that_on_unseen_people(tmp_path: Path, records: Records) -> None:
    folder = write_matrix(tmp_path / "leaky", records, leaks=True)
    page, said = page_of(folder), content(folder)
    compared = said["compared"]["rows"]
    assert compared["c1"]["retrieval"]["mAP"] != said["experts"]["c1"]["retrieval"]["mAP"]
    assert "★" not in str(table(page, "mAP by query camera"))
    shown = table(page, "mAP of people compared by query camera")
    for place, camera in enumerate(said["cameras"]):
        parts = {n: compared[n]["by_camera"][str(camera)] for n in said["experts"]}
        scores = {n: part["retrieval"]["mAP"] for n, part in parts.items() if part}
        for name in said["experts"]:
            starred = "★" in shown[name][place]
            value = parts[name] and f"{100 * scores[name]:.1f}"
            assert shown[name][place].replace("★", "").startswith(value or "n/a")
            assert starred == (scores.get(name, 0) == max(scores.values(), default=0) > 0)
    assert "go by the" in page
    assert "on the people whom none of the rows has seen" in page


def test_a_matrix_written_before_rows_were_compared_is_shown(folder: Path) -> None:
    said = content(folder)
    (folder / "matrix.json").write_text(
        json.dumps({key: value for key, value in said.items() if key != "compared"})
    )
    assert "★" in "".join(table(page_of(folder), "mAP by query camera")[said["best"]["all"]["mAP"]])


def test_a_difference_of_one_person_has_no_interval(folder: Path) -> None:
    said = content(folder)
    for found in said["differences"].values():
        found["mAP"] |= {"low": None, "high": None, "p": 1.0}
    (folder / "matrix.json").write_text(json.dumps(said))
    shown = table(page_of(folder), f"Paired differences from {said['best']['all']['mAP']}")
    for name, cells in shown.items():
        assert cells[:2] == [f"{100 * said['differences'][name]['mAP']['value']:+.1f}", "1.000"]
