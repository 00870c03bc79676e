"""camreid-report, and what it shares with other commands: arguments and the file of `-o`."""

import argparse
from collections.abc import Sequence
from pathlib import Path

import yaml

from camreid.cli._entry import begin, require_packages
from camreid.cli.errors import one_paragraph
from camreid.errors import InputError
from camreid.files import CONF, write_text


def main() -> None:
    """The console script."""
    with one_paragraph("camreid-report"):
        typed = parser("report").parse_args()
        require_existing(typed.runs)
        path = typed.output or Path(typed.runs[0], "report.html")
        check_output("camreid-report", path, ".html")
        require_packages("camreid-report", "jinja2", "matplotlib", extra="camreid[report]")
        page = begin("camreid.runs.report.page")  # torch only now: --help is quick
        write_text(path, page.build_page(typed.runs))
        print(f"Written to {path}")


def parser(command: str) -> argparse.ArgumentParser:
    """The arguments of a command with `-o`, by its file in `conf/hydra/help/`."""
    text = yaml.safe_load((CONF / "hydra" / "help" / f"{command}.yaml").read_text("utf-8"))
    form, about = argparse.RawDescriptionHelpFormatter, (text["description"], text["epilog"])
    found = argparse.ArgumentParser(f"camreid-{command}", None, *about, formatter_class=form)
    for name, options in text["arguments"].items():
        found.add_argument(name, **options)
    found.add_argument("-o", "--output", metavar="FILE", type=Path, help=text["output"])
    return found


def require_existing(paths: Sequence[str]) -> None:
    """Refuse runs that are not there."""
    for path in (path for path in paths if not Path(path).exists()):
        raise InputError(f"there is no {path}: expected the folder of a run or a checkpoint.")


def check_output(command: str, path: Path, *suffixes: str) -> None:
    """Refuse a file of another kind, or one that the command did not write."""
    if path.suffix not in suffixes or path.is_dir():
        raise InputError(f"-o {path}: expected a {' or '.join(suffixes)} file.")
    if path.is_file() and command not in path.read_text("utf-8", "replace")[:600]:
        raise InputError(f"-o {path} was not written by {command}: expected another name.")
