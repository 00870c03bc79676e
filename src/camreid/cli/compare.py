"""camreid-compare: runs side by side, and whether one is better."""

import argparse
import sys
from typing import NoReturn

from camreid.cli.errors import told
from camreid.errors import InputError

ABOUT = """\
Shows what differs between runs, their heads, leaks and numbers, and the paired difference of each
two on the queries that they share. Says so where it can't be told which is better."""


class Parser(argparse.ArgumentParser):
    """A parser whose errors are one paragraph."""

    def error(self, message: str) -> NoReturn:
        """Tell `main`, which tells the user."""
        raise InputError(f"{message}. Type camreid-compare runs/A runs/B, or --help.")


def parser() -> Parser:
    """What can be typed."""
    found = Parser("camreid-compare", description=ABOUT)
    found.add_argument("runs", nargs="*", metavar="RUN", help="folders of two runs or more")
    found.add_argument(
        "-o",
        dest="outputs",
        action="append",
        default=[],
        metavar="FILE",
        help="write it to a .json or .md file, too; may be given twice",
    )
    return found


def main() -> None:
    """The console script."""
    with told("camreid-compare"):
        typed = parser().parse_args(sys.argv[1:])
        from camreid.cli.comparer import compare_run  # torch only now, so that --help is quick

        compare_run(typed.runs, typed.outputs)


if __name__ == "__main__":
    main()
