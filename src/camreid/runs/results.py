"""The numbers of tests and head checks as tables."""

from collections.abc import Mapping
from typing import Any

from camreid.runs.folder import Metrics
from camreid.runs.table import Table, interval, percent

SCORES = {"mAP": "mAP", "rank1": "Rank-1", "rank5": "Rank-5", "mINP": "mINP"}


def result_tables(title: str, metrics: Metrics) -> list[Table]:
    """Scores by protocol, and mAP by camera pair."""
    tables = [score_table(title, {metrics.protocol: metrics}, protocols=True)]
    pairs = metrics.camera_pairs
    if pairs and len(pairs["cameras"]) > 1:
        names = [f"c{camera}" for camera in pairs["cameras"]]
        rows = [[name, *map(percent, row)] for name, row in zip(names, pairs["mAP"], strict=True)]
        tables.append(Table("mAP by query camera (rows) and gallery camera", ["", *names], rows))
    return tables


def score_table(title: str, results: Mapping[str, Metrics], protocols: bool = False) -> Table:
    """Scores by name; where a test leaks, also over its seen and unseen identities.

    With `protocols`, the other protocols of each test are added.
    """
    rows, notes = [], []
    for name, metrics in results.items():
        leak = metrics.leak
        rows.append(_scores(name, metrics.retrieval, metrics.intervals))
        if leak["seen"]["identities"]:
            notes.append(f"Leakage: report the scores of {name} over unseen identities.")
            for part in ("seen", "unseen"):
                row = f"{name}, {leak[part]['identities']} {part} identities"
                rows.append(_scores(row, leak[part]))
        if not metrics.seen_complete:
            notes.append(f"{name}: not all training identities are known; leakage may be larger.")
        if metrics.partial:
            notes.append(f"{name}: only a part of the images was tested.")
        if metrics.identity and metrics.identity["coverage"]:
            shares = (percent(metrics.identity[key]) for key in ("accuracy", "coverage"))
            notes.append("{}: accuracy {} on the {} of images with a row.".format(name, *shares))
        if protocols and metrics.protocols:
            others = {k: v for k, v in metrics.protocols.items() if k != metrics.protocol}
            rows += [_scores(other, scores) for other, scores in others.items()]
    columns = ("", "queries", *SCORES.values())
    return Table(f"{title}; below a score, its 95 % interval", columns, rows, notes)


def head_check_table(title: str, heads: Mapping[str, Mapping[str, Any]]) -> Table:
    """How each head fits the train identities: the fields of its `HeadFit`, by name of the row."""
    counts = ("rows", "dim", "identities", "shared", "unknown")
    shares = ("coverage", "image_coverage")
    rows = [
        [name, *(str(fit[key]) for key in counts), *(percent(fit[key]) for key in shares)]
        for name, fit in heads.items()
    ]
    return Table(title, ("head", *counts, "coverage", "of images"), rows)


def _scores(
    name: str, scores: Mapping[str, Any], ends: Mapping[str, list[float | None]] | None = None
) -> list[str]:
    queries = f"{scores['valid_queries'] or 0:.0f}"
    cells = [f"{percent(scores[k])}\n{interval(*ends[k]) if ends else ''}" for k in SCORES]
    return [name, queries, *map(str.rstrip, cells)]
