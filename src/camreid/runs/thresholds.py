"""Tables of thresholds, open-set identification and calibrated probabilities."""

from collections.abc import Mapping, Sequence
from typing import Any

from camreid.runs.table import Table, interval, percent

Point = Mapping[str, Any]


def threshold_tables(found: Point) -> list[Table]:
    """Thresholds by false-accept rate and in the open set, and by camera pair at 0.1 %."""
    kinds, search, notes = found["pairs"], found["open_set"], []
    rows = [_row(f"{100 * float(rate):g} %", point) for rate, point in found["far"].items()]
    rows.append(_row(f"EER {percent(found['eer']['rate'])}", found["eer"]))
    for rate, point in search["fpir"].items():
        cells = (f"{point['threshold']:.3f}", percent(1 - point["fnir"]), percent(point["fnir"]))
        rows.append([f"open set, FPIR {100 * float(rate):g} %", *cells])
    if few := [rate for rate in found["far"] if float(rate) * kinds["impostor"] < 10]:
        notes.append(f"Fewer than 10 impostor pairs decide the threshold at a rate of {few[0]}.")
    taken = "all queries, their matches taken away; the last columns are TPIR and FNIR"
    notes.append(f"Open set: FPIR of {search['non_mated'] or taken} queries without a match.")
    title = "Thresholds of the cosine: {genuine:,} genuine, {impostor:,} impostor pairs"
    columns = ("false accepts", "threshold", "TAR", "FNMR")
    tables = [Table(title.format(**kinds), columns, rows, notes)]
    pairs = found["camera_pairs"]
    if len(cameras := sorted({int(camera) for name in pairs for camera in name.split("-")})) > 1:
        rows = [[f"c{a}", *(_cell(pairs.get(f"{a}-{b}")) for b in cameras)] for a in cameras]
        title = "TAR at 0.1 % false accepts by camera of query (rows) and gallery, and threshold"
        tables.append(Table(title, ("", *(f"c{camera}" for camera in cameras)), rows))
    return tables


def reliability_table(bins: Sequence[Mapping[str, float]]) -> Table:
    """Calibrated probabilities, and how often the pairs are of one identity."""
    rows = [[percent(b[name]) for name in ("probability", "genuine", "weight")] for b in bins]
    gap = sum(abs(b["probability"] - b["genuine"]) * b["weight"] for b in bins)
    notes = [f"Mean difference {percent(gap)}; genuine and impostor pairs have equal weight."]
    columns = ("calibrated probability", "of one identity", "weight")
    return Table("Reliability of the checkpoint's calibration", columns, rows, notes)


def _row(name: str, point: Point) -> list[str]:
    tar = f"{percent(point['tar'])}\n{interval(*point['interval'])}".rstrip()
    return [name, f"{point['threshold']:.3f}", tar, percent(point["fnmr"])]


def _cell(pair: Point | None) -> str:
    point = pair and pair["far"]["0.001"]
    return f"{percent(point['tar'])}\n{point['threshold']:.3f}" if point else "n/a"
