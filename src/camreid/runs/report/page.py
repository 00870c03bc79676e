"""The page: runs side by side, then each by itself, in one HTML file that fetches nothing."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from camreid import __version__
from camreid.progress import Progress
from camreid.runs.compare import Comparison, compare_pair
from camreid.runs.folder import RunFolder
from camreid.runs.report.charts import draw, training_charts
from camreid.runs.report.ranked import ranked_lists


def build_page(paths: Sequence[Path]) -> str:
    """The HTML of runs and matrices in the order given; InputError for a broken folder or file."""
    runs = [RunFolder.existing(path) for path in paths]
    tested = [run for run in Progress(runs, "Ranking", unit="run") if run.ranked]
    pairs = [compare_pair(run, tested[0]) for run in tested[1:]]
    cmc = {str(run): list(enumerate(run.ranked[1].cmc.tolist(), 1)) for run in runs if run.ranked}
    loader = FileSystemLoader(Path(__file__).parent / "templates")
    environment = Environment(loader=loader, autoescape=True, undefined=StrictUndefined)
    page = environment.get_template("page.html.j2").render(
        sections=list(map(_section, Progress(runs, "Drawing", unit="run"))),
        comparison=Comparison(tested, pairs) if pairs else None,
        cmc=draw("rank", cmc) if cmc else None,
        version=__version__,
    )
    return page.encode(errors="replace").decode()  # a folder's name may hold half a character


def _section(run: RunFolder) -> dict[str, Any]:
    """What the template shows of one run or matrix."""
    notes, lists = [], []
    if run.metrics and run.ranked:
        features, result = run.ranked
        options = replace(run.metrics.rank_options, rerank=None, expand=0)
        if options != run.metrics.rank_options:
            notes.append("Ranked lists are in the order before re-ranking and expansion.")
            result = options.rank(features)[0]
        lists = ranked_lists(features, result, options)
    elif run.metrics:
        notes.append("No saved features: no CMC curve, ranked lists or paired difference.")
    elif not run.matrix:
        notes.append("This run has not been tested: there is no metrics.json.")
    records = [record for record in (run.matrix, run.metrics, run.head_check) if record]
    content = records[0].to_json() if records else {}
    about = {name: content.get(name) for name in ("weights", "split", "evaluation", "origin")}
    return {
        "run": run,
        "notes": notes,
        "tables": [table for record in records for table in record.tables()],
        "charts": training_charts(run.curves),
        "lists": lists,
        "about": yaml.safe_dump({**about, "config": run.config}, sort_keys=False),
    }
