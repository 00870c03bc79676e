"""The page: runs side by side, then each by itself, in one HTML file that fetches nothing."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from rich.table import Table as RichTable

from camreid import __version__
from camreid.errors import InputError
from camreid.provenance import SplitRecord
from camreid.runs.compare import Comparison, Run, compare_pair
from camreid.runs.folder import RunFolder
from camreid.runs.head_table import head_check_table
from camreid.runs.matrix_tables import matrix_tables
from camreid.runs.report.charts import Chart, cmc_chart, training_charts
from camreid.runs.report.ranked import RankedList, ranked_lists
from camreid.runs.result_tables import evidence_tables
from camreid.runs.table import Table

PICTURES = 600  # of some 3 kB each
LARGEST = 12  # queries of each kind


@dataclass(frozen=True)
class Section:
    """One run or matrix on the page.

    Attributes:
        run: its folder, and its name on the page as its letter.
        notes: limits of its numbers, and files that are missing.
        charts: of the training.
        tables: of the test or matrix, and the head check.
        lists: ranked lists.
    """

    run: Run
    notes: Sequence[str]
    charts: Sequence[Chart] = ()
    tables: Sequence[Table] = ()
    lists: Sequence[RankedList] = ()

    @property
    def about(self) -> dict[str, object]:
        """Where the numbers come from."""
        folder = self.run.folder
        record = folder.metrics or folder.matrix
        content = record.to_json() if record else {}
        split, origin = content.get("split") or {}, content.get("origin") or {}
        evaluation = content.get("evaluation") or {}
        rules = (content.get("protocol"), evaluation.get("metric"), evaluation.get("rerank"))
        versions = (origin.get("versions") or {}).items()
        about = {
            "Folder": folder.path,
            "Command": origin.get("command"),
            "Arguments": " ".join(map(str, folder.overrides)),
            "Checkpoint": content.get("weights"),
            "Protocol": ", ".join(str(rule) for rule in rules if rule),
            "Split": str(SplitRecord.from_json(split)) if split else None,
            "Commit": origin.get("commit"),
            "Versions": ", ".join(f"{name} {version}" for name, version in versions),
        }
        return {name: value or "not known" for name, value in about.items()}


def build_page(paths: Sequence[Path]) -> str:
    """The HTML of runs and matrices, in the order given.

    Raises:
        InputError: a folder is not that of a run, or a file in it cannot be read.
    """
    folders = [RunFolder.existing(path) for path in paths]
    runs = [Run(name, folder) for name, folder in zip(_names(paths), folders, strict=True)]
    sections = [_section(run, len(runs)) for run in runs]
    alone = tuple(run for run in runs if not _is_matrix(run.folder))
    pairs = tuple(compare_pair(run, alone[0]) for run in alone[1:])
    curves = {run.letter: run.result.cmc.tolist() for run in alone if run.result}
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["table"] = lambda table: Markup(table.to_html())
    page = environment.get_template("page.html.j2").render(
        sections=sections,
        comparison=Comparison(alone, pairs) if alone else None,
        cmc=cmc_chart(curves) if curves else None,
        version=__version__,
    )
    return page.encode(errors="replace").decode()  # a folder's name may hold half a character


def _is_matrix(folder: RunFolder) -> bool:
    return bool(folder.matrix or folder.row_features)


def _section(run: Run, sections: int) -> Section:
    folder = run.folder
    if _is_matrix(folder):
        return _matrix_section(run)
    notes = _limits(folder)
    tables: list[Table] = []
    lists: list[RankedList] = []
    if folder.metrics is not None:
        with _readable(folder.path / "metrics.json"):
            tables += map(_from_rich, evidence_tables(folder.metrics.to_json(), "Test"))
    if folder.head_check is not None:
        with _readable(folder.path / "head_check.json"):
            title = f"Head check (model.unknown={folder.head_check.unknown})"
            tables.append(head_check_table(title, folder.head_check.heads))
        notes += folder.head_check.faults
    if folder.metrics and folder.features and run.result:
        options = replace(folder.metrics.rank_options, rerank=None, expand=0)
        result = run.result
        if options != folder.metrics.rank_options:
            notes.append("Ranked lists are in the order before re-ranking and expansion.")
            result = options.rank(folder.features)[0]
        count = max(1, min(LARGEST, PICTURES // (33 * sections)))
        lists = ranked_lists(folder.features, result, options, count)
        notes += _missing_pictures(lists)
    return Section(run, notes, training_charts(folder.curves), tables, lists)


def _matrix_section(run: Run) -> Section:
    matrix = run.folder.matrix
    if matrix is None:
        tested = ", ".join(run.folder.row_features)
        return Section(run, [f"This matrix is unfinished: no matrix.json. Tested: {tested}."])
    with _readable(run.folder.path / "matrix.json"):
        left_out = [f"{row} is left out: {reason}" for row, reason in matrix.left_out.items()]
        return Section(run, [*matrix.notes, *left_out], tables=matrix_tables(matrix))


def _limits(folder: RunFolder) -> list[str]:
    """What the numbers of a run do not show, and what is missing."""
    metrics = folder.metrics
    if metrics is None:
        return ["This run has not been tested: there is no metrics.json."]
    notes = []
    with _readable(folder.path / "metrics.json"):
        seen, every = metrics.leak["seen"], metrics.leak["all"]
        if seen["queries"]:
            notes.append(
                f"Leakage: {seen['identities']} of {every['identities']} test identities are "
                "training identities of the checkpoint, so the numbers over all identities are "
                "partly memory. Use those of the unseen identities."
            )
    if not metrics.seen_complete:
        notes.append(
            "Not all training identities of these weights are known: leakage may be larger."
        )
    if metrics.partial:
        notes.append("Only a part of the images was tested.")
    if folder.features is None:
        notes.append(
            "No saved features: no CMC curve, ranked lists or paired differences. "
            "evaluation.save_features=true of camreid-evaluate saves them."
        )
    return notes


def _missing_pictures(lists: Sequence[RankedList]) -> list[str]:
    """One sentence where image files are missing."""
    shown = [image for some in lists for image in (some.query, *some.gallery)]
    lost = [image for image in shown if image.picture is None]
    if not lost:
        return []
    such = f", such as {lost[0].path}" if lost[0].path else ""
    return [f"{len(lost)} of {len(shown)} pictures of the ranked lists are missing{such}."]


def _from_rich(table: RichTable) -> Table:
    columns = table.columns
    rows = zip(*(column.cells for column in columns), strict=True)
    cells = [[str(cell) for cell in row] for row in rows]
    notes = [str(table.caption)] if table.caption else []
    return Table(str(table.title), [str(column.header) for column in columns], cells, notes)


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """InputError where a file lacks what a table shows."""
    try:
        yield
    except (OSError, KeyError, TypeError, AttributeError, ValueError) as error:
        raise InputError(
            f"{path} is incomplete or was written by another version ({error!r}); run the command "
            "again, in another folder."
        ) from error


def _names(paths: Sequence[Path]) -> list[str]:
    """Names of the folders, or their paths below the common folder where two names are equal."""
    whole = [path.resolve() for path in paths]
    names = [path.name for path in whole]
    if len(set(names)) < len(names):
        common = os.path.commonpath([path.parent for path in whole])
        names = [path.relative_to(common).as_posix() for path in whole]
    return names
