"""The page: runs side by side, then each by itself, in one HTML file that fetches nothing."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import yaml
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from camreid import __version__
from camreid.runs.compare import Comparison, compare_pair
from camreid.runs.folder import Metrics, RunFolder
from camreid.runs.matrix_tables import matrix_tables
from camreid.runs.report.charts import draw, training_charts
from camreid.runs.report.ranked import RankedList, ranked_lists
from camreid.runs.results import head_check_table, result_tables
from camreid.runs.table import Table


@dataclass
class Section:
    """One run or matrix on the page."""

    run: RunFolder
    notes: list[str] = field(default_factory=list)  # limits of its numbers, missing files
    tables: list[Table] = field(default_factory=list)  # of the test or matrix, and the head check
    charts: dict[str, str] = field(default_factory=dict)  # data URIs by title
    lists: list[RankedList] = field(default_factory=list)

    @property
    def about(self) -> str:
        """Where the numbers come from, as YAML."""
        record = self.run.metrics or self.run.matrix
        content = record.to_json() if record else {}
        about = {name: content.get(name) for name in ("weights", "split", "evaluation", "origin")}
        return yaml.safe_dump({**about, "config": self.run.config}, sort_keys=False)


def build_page(paths: Sequence[Path]) -> str:
    """The HTML of runs and matrices, in the order given.

    Raises:
        InputError: a folder is not that of a run, or a file in it cannot be read.
    """
    runs = [RunFolder.existing(path) for path in paths]
    tested = [run for run in runs if run.ranked]
    pairs = [compare_pair(run, tested[0]) for run in tested[1:]]
    cmc = {str(run): list(enumerate(run.ranked[1].cmc.tolist(), 1)) for run in runs if run.ranked}
    loader = FileSystemLoader(Path(__file__).parent / "templates")
    environment = Environment(loader=loader, autoescape=True, undefined=StrictUndefined)
    environment.filters["table"] = lambda table: Markup(table.to_html())
    page = environment.get_template("page.html.j2").render(
        sections=list(map(_section, runs)),
        comparison=Comparison(tested, pairs) if pairs else None,
        cmc=draw("rank", cmc) if cmc else None,
        version=__version__,
    )
    return page.encode(errors="replace").decode()  # a folder's name may hold half a character


def _section(run: RunFolder) -> Section:
    section = Section(run, charts=training_charts(run.curves))
    if run.matrix:
        section.tables += matrix_tables(run.matrix)
        section.notes += run.matrix.notes
        section.notes += [f"{row} is left out: {why}" for row, why in run.matrix.left_out.items()]
    elif run.metrics:
        _add_test(section, run.metrics)
    else:
        section.notes.append("This run has not been tested: there is no metrics.json.")
    if run.head_check:
        section.notes += run.head_check.faults
        title = f"Head check (unknown={run.head_check.unknown})"
        section.tables.append(head_check_table(title, {f["head"]: f for f in run.head_check.heads}))
    return section


def _add_test(section: Section, metrics: Metrics) -> None:
    section.tables += result_tables("Test", metrics)
    if not section.run.ranked:
        section.notes.append("No saved features: no CMC curve, ranked lists or paired difference.")
        return
    features, result = section.run.ranked
    options = replace(metrics.rank_options, rerank=None, expand=0)
    if options != metrics.rank_options:
        section.notes.append("Ranked lists are in the order before re-ranking and expansion.")
        result = options.rank(features)[0]
    section.lists = ranked_lists(features, result, options)
