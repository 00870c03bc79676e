"""camreid-report: runs as one HTML file that opens offline."""

import argparse
from importlib.util import find_spec
from pathlib import Path

from camreid.cli.errors import one_paragraph
from camreid.errors import InputError
from camreid.files import write_text

_EXAMPLES = """\
  camreid-report runs/RUN                            writes runs/RUN/report.html
  camreid-report runs/FIRST runs/SECOND -o both.html
  camreid-report runs/MATRIX                         the tables of camreid-matrix

An unfinished run is shown as far as it went. Needs pip install 'camreid[report]'.
"""


def read_arguments() -> argparse.Namespace:
    """The arguments of the command."""
    parser = argparse.ArgumentParser(
        prog="camreid-report",
        description="Runs as one HTML file that opens offline: numbers, curves, ranked lists.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "runs", metavar="RUN", nargs="+", type=Path, help="folder of a run or a matrix"
    )
    about = "the file, .html; report.html in the first RUN if not given"
    parser.add_argument("-o", "--output", metavar="FILE", type=Path, help=about)
    return parser.parse_args()


def report(runs: list[Path], output: Path | None) -> Path:
    """Write the page and return its path.

    Raises:
        InputError: a folder is not that of a run, a file in it cannot be read, or the page cannot
            be written.
    """
    missing = [name for name in ("jinja2", "matplotlib") if find_spec(name) is None]
    if missing:
        raise InputError(
            f"a report needs {' and '.join(missing)}: type pip install 'camreid[report]'."
        )
    path = output or runs[0] / "report.html"
    if path.suffix.lower() not in (".html", ".htm") or path.is_dir():
        raise InputError(f"-o {path}: expected a file that ends in .html, such as -o report.html.")
    if len({run.resolve() for run in runs}) < len(runs):
        raise InputError(f"{' '.join(map(str, runs))}: expected each run once.")
    from camreid.runs.report.page import build_page  # torch only now: --help is quick

    page = build_page(runs)
    try:
        write_text(path, page)
    except OSError as error:
        raise InputError(f"-o {path} cannot be written ({error.strerror}).") from error
    return path


def main() -> None:
    """The console script."""
    typed = read_arguments()
    with one_paragraph("camreid-report"):
        path = report(typed.runs, typed.output)
        print(f"Written to {path} ({path.stat().st_size / 1e6:.1f} MB)")


if __name__ == "__main__":
    main()
