"""Bars on a terminal, lines elsewhere."""

import io
import sys

import pytest

from camreid import progress
from camreid.progress import Progress, note


class Screen(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_off_a_terminal_lines_come_at_once_and_at_intervals(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    seconds = 0.0
    monkeypatch.setattr(progress.time, "monotonic", lambda: seconds)
    seen = []
    for item in Progress(range(200), "Checking", unit="image", mininterval=0):
        seen.append(item)
        seconds += 1
    captured = capsys.readouterr()
    lines = captured.out.splitlines()
    assert seen == list(range(200))
    assert lines[0].startswith("Checking: 0/200")
    assert len(lines) == 1 + 200 // 30
    assert "\r" not in captured.out
    assert captured.err == ""
    list(Progress(range(20), "Late", late=True))
    assert capsys.readouterr().out == ""


def test_on_a_terminal_the_bar_goes_and_notes_stay(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stderr", screen := Screen())
    for _ in Progress(range(3), "Checking"):
        note("a line")
    assert "Checking:" in screen.getvalue()
    assert screen.getvalue().endswith("\r")
    assert capsys.readouterr().out.splitlines() == ["a line"] * 3


def test_other_ranks_are_silent(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LOCAL_RANK", "1")
    note("a line")
    assert list(Progress(range(3), "Checking")) == [0, 1, 2]
    assert capsys.readouterr() == ("", "")
