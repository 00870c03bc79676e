"""Tables hold text alone, wherever they are written."""

import csv

import pytest

from camreid.progress import printable
from camreid.runs.table import Table

NAMES = (
    "=cmd|' /C calc'!A0",
    "@SUM(1)",
    "+1+2",
    "-x",
    "a|b <b>[c](http://x)",
    "\\input{f} ~^",
    "x\x1b[2J",
)


@pytest.mark.parametrize("name", NAMES)
def test_a_name_is_text(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    table = Table(name, ("run", "mAP"), [[name, "-0.5 %\n-1.0..+0.1"]], [name])
    _, (cell, value, ends) = csv.reader(table.text(".csv").splitlines())
    assert cell.lstrip("'") == name
    assert cell[0] not in "=+-@"
    assert (value, ends) == ("-0.5", "-1.0..+0.1") or ends[0] == "'"
    assert table.text(".md").replace("\\|", "").count("|") == 9
    assert "\\input" not in table.text(".tex")
    table.show()
    assert "\x1b" not in capsys.readouterr().out


def test_letters_are_printable_and_codes_are_not() -> None:
    assert printable("Müller 李 +5 %\n") == "Müller 李 +5 %\n"
    assert printable("\x1b]0;x\x07\u202e\udcff") == r"\x1b]0;x\x07\u202e\udcff"
