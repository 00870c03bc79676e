"""Lines are told apart by what the legend says of them."""

import re
from pathlib import Path

import pytest

from camreid.data import Records
from camreid.runs.report.drawing import distinct
from tests.runs.report.pages import page_of, table
from tests.runs.report.runs import write_run

PREFIX = "a-name-that-is-longer-than-any-legend-could-ever-show-"


def legend(page: str, chart: str) -> list[str]:
    """The texts of the lines of a chart, as one reads them."""
    svg = page[page.index(f"<strong>{chart}</strong>") :]
    svg = svg[: svg.index("</svg>")]
    texts = re.findall(r"<text[^>]*>([^<]*)</text>", svg[svg.index("legend") :])
    return [text.lstrip("\u200b") for text in texts]


@pytest.mark.parametrize(
    "names",
    [
        (f"{PREFIX}one", f"{PREFIX}two", f"{PREFIX}three"),
        (f"{PREFIX}1-{PREFIX[::-1]}", f"{PREFIX}2-{PREFIX[::-1]}"),
    ],
)
def test_no_two_lines_have_one_name(
    tmp_path: Path, records: Records, names: tuple[str, ...]
) -> None:
    runs = [write_run(tmp_path / name, records, queries=20) for name in names]
    page = page_of(*runs)
    said = legend(page, "CMC")
    assert len(said) == len(set(said)) == len(names)
    assert all(len(text) <= 40 for text in said)


def test_runs_of_one_name_are_called_by_their_paths(tmp_path: Path, records: Records) -> None:
    deep = tmp_path / PREFIX
    runs = [write_run(deep / name / "run", records, queries=20) for name in ("a", "b")]
    page = page_of(*runs)
    assert legend(page, "CMC") == ["a/run", "b/run"]
    assert '<th scope="col">a/run</th>' in page
    assert "mAP" in table(page, "Headline numbers")


def test_a_name_in_any_script_stays_text(tmp_path: Path, records: Records) -> None:
    names = ("\u884c\u4eba", "run-\U0001f6b6")  # a warning would be an error
    runs = [write_run(tmp_path / name, records, queries=20) for name in names]
    assert legend(page_of(*runs), "CMC") == list(names)


def test_cut_labels_differ_from_labels_that_are_not_cut() -> None:
    labels = ["abcdefghij", "abXdefghij", "ab…ij", "cd"]
    cut = distinct(labels, 5)
    assert cut[0] == "ab…ij"
    assert cut[3] == "cd"
    assert len(set(cut)) == 4
