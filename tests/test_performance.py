"""The documented figures are the JSON of the benchmarks."""

import json
from pathlib import Path
from runpy import run_path

import pytest

ROOT = Path(__file__).parents[1]
MEASURE = run_path(str(ROOT / "scripts" / "bench" / "measure.py"))


def test_a_report_is_what_the_manual_reads(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [MEASURE["row"]("fast", 0.5, "s", 2.0), MEASURE["row"]("memory", 12345.678, "MB")]
    MEASURE["report"]("ranking", rows, "3 x 4", 5, tmp_path / "r.json")
    written = json.loads((tmp_path / "r.json").read_text())
    assert MEASURE["table"](written).strip() == capsys.readouterr().out.strip()
    assert [line["ratio"] for line in written["rows"]] == [0.25, None]
    assert "| memory | 12,350 | MB |  |" in MEASURE["table"](written)


def test_a_result_of_lines_and_columns_is_one_table() -> None:
    names = [("a | size", 12345.6, "MB"), ("a | speed", 3, "images/s"), ("b | size", 1, "MB")]
    rows = [MEASURE["row"](*name) for name in names]
    assert MEASURE["crossed"](rows) == [
        "| | size (MB) | speed (images/s) |",
        "|---|---|---|",
        "| a | 12,350 | 3 |",
        "| b | 1 |  |",
    ]


def test_each_result_has_hardware_n_and_its_benchmark() -> None:
    for path in (ROOT / "docs" / "performance").glob("*.json"):
        result = json.loads(path.read_text())
        assert {*result} == {"name", "hardware", "versions", "load", "n", "rounds", "rows"}
        assert all({*line} == {"what", "value", "unit", "ratio"} for line in result["rows"])
        shown = MEASURE["table"](result)
        assert all(part in shown for part in (result["hardware"], result["n"]))
        assert (ROOT / "scripts" / "bench" / f"{result['name']}.py").is_file()
