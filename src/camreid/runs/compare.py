"""Which of two runs is better: a paired test on the test identities that both did not train on."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import combinations
from pathlib import Path
from typing import Any

import torch

from camreid.errors import InputError, NoValidQuery
from camreid.evaluation import Difference, Images, RankingResult, compare
from camreid.runs.folder import RunFolder, plain
from camreid.runs.results import SCORES, head_check_table, leakage_table, score_table
from camreid.runs.table import Table, interval

ALPHA = 0.05
SMALLEST = 0.001  # of mAP, which is printed with one digit of a point
FEWEST = 6  # identities with which p can fall below ALPHA
_LIMITS = (
    "Each run is one training: intervals and p are over test identities, not over seeds.",
    "p is not adjusted for the number of pairs.",
)


@dataclass(frozen=True)
class Pair:
    """The first run minus the second, on their shared queries.

    Queries of identities that one of the two was trained on are left out.

    Attributes:
        first: path of a run.
        second: path of the other.
        queries: number of queries with a match.
        identities: of these queries.
        leaked: identities that are left out.
        differences: by name of the score, in 0..1; empty where the runs are not comparable.
        reason: why they are not.
    """

    first: str
    second: str
    queries: int = 0
    identities: int = 0
    leaked: int = 0
    differences: Mapping[str, Difference] = field(default_factory=dict)
    reason: str = ""

    @property
    def doubt(self) -> str:
        """Why the difference in mAP decides nothing; empty if it does."""
        found = self.differences["mAP"]
        if self.identities < FEWEST:
            return f"p below {ALPHA} needs at least {FEWEST} identities"
        if found.p >= ALPHA:
            return f"p is not below {ALPHA}"
        if found.low <= 0 <= found.high:
            return "the interval includes 0"
        return "the difference is below 0.1 points" if abs(found.value) < SMALLEST else ""

    @property
    def better(self) -> str | None:
        """The run with the higher mAP; None if that is not decided."""
        if not self.differences or self.doubt:
            return None
        return self.first if self.differences["mAP"].value > 0 else self.second

    @property
    def verdict(self) -> str:
        """The conclusion in a sentence."""
        if not self.differences:
            return f"{self.first} and {self.second} are not comparable: {self.reason}"
        found = self.differences["mAP"]
        better, other = self.first, self.second
        if self.better == self.second:
            better, other = other, better
            found = replace(found, value=-found.value, low=-found.high, high=-found.low)
        ends = interval(found.low, found.high)
        points = f"{100 * found.value:.1f} points mAP ({ends and f'95 % interval {ends}, '}"
        where = f"p = {found.p:.2g}) on {self.queries} queries of {self.identities} identities"
        if self.leaked:
            where += f"; {self.leaked} identities that one of them was trained on are left out"
        if self.better is None:
            return f"inconclusive, as {self.doubt}: {better} - {other} is {points}{where}."
        return f"{better} is better than {other} by {points}{where}."


@dataclass(frozen=True)
class Comparison:
    """Tested runs, and pairs of them."""

    runs: Sequence[RunFolder]
    pairs: Sequence[Pair]

    @property
    def config(self) -> dict[str, list[Any]]:
        """The options in which the runs differ, with the value of each run."""
        configs = [_flat(run.config) for run in self.runs]
        keys = dict.fromkeys(key for config in configs for key in config)
        values = {key: [config.get(key, "(not set)") for config in configs] for key in keys}
        return {
            key: found
            for key, found in values.items()
            if any(value != found[0] for value in found)
            and key.rpartition(".")[2] not in ("run_dir", "save_dir")
        }

    @property
    def verdicts(self) -> list[str]:
        """The conclusion of each pair."""
        return [pair.verdict for pair in self.pairs]

    def tables(self) -> list[Table]:
        """Runs, options, head checks, scores, leakage and paired differences; none is empty."""
        results = {str(run): run.metrics for run in self.runs if run.metrics}
        tables = [
            Table(
                "Runs",
                ("", "split", "weights"),
                [(name, m.split_text, m.weights or "n/a") for name, m in results.items()],
            ),
            Table(
                "Options that differ",
                ("option", *results),
                [(key, *map(str, values)) for key, values in self.config.items()],
            ),
            head_check_table(
                "Head check: the head with the lowest coverage",
                {str(run): run.head_check.lowest for run in self.runs if run.head_check},
            ),
            score_table(
                "Test",
                {name: metrics.retrieval for name, metrics in results.items()},
                {name: metrics.intervals for name, metrics in results.items()},
            ),
            leakage_table(results),
            Table(
                "Paired differences in points; below, 95 % intervals",
                ("first - second", "queries", *SCORES.values(), "p (mAP)"),
                [_row(pair) for pair in self.pairs if pair.differences],
                _LIMITS,
            ),
        ]
        return [table for table in tables if table.rows]

    def to_markdown(self) -> str:
        """Verdicts and tables as a page."""
        tables = [f"## {table.to_markdown()}" for table in self.tables()]
        return "\n\n".join(["# camreid-compare", *self.verdicts, *tables]) + "\n"

    def to_json(self) -> dict[str, Any]:
        """Nested plain values; shares are in 0..1."""
        pairs = [{**asdict(pair), "better": pair.better} for pair in self.pairs]
        content = {"verdicts": self.verdicts, "pairs": pairs, "config": self.config}
        return {"command": "camreid-compare", **plain(content)}


def compare_runs(paths: Sequence[str | Path]) -> Comparison:
    """Compare each two run folders.

    Raises:
        InputError: fewer than two folders, one twice, or one without the numbers of a test.
    """
    if len({Path(path).resolve() for path in paths}) < max(2, len(paths)):
        raise InputError(f"runs={[str(path) for path in paths]}: expected two or more run folders.")
    runs = [RunFolder.existing(path) for path in paths]
    for run in runs:
        if run.result is None:
            file = "features.safetensors" if run.metrics else "metrics.json"
            raise InputError(f"{run} has no {file}: evaluate its checkpoint, compare that folder.")
    return Comparison(runs, [compare_pair(*pair) for pair in combinations(runs, 2)])


def compare_pair(first: RunFolder, second: RunFolder) -> Pair:
    """Compare two tested runs, if they have the same gallery and share queries."""
    names = (str(first), str(second))
    try:
        ours, theirs = _on_shared_queries(first, second)
        seen = torch.tensor(sorted(_seen(first) | _seen(second)), dtype=torch.int64)
        unseen = ~torch.isin(ours.query_pids, seen)
        leaked = len(torch.unique(ours.query_pids[~unseen & ours.valid]))
        if not (unseen & ours.valid).any():
            raise NoValidQuery(f"one of them was trained on each of the {leaked} identities.")
        ours, theirs = ours.of(unseen), theirs.of(unseen)
        differences = compare(ours, theirs, level=1 - ALPHA)
    except InputError as error:
        return Pair(*names, reason=str(error))
    identities = len(torch.unique(ours.query_pids[ours.valid]))
    return Pair(*names, ours.valid_queries, identities, leaked, differences)


def _seen(run: RunFolder) -> frozenset[int]:
    return frozenset((run.features and run.features.notes.get("seen")) or ())


def _on_shared_queries(first: RunFolder, second: RunFolder) -> tuple[RankingResult, RankingResult]:
    """The rankings of the queries that both have, in one order."""
    a, b, ours, theirs = first.features, second.features, first.result, second.result
    if a is None or b is None or ours is None or theirs is None:
        raise InputError("one of them has no saved features.")
    if ours.protocol != theirs.protocol:
        raise InputError(f"their protocols differ: {ours.protocol} and {theirs.protocol}.")
    rows, other, gallery, other_gallery = map(_rows, (a.query, b.query, a.gallery, b.gallery))
    shared = [(row, other[image]) for image, row in rows.items() if image in other]
    if gallery.keys() != other_gallery.keys() or not shared:
        raise InputError(
            f"the tests differ. They share {len(shared)} of {len(rows)} and {len(other)} queries, "
            f"and {len(gallery.keys() & other_gallery.keys())} of {len(gallery)} and "
            f"{len(other_gallery)} gallery images, by name, identity and camera. Test both on one "
            "resplit with exclude_seen= and both checkpoints."
        )
    own, its = torch.tensor(shared).unbind(1)
    return ours.of(own), theirs.of(its)


def _rows(images: Images) -> dict[tuple[str, int, int], int]:
    """Row of each image by folder and file name, identity and camera, wherever the dataset is."""
    names = ("/".join(Path(path).parts[-2:]) for path in images.paths)
    labels = zip(names, images.pids.tolist(), images.cameras.tolist(), strict=False)
    return {image: row for row, image in enumerate(labels)}


def _flat(config: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    """Options by dotted key.

    >>> _flat({"seed": 0, "split": {"by": "image"}})
    {'seed': 0, 'split.by': 'image'}
    """
    found: dict[str, Any] = {}
    for key, value in config.items():
        nested = isinstance(value, Mapping)
        found |= _flat(value, f"{above}{key}.") if nested else {f"{above}{key}": value}
    return found


def _row(pair: Pair) -> list[str]:
    scores = [pair.differences[key] for key in SCORES]
    cells = (f"{100 * d.value:+.1f}\n{interval(d.low, d.high)}".rstrip() for d in scores)
    name, p = f"{pair.first} - {pair.second}", pair.differences["mAP"].p
    return [name, str(pair.queries), *cells, f"{p:.2g}"]
