"""camreid-report: runs as one HTML file that opens offline."""

import argparse
from pathlib import Path

from camreid.cli._entry import begin
from camreid.cli.early import require_packages
from camreid.cli.errors import one_paragraph
from camreid.cli.output import arguments, check_output, require_existing, write_output

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
        require_existing(typed.runs)
        path = typed.output or Path(typed.runs[0], "report.html")
        check_output("camreid-report", path, ".html")
        require_packages("camreid-report", "jinja2", "matplotlib", extra="camreid[report]")
        page = begin("camreid.runs.report.page")  # torch only now: --help is quick
        write_output(path, page.build_page(typed.runs))
