"""The results of a test as tables for the terminal."""

from typing import Any

from rich.table import Table

from camreid.runs.table import percent

_HEADLINE = {
    "mAP": "mAP",
    "Rank-1": "rank1",
    "Rank-5": "rank5",
    "Rank-10": "rank10",
    "mINP": "mINP",
}


def evidence_tables(summary: dict[str, Any], title: str) -> list[Table]:
    """Tables for the terminal.

    The numbers with their 95 % intervals, the other protocols, camera pairs, and the leak table
    where a test identity is a training identity. The closed-set accuracy is over the share of
    images with a row.
    """
    tables = [_headline(summary, title)]
    others = {k: v for k, v in (summary.get("protocols") or {}).items() if k != summary["protocol"]}
    if others:
        tables.append(_others(others))
    if len((summary.get("camera_pairs") or {}).get("cameras", ())) > 1:
        tables.append(_camera_pairs(summary["camera_pairs"]))
    if summary["leak"]["seen"]["queries"]:
        tables.append(_leak(summary["leak"]))
    return tables


def _headline(summary: dict[str, Any], title: str) -> Table:
    retrieval, ends = summary["retrieval"], summary["intervals"]
    table = Table(title=title, title_justify="left", caption_justify="left")
    for name in (summary["protocol"], "value", "95 % interval"):
        table.add_column(name, justify="left" if name == summary["protocol"] else "right")
    for name, key in _HEADLINE.items():
        low, high = ends[key]
        interval = "n/a" if low is None else f"{100 * low:.1f} .. {100 * high:.1f} %"
        table.add_row(name, percent(retrieval[key]), interval)
    dropped = summary["dropped_queries"]
    table.add_row("queries", f"{retrieval['valid_queries']:.0f}", f"{dropped} without a match")
    identity = summary["identity"]
    if identity is not None:
        share = f"of {percent(identity['coverage'])} with a row"
        table.add_row("closed-set accuracy", percent(identity["accuracy"]), share)
    return table


def _others(protocols: dict[str, Any]) -> Table:
    table = Table(title="Other protocols", title_justify="left")
    table.add_column("protocol")
    for name in ("mAP", "Rank-1", "mINP", "queries"):
        table.add_column(name, justify="right")
    for name, row in protocols.items():
        numbers = (percent(row[key]) for key in ("mAP", "rank1", "mINP"))
        table.add_row(name, *numbers, f"{row['valid_queries']:.0f}")
    return table


def _camera_pairs(pairs: dict[str, Any]) -> Table:
    table = Table(title="mAP by camera: query (rows) and gallery", title_justify="left")
    for name in ("", *(f"c{camera}" for camera in pairs["cameras"])):
        table.add_column(name, justify="right")
    for camera, row in zip(pairs["cameras"], pairs["mAP"], strict=True):
        table.add_row(f"c{camera}", *map(percent, row))
    return table


def _leak(leak: dict[str, Any]) -> Table:
    table = Table(
        title="Leakage: test identities that the weights were trained on", title_justify="left"
    )
    for name in ("trained on", "identities", "queries", "mAP", "Rank-1", "mINP"):  # valid queries
        table.add_column(name, justify="right")
    for name in ("all", "seen", "unseen"):
        row = leak[name]
        numbers = (percent(row[key]) for key in ("mAP", "rank1", "mINP"))
        valid = f"{row['valid_queries'] or 0:.0f}"
        table.add_row(name, str(row["identities"]), valid, *numbers)
    return table
