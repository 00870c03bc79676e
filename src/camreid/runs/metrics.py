"""The records of a test and of a head check, their tables, and the verdict on a difference."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import mean, stdev
from typing import Any

from camreid.evaluation import Difference, RankOptions
from camreid.evaluation.verification import MOST
from camreid.provenance import Record, SplitRecord
from camreid.runs.table import Table, in_points, interval, percent

ALPHA = 0.05
SMALLEST = 0.001  # of mAP: 0.1 points
FEWEST = 6  # identities with which p can fall below ALPHA
SCORES = {"mAP": "mAP", "rank1": "Rank-1", "rank5": "Rank-5", "mINP": "mINP"}


def as_config(content: Any) -> dict[str, Any]:
    """A config as a dict of its groups; TypeError or ValueError for another form."""
    return {**content, **{k: {**content[k]} for k in ("model", "data") if content.get(k)}}


@dataclass(frozen=True)
class HeadCheckRecord(Record):
    """`head_check.json`."""

    file = "head_check.json"
    unknown: str  # the setting `model.unknown`
    heads: list[dict[str, Any]]  # the fields of each head's `HeadFit`
    faults: list[str] = field(default_factory=list)  # why the run was refused

    @property
    def lowest(self) -> dict[str, Any]:
        """The head with the lowest coverage, of those with identities to train."""
        return min(self.heads, key=lambda head: (not head["identities"], head["coverage"]))

    def tables(self, where: str = "") -> list[Table]:
        """How each head fits the train identities."""
        title = f"Head check{where} (unknown={self.unknown})"
        return [head_check_table(title, {fit["head"]: fit for fit in self.heads}, self.faults)]


@dataclass(frozen=True, kw_only=True)
class Metrics(Record):
    """`metrics.json`: the numbers of a test; shares are in 0..1."""

    file = "metrics.json"
    retrieval: dict[str, float]  # mAP, mINP, rank1 ... over all valid queries
    intervals: dict[str, list[float | None]]  # of 95 %
    leak: dict[str, dict[str, Any]]  # the numbers over all, seen and unseen identities
    evaluation: dict[str, Any]  # the options of the test
    protocol: str = "cross-camera"
    partial: bool = False  # whether only a part of the images was tested
    seen_complete: bool = True  # whether all training identities of the weights are known
    dropped_queries: int = 0  # without a match
    skipped_images: int = 0  # unreadable images of the split, train included
    weights: str | None = None  # the checkpoint; None for features without one
    features: str | None = None  # the file that was ranked, where no model was run
    rows: int | None = None  # of the classifier
    identity: dict[str, float] | None = None  # closed-set accuracy and its coverage
    protocols: dict[str, dict[str, float]] | None = None  # None where re-ranked
    camera_pairs: dict[str, Any] | None = None  # mAP, rank1: query cameras by gallery cameras
    verification: dict[str, Any] | None = None  # thresholds of the cosine
    no_thresholds: str = ""  # the reason where there are none
    reliability: list[dict[str, float]] | None = None  # of the checkpoint's calibration
    split: dict[str, Any] | None = None  # a `SplitRecord`; None where it is unknown
    origin: dict[str, Any] | None = None  # command, date, commit and versions
    training: dict[str, Any] | None = None  # of a tested checkpoint: split, config, head_check

    def warnings(self, name: str) -> list[str]:
        """What limits these numbers, in sentences that name the weights."""
        found = limits({name: vars(self)}, self.partial)
        return found + [f"No thresholds: {self.no_thresholds}"] * bool(self.no_thresholds)

    @property
    def rank_options(self) -> RankOptions:
        """The ranking part of `evaluation`."""
        return RankOptions.of(self.evaluation)

    def tables(self, title: str = "Test") -> list[Table]:
        """Scores by protocol, mAP by camera pair, thresholds and reliability."""
        trained = self.training or {"split": None, "config": {}, "head_check": None}
        as_config(trained["config"])
        if check := trained["head_check"]:
            HeadCheckRecord.from_json(check).tables()[0].rows[0]
        _ = trained["split"] and SplitRecord.from_json(trained["split"])
        tables = [score_table(title, {self.protocol: self}, protocols=True)]
        pairs = self.camera_pairs
        if pairs and 1 < len(pairs["cameras"]) <= MOST:
            names = [f"c{camera}" for camera in pairs["cameras"]]
            rows = [[n, *map(percent, row)] for n, row in zip(names, pairs["mAP"], strict=True)]
            pairs_title = "mAP by query camera (rows) and gallery camera"
            tables.append(Table(pairs_title, ["", *names], rows))
        tables += threshold_tables(self.verification) if self.verification else []
        return tables + ([reliability_table(self.reliability)] if self.reliability else [])


def score_table(title: str, results: Mapping[str, Metrics], protocols: bool = False) -> Table:
    """Scores by name, in a leaking test by seen and unseen identities, and by other `protocols`."""
    rows, notes = [], []
    for name, metrics in results.items():
        leak = metrics.leak
        rows.append(_scores(name, metrics.retrieval, metrics.intervals))
        for part in ("seen", "unseen") if leak["seen"]["identities"] else ():
            row = f"{name}, {leak[part]['identities']} {part} identities"
            rows.append(_scores(row, leak[part]))
        if metrics.rank_options.rerank:
            notes.append(f"{name}: after {metrics.rank_options.rerank} re-ranking.")
        if metrics.identity and metrics.identity["coverage"]:
            shares = (percent(metrics.identity[key]) for key in ("accuracy", "coverage"))
            notes.append("{}: accuracy {} on the {} of images with a row.".format(name, *shares))
        if protocols and metrics.protocols:
            others = metrics.protocols.items()
            rows += [_scores(k, scores) for k, scores in others if k != metrics.protocol]
    columns = ("", "queries", *SCORES.values())
    return Table(f"{title}; below a score, its 95 % interval", columns, rows, notes)


def threshold_tables(found: Mapping[str, Any]) -> list[Table]:
    """Thresholds by false-accept rate and in the open set, and by camera pair at 0.1 %."""
    kinds, search = found["pairs"], found["open_set"]
    rows = [_row(f"{100 * float(rate):g} %", point) for rate, point in found["far"].items()]
    rows.append(_row(f"EER {percent(found['eer']['rate'])}", found["eer"]))
    for rate, point in search["fpir"].items():
        cells = (f"{point['threshold']:.3f}", percent(1 - point["fnir"]), percent(point["fnir"]))
        rows.append([f"open set, FPIR {100 * float(rate):g} %", *cells])
    alone = search["non_mated"]
    kind = f"{alone} queries without a match" if alone else "all queries, their matches taken away"
    notes = [f"Open set: FPIR of {kind}; the last columns are TPIR and FNIR."]
    if few := [rate for rate in found["far"] if float(rate) * kinds["impostor"] < 10]:
        notes.append(f"Fewer than 10 impostor pairs decide the threshold at a rate of {few[0]}.")
    title = "Thresholds of the cosine: {genuine:,} genuine, {impostor:,} impostor pairs"
    columns = ("false accepts", "threshold", "TAR", "FNMR")
    tables = [Table(title.format(**kinds), columns, rows, notes)]
    pairs = {name: pair["far"]["0.001"] for name, pair in found["camera_pairs"].items()}
    texts = {n: f"{percent(p['tar'])}\n{p['threshold']:.3f}" for n, p in pairs.items()}
    if len(cameras := sorted({int(camera) for name in pairs for camera in name.split("-")})) > 1:
        rows = [[f"c{a}", *(texts.get(f"{a}-{b}", "n/a") for b in cameras)] for a in cameras]
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


def head_check_table(title: str, heads: Mapping[str, Any], notes: Sequence[str] = ()) -> Table:
    """How each head fits the train identities: the fields of its `HeadFit`, by name of the row."""
    counts = ("rows", "dim", "identities", "shared", "unknown")
    rows = []
    for name, fit in heads.items():
        shares = (percent(fit["coverage"]), percent(fit["image_coverage"]))
        rows.append([name, *(str(fit[key]) for key in counts), *shares])
    return Table(title, ("head", *counts, "coverage", "of images"), rows, notes)


def points(found: Difference) -> str:
    """A difference in points, below it the ends of its interval."""
    value, low, high = in_points(found.value, found.low, found.high)
    return "+" * (found.value > 0) + value + ("" if math.isnan(found.low) else f"\n{low}..{high}")


def doubt(found: Difference, identities: int) -> str:
    """Why a difference decides nothing; empty if it does."""
    if identities < FEWEST:
        return f"p below {ALPHA} needs at least {FEWEST} identities"
    if abs(found.value) < SMALLEST:
        return "the difference is below 0.1 points"
    if found.p >= ALPHA:
        return f"p is not below {ALPHA}"
    return "the interval includes 0" if found.low <= 0 <= found.high else ""


def verdict(first: str, second: str, found: Difference, identities: int) -> str:
    """The conclusion on the first minus the second, without a full stop."""
    if found.value < 0:
        found = Difference(-found.value, -found.high, -found.low, found.p)
        first, second = second, first
    value, low, high = in_points(found.value, found.low, found.high)
    ends = "" if low == "nan" else f"95 % {low}..{high}, "
    numbers = f"{value} points mAP ({ends}p = {found.p:.2g})"
    if why := doubt(found, identities):
        return f"No clear difference between {first} and {second}: {numbers}, as {why}"
    return f"{first} is better than {second} by {numbers}"


def limits(rows: Mapping[str, Mapping[str, Any]], partial: bool) -> list[str]:
    """What limits the numbers of rows by name, of a test on a part of the images if `partial`."""
    counts = {name: row["leak"]["seen"]["identities"] for name, row in rows.items()}
    seen = [f"{name} was trained on {count}" for name, count in counts.items() if count]
    tested = max((row["leak"]["all"]["identities"] for row in rows.values()), default=0)
    found = [f"Leakage: {', '.join(seen)} of the {tested} test identities."] if seen else []
    if unknown := ", ".join(name for name, row in rows.items() if not row["seen_complete"]):
        found.append(f"{unknown}: not all training identities are known; leakage may be larger.")
    if partial:
        found.append(f"{', '.join(rows)}: only a part of the images was tested.")
    return found


def mean_row(name: str, runs: Sequence[Metrics]) -> list[str]:
    """The row of runs that differ only in their seed: mean and standard deviation."""
    scores = [[100 * run.retrieval[score] for run in runs] for score in SCORES]
    cells = [f"{mean(values):.1f} %\n± {stdev(values):.1f}" for values in scores]
    return [name, f"{runs[0].retrieval['valid_queries'] or 0:.0f}", *cells]


def _scores(name: str, scores: Mapping[str, Any], ends: Any = None) -> list[str]:
    queries = f"{scores['valid_queries'] or 0:.0f}"
    cells = [f"{percent(scores[k])}\n{interval(*ends[k]) if ends else ''}" for k in SCORES]
    return [name, queries, *map(str.rstrip, cells)]


def _row(name: str, point: Mapping[str, Any]) -> list[str]:
    tar = f"{percent(point['tar'])}\n{interval(*point['interval'])}".rstrip()
    return [name, f"{point['threshold']:.3f}", tar, percent(point["fnmr"])]
