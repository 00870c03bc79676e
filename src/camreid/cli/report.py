"""camreid-report: runs as one HTML file that opens offline."""

import argparse
from pathlib import Path

from camreid.cli._entry import begin
from camreid.cli.early import require_packages
from camreid.cli.errors import one_paragraph
from camreid.cli.output import check_output, require_existing, write_output

_EXAMPLES = """\
  camreid-report runs/RUN                            writes runs/RUN/report.html
  camreid-report runs/FIRST runs/SECOND -o both.html
  camreid-report runs/MATRIX                         the tables of camreid-matrix

An unfinished run is shown as far as it went. Needs pip install 'camreid[report]'.
"""


def parser() -> argparse.ArgumentParser:
    """The arguments."""
    found = argparse.ArgumentParser(
        "camreid-report",
        description="Runs as one HTML file that opens offline: scores, curves, ranked lists.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    about = "folder of a run or matrix"
    found.add_argument("runs", nargs="+", metavar="RUN", type=Path, help=about)
    about = "a .html file; report.html in the first RUN if not given"
    found.add_argument("-o", "--output", metavar="FILE", type=Path, help=about)
    return found


def main() -> None:
    """The console script."""
    with one_paragraph("camreid-report"):
        typed = parser().parse_args()
        require_existing(typed.runs)
        path = typed.output or typed.runs[0] / "report.html"
        check_output("camreid-report", path, ".html")
        require_packages("camreid-report", "jinja2", "matplotlib")
        page = begin("camreid.runs.report.page")  # torch only now: --help is quick
        write_output(path, page.build_page(typed.runs))
