"""camreid-report, and what it shares with camreid-compare: RUN arguments and the file of `-o`."""

import argparse
from pathlib import Path

from camreid.cli._entry import begin
from camreid.cli.early import require_packages
from camreid.cli.errors import one_paragraph
from camreid.errors import InputError
from camreid.files import write_text

_EXAMPLES = """\
  camreid-report runs/RUN                            writes runs/RUN/report.html
  camreid-report runs/FIRST runs/SECOND -o both.html
  camreid-report runs/MATRIX                         the tables of camreid-matrix

An unfinished run is shown as far as it went. Needs pip install 'camreid[report]'.
"""


def parser() -> argparse.ArgumentParser:
    """The arguments."""
    about = "Runs as one HTML file that opens offline: scores, curves, ranked lists."
    output = "a .html file; report.html in the first RUN if not given"
    return arguments("camreid-report", about, _EXAMPLES, "folder of a run or matrix", output)


def main() -> None:
    """The console script."""
    with one_paragraph("camreid-report"):
        typed = parser().parse_args()
        path = typed.output or Path(typed.runs[0], "report.html")
        check_output("camreid-report", path, ".html")
        require_packages("camreid-report", "jinja2", "matplotlib", extra="camreid[report]")
        page = begin("camreid.runs.report.page")  # torch only now: --help is quick
        write_text(path, page.build_page(typed.runs))
        print(f"Written to {path}")


def arguments(
    command: str, description: str, examples: str, runs: str, output: str
) -> argparse.ArgumentParser:
    """RUN ... and -o, with the help of both."""
    form = argparse.RawDescriptionHelpFormatter
    found = argparse.ArgumentParser(command, None, description, examples, formatter_class=form)
    found.add_argument("runs", nargs="+", metavar="RUN", help=runs)
    found.add_argument("-o", "--output", metavar="FILE", type=Path, help=output)
    return found


def check_output(command: str, path: Path, *suffixes: str) -> None:
    """Refuse a file of another kind, or one that the command did not write."""
    if path.suffix not in suffixes or path.is_dir():
        raise InputError(f"-o {path}: expected a {' or '.join(suffixes)} file.")
    if path.is_file() and command not in path.read_text("utf-8", "replace")[:600]:
        raise InputError(f"-o {path} was not written by {command}: expected another name.")
