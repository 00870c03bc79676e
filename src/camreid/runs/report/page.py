"""The page: runs side by side, then each by itself, in one HTML file."""

import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from camreid import __version__
from camreid.errors import InputError
from camreid.evaluation.report import percent
from camreid.runs.report.between import between_runs
from camreid.runs.report.drawing import Chart
from camreid.runs.report.figures import cmc_chart
from camreid.runs.report.files import require_something
from camreid.runs.report.headline import comparison_notes, headline_rows
from camreid.runs.report.matrix_page import MatrixSection, matrix_section
from camreid.runs.report.matrix_reading import MatrixFolder, is_matrix, read_matrix
from camreid.runs.report.ranked import KINDS, describe
from camreid.runs.report.reading import Run, read_run
from camreid.runs.report.sections import Section, run_section

TEMPLATES = Path(__file__).parent / "templates"


def read_folder(path: Path) -> Run | MatrixFolder:
    """Read the folder of a run, or of a matrix.

    Raises:
        InputError: it is neither.
    """
    return read_matrix(path) if is_matrix(path) else read_run(path)


def read_folders(paths: Sequence[Path]) -> list[Run | MatrixFolder]:
    """Read the folders of a page, without the files that are broken.

    Raises:
        InputError: one is neither of a run nor of a matrix, or nothing is left to be shown.
    """
    folders = [read_folder(path) for path in paths]
    require_something([(folder.has_something, folder.broken) for folder in folders])
    return folders


def build_page(folders: Sequence[Run | MatrixFolder]) -> str:
    """The HTML of some runs and matrices, in the order given; it fetches nothing."""
    names = _names([folder.path for folder in folders])
    count = sum(isinstance(folder, Run) for folder in folders)
    sections = [
        matrix_section(f"run-{number}", name, folder)
        if isinstance(folder, MatrixFolder)
        else run_section(f"run-{number}", name, folder, count)
        for number, (name, folder) in enumerate(zip(names, folders, strict=True))
    ]
    runs = [section for section in sections if isinstance(section, Section)]
    return (
        _environment()
        .get_template("page.html.j2")
        .render(
            sections=sections,
            runs=runs,
            matrices=[section for section in sections if isinstance(section, MatrixSection)],
            headline=headline_rows(runs),
            charts=_charts(runs),
            notes=comparison_notes(runs),
            between=between_runs(runs),
            kinds=KINDS,
            describe=describe,
            version=__version__,
        )
    )


def _charts(runs: Sequence[Section]) -> list[Chart]:
    """CMC of all runs with features."""
    ranked = {s.name: s.found for s in runs if s.found is not None}
    return [cmc_chart({n: f.headline for n, f in ranked.items()})] if ranked else []


def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"percent": percent, "breakable": breakable}
    return environment


def breakable(label: str) -> Markup:
    """A name that may be broken where its words end, and is copied as it is.

    >>> str(breakable("query_camera"))
    'query_<wbr>camera'
    """
    return Markup("_<wbr>").join(label.split("_"))


def write_page(path: Path, content: str) -> None:
    """Write a file, whole or not at all.

    Raises:
        InputError: it can't be written.
    """
    draft = path.with_name(f"{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        draft.write_text(content, encoding="utf-8", errors="replace")  # half a character
        draft.replace(path)
    except OSError as error:
        with suppress(OSError):
            draft.unlink()
        raise InputError(
            f"{path} can't be written ({error.strerror}); type -o with a file in a folder that can "
            "be, such as -o report.html."
        ) from error


def _names(paths: Sequence[Path]) -> list[str]:
    """The folders' names, or their paths below what is common where two have one name."""
    whole = [path.resolve() for path in paths]
    short = [path.name for path in whole]
    if len(set(short)) == len(short):
        return short
    common = os.path.commonpath([path.parent for path in whole])
    below = [path.relative_to(common).as_posix() for path in whole]
    return below if len(set(below)) == len(below) else [str(path) for path in paths]
