"""camreid-compare: run folders side by side, and whether one is better."""

import argparse
import json
import sys
from pathlib import Path
from typing import NoReturn

from camreid.cli.errors import one_paragraph
from camreid.errors import InputError
from camreid.files import write_text

ABOUT = """\
Shows the differences between runs in options, heads, leakage and results, and the paired difference
of each two on the queries that they share."""


class Parser(argparse.ArgumentParser):
    """A parser whose errors are one paragraph."""

    def error(self, message: str) -> NoReturn:
        """Raise what `main` prints."""
        raise InputError(f"{message}. Type camreid-compare runs/A runs/B, or --help.")


def parser() -> Parser:
    """The arguments."""
    found = Parser("camreid-compare", description=ABOUT)
    found.add_argument("runs", nargs="*", metavar="RUN", help="folders of two runs or more")
    found.add_argument(
        "-o",
        dest="outputs",
        action="append",
        default=[],
        metavar="FILE",
        help="also write a .json or .md file; may be given twice",
    )
    return found


def main() -> None:
    """The console script."""
    with one_paragraph("camreid-compare"):
        typed = parser().parse_args(sys.argv[1:])
        outputs = [Path(name) for name in typed.outputs]
        for path in outputs:
            _check_output(path, typed.runs)
        from camreid.cli.terminal import be_quiet, show  # torch only now: --help is quick
        from camreid.runs.compare import compare_runs

        be_quiet()
        found = compare_runs(typed.runs)
        show(*(table.to_rich() for table in found.tables()))
        show(*(f"- {text}" for text in found.caveats), "", *found.verdicts)
        for path in outputs:
            write = path.suffix == ".md"
            text = found.to_markdown() if write else json.dumps(found.to_json(), indent=1) + "\n"
            try:
                write_text(path, text)
            except OSError as error:
                raise InputError(f"-o {path} can't be written ({error.strerror}).") from error
            show(f"Written to {path}")
        if found.missing:
            raise InputError(" ".join(found.missing))


def _check_output(path: Path, folders: list[str]) -> None:
    """Refuse another kind of file, and a file of a run."""
    if path.suffix not in (".json", ".md"):
        raise InputError(f"-o {path}: expected a .json or .md file, such as -o compare.md.")
    parents = path.resolve().parents
    if path.is_file() and any(Path(folder).resolve() in parents for folder in folders):
        raise InputError(f"-o {path} is a file of a run: expected another name.")


if __name__ == "__main__":
    main()
