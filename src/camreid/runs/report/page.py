"""The page: runs side by side, then each by itself, in one HTML file that fetches nothing."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from camreid import __version__
from camreid.progress import Progress
from camreid.provenance import SplitRecord
from camreid.runs.compare import Comparison, compare_runs
from camreid.runs.folder import RunFolder
from camreid.runs.report.pictures import draw, ranked_lists, training_charts
from camreid.runs.table import Table, interval, percent


def build_page(paths: Sequence[Path]) -> str:
    """The HTML of runs and matrices in the order given; InputError for a broken folder or file."""
    runs = [RunFolder.existing(path) for path in paths]
    tested = [run for run in Progress(runs, "Ranking", unit="run") if run.ranked]
    comparison = compare_runs(tested, with_first=True) if len(tested) > 1 else None
    cmc = {str(run): list(enumerate(run.ranked[1].cmc.tolist(), 1)) for run in runs if run.ranked}
    loader = FileSystemLoader(Path(__file__).parent / "templates")
    environment = Environment(loader=loader, autoescape=True, undefined=StrictUndefined)
    warnings = [note for run in runs if run.matrix for note in run.matrix.warnings]
    warnings += [note for run in runs if run.metrics for note in run.metrics.warnings(str(run))]
    page = environment.get_template("page.html.j2").render(
        sections=list(map(_section, Progress(runs, "Drawing", unit="run"))),
        answer=_answer(runs, comparison),
        facts=_facts(runs),
        warnings=warnings,
        comparison=comparison,
        cmc=draw("rank", cmc) if cmc else None,
        version=__version__,
    )
    return page.encode(errors="replace").decode()  # a folder's name may hold half a character


def _answer(runs: Sequence[RunFolder], comparison: Comparison | None) -> list[str]:
    lines = [pair.verdict for pair in comparison.pairs] if comparison else []
    lines += [run.matrix.verdict for run in runs if run.matrix]
    for metrics in [run.metrics for run in runs if run.metrics and not comparison]:
        mAP, rank1 = (percent(metrics.retrieval[score]) for score in ("mAP", "rank1"))
        ends = interval(*metrics.intervals["mAP"])
        lines.append(f"mAP {mAP}{ends and f' (95 % {ends})'}, Rank-1 {rank1}.")
    return lines


def _facts(runs: Sequence[RunFolder]) -> Table:
    rows = []
    for run in runs:
        config, split = run.training["config"], run.training["split"]
        tests = [vars(run.metrics)] if run.metrics else []
        tests += run.matrix.rows.values() if run.matrix else []
        record, data = run.matrix or run.metrics, run.config.get("data") or {}
        facts = (
            ", ".join(run.matrix.rows) if run.matrix else (config.get("model") or {}).get("name"),
            split and str(replace(SplitRecord.from_json(split), digest=None)),
            " in ".join(str(data[key]) for key in ("name", "root") if data.get(key)),
            tests and tests[0]["leak"]["all"]["identities"],
            record and (record.origin or {}).get("date"),
        )
        rows.append([str(run), *(str(fact or "unknown") for fact in facts)])
    columns = ("", "model", "trained on", "dataset", "identities tested", "date")
    return Table("Runs", columns, rows)


def _section(run: RunFolder) -> dict[str, Any]:
    notes, lists, charts = [], [], training_charts(run.curves)
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
    if run.metrics and run.metrics.reliability:
        points = [(100 * bin["probability"], bin["genuine"]) for bin in run.metrics.reliability]
        lines = {"share of one identity": points, "ideal": [(0.0, 0.0), (100.0, 1.0)]}
        charts["Reliability"] = draw("calibrated probability in %", lines)
    records = [record for record in (run.matrix, run.metrics, run.head_check) if record]
    content = records[0].to_json() if records else {}
    about = {name: content.get(name) for name in ("weights", "split", "evaluation", "origin")}
    text = yaml.safe_dump({**about, "config": run.config}, sort_keys=False)
    tables = [table for record in records for table in record.tables()]
    parts = {"notes": notes, "tables": tables, "charts": charts, "lists": lists, "about": text}
    return {"run": run, **parts}
