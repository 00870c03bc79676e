"""camreid-report: runs as one HTML file that opens offline."""

import argparse
from importlib.util import find_spec
from pathlib import Path

from camreid.cli.errors import told
from camreid.errors import InputError

_NEEDED = ("jinja2", "matplotlib")
_EXAMPLES = """\
  camreid-report runs/RUN                            writes runs/RUN/report.html
  camreid-report runs/FIRST runs/SECOND -o both.html
  camreid-report runs/MATRIX                         what camreid-matrix has written

A run that is not finished is shown as far as it went. Needs pip install 'camreid[report]'.
"""


def read_arguments() -> argparse.Namespace:
    """What was typed."""
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
    """Write the page, and say where.

    Raises:
        InputError: a folder that is no run, broken files alone, a page that can't be written.
    """
    _require_packages()
    path = output or runs[0] / "report.html"
    if path.suffix.lower() not in (".html", ".htm") or path.is_dir():
        raise InputError(f"-o {path}: type a file that ends in .html, such as -o report.html.")
    whole = [run.resolve() for run in runs]
    twice = [run for number, run in enumerate(runs) if whole[number] in whole[:number]]
    if twice:
        raise InputError(f"{twice[0]} was typed twice; type each RUN once.")
    from camreid.runs.report.page import (  # torch only now: --help is quick
        build_page,
        read_folders,
        write_page,
    )

    write_page(path, build_page(read_folders(runs)))
    return path


def _require_packages() -> None:
    missing = [name for name in _NEEDED if find_spec(name) is None]
    if missing:
        raise InputError(
            f"a report needs {' and '.join(missing)}, not installed here. Type pip install "
            "'camreid[report]', or pip install '.[report]' in a checkout."
        )


def main() -> None:
    """The console script."""
    typed = read_arguments()
    with told("camreid-report"):
        path = report(typed.runs, typed.output)
        print(f"Written to {path} ({path.stat().st_size / 1e6:.1f} MB)")


if __name__ == "__main__":
    main()
