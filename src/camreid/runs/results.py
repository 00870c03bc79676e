"""The numbers of tests and head checks as tables."""

from collections.abc import Mapping, Sequence
from typing import Any

from camreid.runs.folder import Metrics
from camreid.runs.table import Table, interval, percent

SCORES = {"mAP": "mAP", "rank1": "Rank-1", "rank5": "Rank-5", "mINP": "mINP"}
_NO_ENDS = (None, None)


def result_tables(title: str, metrics: Metrics) -> list[Table]:
    """Scores by protocol with 95 % intervals, camera pairs, and leakage where there is any."""
    notes = [f"{metrics.dropped_queries} queries without a match are left out."]
    if metrics.identity and metrics.identity["coverage"]:
        shares = (percent(metrics.identity[key]) for key in ("accuracy", "coverage"))
        notes.append("Closed-set accuracy {}, on the {} of images with a row.".format(*shares))
    rows = {metrics.protocol: metrics.retrieval, **(metrics.protocols or {})}
    tables = [score_table(title, rows, {metrics.protocol: metrics.intervals}, notes)]
    pairs = metrics.camera_pairs
    if pairs and len(pairs["cameras"]) > 1:
        columns = ["", *(f"c{camera}" for camera in pairs["cameras"])]
        cells = [
            [name, *map(percent, row)] for name, row in zip(columns[1:], pairs["mAP"], strict=True)
        ]
        tables.append(Table("mAP by query camera (rows) and gallery camera", columns, cells))
    if metrics.leak["seen"]["identities"] or not metrics.seen_complete:
        tables.append(leakage_table({metrics.protocol: metrics}))
    return tables


def score_table(
    title: str,
    rows: Mapping[str, Mapping[str, float]],
    intervals: Mapping[str, Mapping[str, Any]],
    notes: Sequence[str] = (),
) -> Table:
    """Scores by name of the row, and below a score its 95 % interval where it is known."""
    cells = []
    for name, scores in rows.items():
        ends = intervals.get(name, {})
        shown = (f"{percent(scores[key])}\n{interval(*ends.get(key, _NO_ENDS))}" for key in SCORES)
        cells.append([name, f"{scores['valid_queries']:.0f}", *map(str.rstrip, shown)])
    columns = ("", "queries", *SCORES.values())
    return Table(f"{title}; below a score, its 95 % interval", columns, cells, notes)


def leakage_table(results: Mapping[str, Metrics]) -> Table:
    """Test identities that are training identities of the checkpoint, and scores without them."""
    rows, notes = [], []
    for name, metrics in results.items():
        seen, unseen = metrics.leak["seen"], metrics.leak["unseen"]
        count = f"{seen['identities']} of {metrics.leak['all']['identities']}"
        scores = map(percent, (seen["mAP"], unseen["mAP"], unseen["rank1"]))
        rows.append([name, count if metrics.seen_complete else f"at least {count}", *scores])
    if any(metrics.leak["seen"]["identities"] for metrics in results.values()):
        notes = ["Scores over seen identities are partly memory: use those over unseen identities."]
    columns = ("", "seen identities", "seen mAP", "unseen mAP", "unseen Rank-1")
    return Table(
        "Leakage: test identities that the checkpoint was trained on", columns, rows, notes
    )


def head_check_table(title: str, heads: Mapping[str, Mapping[str, Any]]) -> Table:
    """How each head fits the train identities: the fields of its `HeadFit`, by name of the row."""
    counts = ("rows", "dim", "identities", "shared", "unknown")
    shares = ("coverage", "image_coverage")
    rows = [
        [name, *(str(fit[key]) for key in counts), *(percent(fit[key]) for key in shares)]
        for name, fit in heads.items()
    ]
    return Table(title, ("head", *counts, "coverage", "of images"), rows)
