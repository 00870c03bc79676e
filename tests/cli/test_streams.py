"""A command goes on without a terminal, and its results are whole."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

CODE = """
import sys
from pathlib import Path
from camreid.cli.errors import one_paragraph
with one_paragraph("camreid-x"):
    print("mAP 50 \\u00b1 1", flush=True)
    print("\\u2500" * 100_000, file=sys.stderr)
    print("the end", flush=True)
    Path("result").write_text("whole")
"""


@pytest.mark.parametrize(
    ("redirection", "code", "expected"),
    [
        ("> /dev/full", 1, "camreid-x: standard output cannot be written: No space left"),
        ("2>&1 | (exec <&-; sleep 3); exit ${PIPESTATUS[0]}", 141, ""),
        (">&-", 0, "\\u2500" * 1000),
        (">&- 2>&-", 0, ""),
        ("2> /dev/full", 0, "mAP 50 \\xb1 1\nthe end\n"),
    ],
)
def test_results_are_whole_without_a_terminal(
    redirection: str, code: int, expected: str, tmp_path: Path
) -> None:
    ran = subprocess.run(
        ["bash", "-c", f'"$0" -c "$1" {redirection}', sys.executable, CODE],
        capture_output=True, text=True, cwd=tmp_path, check=False,
        env={**os.environ, "PYTHONIOENCODING": "ascii", "LC_ALL": "C"},
    )  # fmt: skip
    assert ran.returncode == code, ran.stderr
    assert expected in ran.stdout + ran.stderr
    assert "Traceback" not in ran.stderr
    assert (tmp_path / "result").read_text() == "whole"
