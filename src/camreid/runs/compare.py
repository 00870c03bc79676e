"""Which of two runs is better: a paired test on the test identities that both did not train on."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import chain, combinations
from pathlib import Path
from typing import Any

import torch

from camreid.errors import InputError, NoValidQuery
from camreid.evaluation import Difference, Images, RankingResult, compare
from camreid.runs.folder import RunFolder
from camreid.runs.metrics import SCORES, head_check_table, points, score_table
from camreid.runs.record import plain
from camreid.runs.table import Table, interval

ALPHA = 0.05
SMALLEST = 0.001  # of mAP, which is printed with one digit of a point
FEWEST = 6  # identities with which p can fall below ALPHA
_LIMITS = (
    "Each run is one training: intervals and p are over test identities, not over seeds.",
    "p is of mAP, and not adjusted for the number of pairs.",
)


@dataclass(frozen=True)
class Pair:
    """Two runs on their shared queries of identities that neither was trained on."""

    first: str  # path of the run with the higher mAP
    second: str
    queries: int = 0  # with a match
    identities: int = 0  # of these queries
    leaked: int = 0  # identities of shared queries that are left out
    complete: bool = True  # whether all training identities of both are known
    differences: Mapping[str, Difference] = field(default_factory=dict)  # first minus second
    reason: str = ""  # why they are not comparable

    @property
    def doubt(self) -> str:
        """Why the difference in mAP decides nothing; empty if it does."""
        found = self.differences["mAP"]
        if self.identities < FEWEST:
            return f"p below {ALPHA} needs at least {FEWEST} identities"
        if found.p >= ALPHA:
            return f"p is not below {ALPHA}"
        if found.low <= 0:
            return "the interval includes 0"
        return "the difference is below 0.1 points" if found.value < SMALLEST else ""

    @property
    def better(self) -> str | None:
        """The run with the higher mAP; None if that is not decided."""
        return self.first if self.differences and not self.doubt else None

    @property
    def verdict(self) -> str:
        """The conclusion in a sentence."""
        if not self.differences:
            return f"{self.first} and {self.second} are not comparable: {self.reason}"
        found = self.differences["mAP"]
        ends = interval(found.low, found.high)
        start = f"inconclusive, as {self.doubt}: {self.first} minus {self.second} is"
        text = f"{self.first} is better than {self.second} by" if self.better else start
        text += f" {100 * found.value:.1f} points mAP ({ends and f'95 % interval {ends}, '}"
        text += f"p = {found.p:.2g}) on {self.queries} queries of {self.identities} identities"
        if self.leaked:
            text += f"; {self.leaked} identities that one of them was trained on are left out"
        if not self.complete:
            text += "; not all training identities of both are known, leakage may be larger"
        return f"{text}."


@dataclass(frozen=True)
class Comparison:
    """Tested runs, and pairs of them."""

    runs: Sequence[RunFolder]
    pairs: Sequence[Pair]

    @property
    def options(self) -> dict[str, list[str]]:
        """The options in which the runs differ, of the sections of the config that all have."""
        found = [_flat(run.config) for run in self.runs]
        shared = set.intersection(*({key.split(".")[0] for key in options} for options in found))
        keys = [key for key in dict.fromkeys(chain(*found)) if key.split(".")[0] in shared]
        rows = {key: [options.get(key, "(not set)") for options in found] for key in keys}
        return {key: values for key, values in rows.items() if len(set(values)) > 1}

    def tables(self) -> list[Table]:
        """Options, head checks, scores and paired differences; none is empty."""
        heads = {str(run): run.head_check.lowest for run in self.runs if run.head_check}
        options = [(key, *values) for key, values in self.options.items()]
        differences = [_row(pair) for pair in self.pairs if pair.differences]
        columns = ("pair", "queries", *SCORES.values(), "p")
        title = "Paired differences in points; below, 95 % intervals"
        tables = [
            Table("Options that differ", ("option", *map(str, self.runs)), options),
            head_check_table("Head check: the head with the lowest coverage", heads),
            score_table("Test", {str(run): run.metrics for run in self.runs if run.metrics}),
            Table(title, columns, differences, _LIMITS),
        ]
        return [table for table in tables if table.rows]

    def to_json(self) -> dict[str, Any]:
        """Nested plain values; shares are in 0..1."""
        pairs = [{"verdict": p.verdict, "better": p.better, **asdict(p)} for p in self.pairs]
        return {"command": "camreid-compare", "pairs": plain(pairs), "options": self.options}


def compare_runs(paths: Sequence[str | Path]) -> Comparison:
    """Compare each two of several run folders; InputError for one that is not tested."""
    if len({Path(path).resolve() for path in paths}) < max(2, len(paths)):
        raise InputError(f"runs={[str(path) for path in paths]}: expected two or more run folders.")
    runs = [RunFolder.existing(path) for path in paths]
    for run in runs:
        if run.ranked is None:
            file = "features.safetensors" if run.metrics else "metrics.json"
            raise InputError(f"{run} has no {file}: evaluate its checkpoint, compare that folder.")
    return Comparison(runs, [compare_pair(*pair) for pair in combinations(runs, 2)])


def compare_pair(first: RunFolder, second: RunFolder) -> Pair:
    """Compare two tested runs, if they have the same gallery and share queries."""
    runs = (first, second)
    seen = {pid for run in runs if run.ranked for pid in run.ranked[0].notes.get("seen") or ()}
    try:
        ours, theirs = _on_shared_queries(first, second)
        unseen = ~torch.isin(ours.query_pids, torch.tensor(sorted(seen), dtype=torch.int64))
        leaked = len(torch.unique(ours.query_pids[~unseen & ours.valid]))
        if not (unseen & ours.valid).any():
            raise NoValidQuery(f"one of them was trained on each of the {leaked} identities.")
        ours, theirs = ours.of(unseen), theirs.of(unseen)
        if ours.mAP < theirs.mAP:
            first, second, ours, theirs = second, first, theirs, ours
        differences = compare(ours, theirs, level=1 - ALPHA)
    except InputError as error:
        return Pair(str(first), str(second), reason=str(error))
    identities = len(torch.unique(ours.query_pids[ours.valid]))
    complete = all(run.metrics.seen_complete for run in runs if run.metrics)
    counts = (ours.valid_queries, identities, leaked, complete)
    return Pair(str(first), str(second), *counts, differences)


def _on_shared_queries(first: RunFolder, second: RunFolder) -> tuple[RankingResult, RankingResult]:
    """The rankings of the queries that both have, in one order."""
    assert first.ranked
    assert second.ranked
    (a, ours), (b, theirs) = first.ranked, second.ranked
    if ours.protocol != theirs.protocol:
        raise InputError(f"their protocols differ: {ours.protocol} and {theirs.protocol}.")
    rows, others, gallery, other_gallery = map(_rows, (a.query, b.query, a.gallery, b.gallery))
    shared = [(row, others[image]) for image, row in rows.items() if image in others]
    if gallery.keys() != other_gallery.keys() or not shared:
        raise InputError(
            f"the tests differ. They share {len(shared)} of {len(rows)} and {len(others)} queries, "
            f"and {len(gallery.keys() & other_gallery.keys())} of {len(gallery)} and "
            f"{len(other_gallery)} gallery images, by name, identity and camera. Test both on one "
            "resplit without their training identities.",
            exclude_seen=[run.metrics.weights for run in (first, second) if run.metrics],
        )
    own, other = torch.tensor(shared).unbind(1)
    return ours.of(own), theirs.of(other)


def _rows(images: Images) -> dict[tuple[str, int, int], int]:
    """Row of each image by folder and file name, identity and camera, wherever the dataset is."""
    names = ("/".join(Path(path).parts[-2:]) for path in images.paths)
    labels = zip(names, images.pids.tolist(), images.cameras.tolist(), strict=False)
    return {image: row for row, image in enumerate(labels)}


def _flat(config: Mapping[str, Any], above: str = "") -> dict[str, str]:
    """Options by dotted key, without the folders that a run writes to."""
    found: dict[str, str] = {}
    for key, value in config.items():
        if isinstance(value, Mapping):
            found |= _flat(value, f"{above}{key}.")
        elif key not in ("run_dir", "save_dir", "dirpath"):
            found[f"{above}{key}"] = str(value)
    return found


def _row(pair: Pair) -> list[str]:
    cells = [points(pair.differences[score]) for score in SCORES]
    p = f"{pair.differences['mAP'].p:.2g}"
    return [f"{pair.first} - {pair.second}", str(pair.queries), *cells, p]
