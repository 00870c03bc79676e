"""Tables of thresholds, open-set identification and calibrated probabilities."""

from collections.abc import Mapping, Sequence
from typing import Any

from camreid.runs.table import Table, interval, percent

Point = Mapping[str, Any]


def threshold_tables(found: Point) -> list[Table]:
    """TAR and threshold by false-accept rate, and by camera pair at the middle rate."""
    rows = [_row(f"{100 * float(rate):g} %", point) for rate, point in found["far"].items()]
    rows.append(_row(f"EER {percent(found['eer']['rate'])}", found["eer"]))
    kinds, notes = found["pairs"], []
    few = [rate for rate in found["far"] if float(rate) * kinds["impostor"] < 10]
    if few:
        notes.append(f"Fewer than 10 impostor pairs decide the threshold at a rate of {few[0]}.")
    if found["open_set"]:
        notes.append(_open_set(found["open_set"]))
    title = "Thresholds of the cosine, {genuine:,} genuine and {impostor:,} impostor pairs"
    columns = ("false accepts", "threshold", "TAR", "FNMR")
    tables = [Table(title.format(**kinds), columns, rows, notes)]
    pairs = {tuple(map(int, name.split("-"))): p for name, p in found["camera_pairs"].items()}
    if len(cameras := sorted({camera for pair in pairs for camera in pair})) > 1:
        rows = [[f"c{a}", *(_cell(pairs.get((a, b))) for b in cameras)] for a in cameras]
        title = "TAR at 0.1 % false accepts by query camera (rows) and gallery camera; below, its "
        title += "threshold"
        tables.append(Table(title, ("", *(f"c{camera}" for camera in cameras)), rows))
    return tables


def reliability_table(bins: Sequence[Mapping[str, float]]) -> Table:
    """Calibrated probabilities, and how often the pairs are of one identity."""
    names = ("probability", "genuine", "weight")
    gap = sum(abs(b["probability"] - b["genuine"]) * b["weight"] for b in bins)
    rows = [[percent(b[name]) for name in names] for b in bins]
    return Table(
        "Reliability of the calibrated probability",
        ("probability", "of one identity", "weight"),
        rows,
        [f"Mean difference {percent(gap)}; genuine and impostor pairs have equal weight."],
    )


def _row(name: str, point: Point) -> list[str]:
    tar = f"{percent(point['tar'])}\n{interval(*point['interval'])}".rstrip()
    return [name, f"{point['threshold']:.3f}", tar, percent(point["fnmr"])]


def _cell(pair: Point | None) -> str:
    point = pair and pair["far"]["0.001"]
    return f"{percent(point['tar'])}\n{point['threshold']:.3f}" if point else "n/a"


def _open_set(found: Point) -> str:
    rates = (
        f"FNIR {percent(p['fnir'])} at FPIR {100 * float(rate):g} % (threshold {p['threshold']:.3f})"
        for rate, p in found["fpir"].items()
    )
    kind = "with their matches taken away" if found["taken_away"] else "without a match"
    return f"Open set, {found['non_mated']} queries {kind}: {', '.join(rates)}."
