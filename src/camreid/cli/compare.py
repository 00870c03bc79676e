"""camreid-compare: which of two runs is better."""

import argparse
import json
from pathlib import Path

from camreid.cli._entry import begin
from camreid.cli.errors import one_paragraph
from camreid.cli.output import check_output, require_existing, write_output
from camreid.progress import note


def parser() -> argparse.ArgumentParser:
    """The arguments."""
    found = argparse.ArgumentParser(
        "camreid-compare",
        description="Shows the differences between runs in options, heads, leakage and scores, and "
        "the paired difference of each two runs with a verdict.",
    )
    found.add_argument("runs", nargs="+", metavar="RUN", help="folders of two runs or more")
    found.add_argument("-o", "--output", metavar="FILE", type=Path, help="a .json file")
    return found


def main() -> None:
    """The console script."""
    with one_paragraph("camreid-compare"):
        typed = parser().parse_args()
        require_existing(typed.runs)
        if typed.output:
            check_output("camreid-compare", typed.output, ".json")
        compare = begin("camreid.runs.compare")  # torch only now: --help is quick
        from camreid.cli.terminal import show

        note(f"Comparing {', '.join(typed.runs)}")
        found = compare.compare_runs(typed.runs)
        show(*found.tables(), "", *(pair.verdict for pair in found.pairs))
        if typed.output:
            write_output(typed.output, json.dumps(found.to_json(), indent=1))
