"""Run folders side by side: what differs, and whether one is better."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from itertools import combinations
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from camreid.errors import InputError
from camreid.evaluation import Difference, FeatureTable, Images, RankingResult, compare
from camreid.runs.folder import RunFolder, plain
from camreid.runs.table import Table, interval, percent

SCORES = {"mAP": "mAP", "rank1": "Rank-1", "rank5": "Rank-5", "mINP": "mINP"}
ALPHA = 0.05
_ABSENT = "(not set)"


@dataclass(frozen=True)
class Run:
    """A run folder of a comparison, called by a letter."""

    letter: str
    folder: RunFolder

    @cached_property
    def result(self) -> RankingResult | None:
        """The ranking of its saved features."""
        table, metrics = self.folder.features, self.folder.metrics
        return metrics.rank_options.rank(table)[0] if table and metrics else None

    @property
    def seen(self) -> frozenset[int]:
        """Known training identities of the tested weights."""
        return frozenset(
            self.folder.features.notes.get("seen") or () if self.folder.features else ()
        )

    def __str__(self) -> str:
        return f"{self.letter} ({self.folder.path})"


@dataclass(frozen=True)
class Paired:
    """The first run minus the second on the same queries.

    Attributes:
        queries: that have a match.
        identities: of these queries.
        differences: by name, in 0..1.
    """

    queries: int
    identities: int
    differences: Mapping[str, Difference]


@dataclass(frozen=True)
class Pair:
    """Two runs against each other.

    Attributes:
        first: a run.
        second: another.
        shared: on all shared queries; None where the runs are not comparable.
        unseen: on those of identities that neither was trained on; None where that is all or none.
        leaks: whether one of the two was trained on an identity of `shared`.
        reason: why the runs are not comparable.
    """

    first: Run
    second: Run
    shared: Paired | None = None
    unseen: Paired | None = None
    leaks: bool = False
    reason: str = ""

    @property
    def decisive(self) -> Paired | None:
        """The numbers of the verdict: on unseen identities where the test leaks."""
        return self.unseen if self.leaks else self.shared

    @property
    def better(self) -> Run | None:
        """The run with the higher mAP; None where the difference is not significant."""
        if self.decisive is None:
            return None
        found = self.decisive.differences["mAP"]
        if found.p >= ALPHA or found.low <= 0 <= found.high:
            return None
        return self.first if found.value > 0 else self.second

    @property
    def verdict(self) -> str:
        """The conclusion in one line."""
        both = f"{self.first} and {self.second}"
        if self.shared is None:
            return f"not comparable: {both}: {self.reason}."
        if self.decisive is None:
            return (
                f"not comparable: {both}: their weights were trained on all "
                f"{self.shared.identities} identities of the {self.shared.queries} queries."
            )
        where = f"on the same {self.decisive.queries} queries"
        if self.leaks:
            where += f" of the {self.decisive.identities} identities that neither was trained on"
        unknown = [run.letter for run in (self.first, self.second) if not _complete(run)]
        if unknown:
            where += f" (the training identities of {' and '.join(unknown)} are not fully known)"
        found = self.decisive.differences["mAP"]
        if self.better is None:
            return f"inconclusive: {both} differ by {_points(found)} {where}."
        if self.better is self.first:
            return f"{self.first} is better than {self.second} by {_points(found)} {where}."
        found = replace(found, value=-found.value, low=-found.high, high=-found.low)
        return f"{self.second} is better than {self.first} by {_points(found)} {where}."

    def to_json(self) -> dict[str, Any]:
        """Nested plain values."""
        return {
            "first": self.first.letter,
            "second": self.second.letter,
            "shared": self.shared and asdict(self.shared),
            "unseen": self.unseen and asdict(self.unseen),
            "leaks": self.leaks,
            "reason": self.reason,
            "better": self.better and self.better.letter,
        }


@dataclass(frozen=True)
class Comparison:
    """Runs, and each two of them as a pair."""

    runs: tuple[Run, ...]
    pairs: tuple[Pair, ...]

    @property
    def config(self) -> dict[str, list[Any]]:
        """The options in which the runs differ, with the value of each run."""
        return differing([{**run.folder.config, "run_dir": None} for run in self.runs])

    @property
    def missing(self) -> list[str]:
        """Files that a run lacks for a comparison."""
        return [
            f"{run} has no {'features.safetensors' if run.folder.metrics else 'metrics.json'}: "
            "evaluate its checkpoint and compare that folder."
            for run in self.runs
            if run.result is None
        ]

    @property
    def caveats(self) -> list[str]:
        """What the numbers do not show."""
        found = [
            f"{run.letter}: not all training identities are known, so leakage is not excluded."
            for run in self.runs
            if not _complete(run)
        ]
        for run in self.runs:
            if run.folder.metrics and run.folder.metrics.partial:
                found.append(f"{run.letter}: only a part of the images was tested.")
        weights = [run.folder.metrics and run.folder.metrics.weights for run in self.runs]
        if any(pair.shared is None for pair in self.pairs):
            paths = ",".join(str(w) for w in dict.fromkeys(weights) if w)
            found.append(
                "Results on different tests are not comparable, not even by their intervals: "
                f"evaluate all checkpoints on one resplit with exclude_seen=[{paths}]."
            )
        if None in weights or len(set(weights)) > 1:
            found.append(
                "Each run is one training: the intervals are over test identities and do not show "
                "what another seed would give."
            )
        tests = sum(pair.shared is not None for pair in self.pairs)
        if tests > 1:
            found.append(f"The p-values of {tests} differences are not adjusted for each other.")
        if len(self.config) > 1:
            found.append(f"The configs differ in {len(self.config)} options.")
        return found

    def tables(self) -> list[Table]:
        """Options, head checks, results, leakage and paired differences; none is empty."""
        runs = [run for run in self.runs if run.folder.metrics]
        letters = [run.letter for run in self.runs]
        options = [[key, *map(_option, values)] for key, values in self.config.items()]
        checks = [row for run in self.runs for row in _head_check(run)]
        head = ("run", "head", "rows", "shared", "unknown", "coverage", "of images")
        test = ("run", "queries", *SCORES.values())
        leak = ("run", "seen identities", "mAP", "unseen identities", "mAP")
        pair = ("pair", "queries", "identities", *SCORES.values(), "p (mAP)")
        pairs = [row for found in self.pairs for row in _pair_rows(found)]
        tables = [
            Table("Runs", ("run", "folder", "split", "weights"), [_origin(r) for r in self.runs]),
            Table("Config: differences", ("option", *letters), options),
            Table("Head check", head, checks),
            Table("Test, with 95 % intervals", test, list(map(_test, runs))),
            Table("Leakage", leak, list(map(_leak, runs))),
            Table("Paired differences in points, with 95 % intervals", pair, pairs),
        ]
        return [table for table in tables if table.rows]

    def to_markdown(self) -> str:
        """Verdicts, tables and caveats as a page."""
        tables = [f"## {table.to_markdown()}" for table in self.tables()]
        caveats = "\n".join(f"- {text}" for text in (*self.caveats, *self.missing))
        parts = ["# Comparison", *self.verdicts, *tables, "## Limits", caveats]
        return "\n\n".join(parts) + "\n"

    @property
    def verdicts(self) -> list[str]:
        """The conclusion of each pair."""
        return [pair.verdict for pair in self.pairs]

    def to_json(self) -> dict[str, Any]:
        """Nested plain values; shares are in 0..1."""
        runs = [
            {
                "letter": run.letter,
                "path": str(run.folder.path),
                "head_check": run.folder.head_check and run.folder.head_check.to_json(),
                **(run.folder.metrics.to_json() if run.folder.metrics else {}),
            }
            for run in self.runs
        ]
        content = {
            "verdicts": self.verdicts,
            "pairs": [pair.to_json() for pair in self.pairs],
            "caveats": self.caveats,
            "missing": self.missing,
            "config": self.config,
            "runs": runs,
        }
        return {name: plain(value) for name, value in content.items()}


def compare_runs(paths: Sequence[str | Path]) -> Comparison:
    """Read run folders and compare each two.

    Raises:
        InputError: fewer than two folders, one twice, or one that is no run or is broken.
    """
    if len({Path(path).resolve() for path in paths}) < max(2, len(paths)):
        raise InputError(f"runs={[str(path) for path in paths]}: expected two or more run folders.")
    runs = tuple(Run(chr(65 + i), RunFolder.existing(path)) for i, path in enumerate(paths))
    return Comparison(runs, tuple(compare_pair(a, b) for a, b in combinations(runs, 2)))


def compare_pair(first: Run, second: Run) -> Pair:
    """Compare two runs on the queries that both have, if galleries and labels are the same."""
    a, b = first.folder.features, second.folder.features
    if first.result is None or second.result is None or a is None or b is None:
        missing = [run.letter for run in (first, second) if run.result is None]
        return Pair(first, second, reason=f"{' and '.join(missing)} has no numbers with features")
    reason = _mismatch(first, second, a, b)
    if reason:
        return Pair(first, second, reason=reason)
    place = {name: i for i, name in enumerate(_names(b.query))}
    both = [(i, place[name]) for i, name in enumerate(_names(a.query)) if name in place]
    rows = torch.tensor(both).unbind(1)
    try:
        ours, theirs = _rank_queries(first, a, rows[0]), _rank_queries(second, b, rows[1])
    except InputError as error:
        return Pair(first, second, reason=str(error).rstrip("."))
    shared = _paired(ours, theirs)
    seen = torch.tensor(sorted(first.seen | second.seen), dtype=torch.int64)
    unseen = ~torch.isin(ours.query_pids, seen)
    if not (~unseen & ours.valid).any():
        return Pair(first, second, shared)
    some = bool((unseen & ours.valid).any())
    fair = _paired(ours.of(unseen), theirs.of(unseen)) if some else None
    return Pair(first, second, shared, fair, leaks=True)


def differing(configs: Sequence[Mapping[str, Any]], above: str = "") -> dict[str, list[Any]]:
    """The options in which configs differ, by dotted key, with the value of each config.

    `save_dir`, the folder of a logger, is left out.

    >>> differing([{"seed": 0, "split": {"by": "image"}}, {"seed": 0, "split": {"camera": 3}}])
    {'split.by': ['image', '(not set)'], 'split.camera': ['(not set)', 3]}
    """
    found: dict[str, list[Any]] = {}
    for key in dict.fromkeys(key for config in configs for key in config if key != "save_dir"):
        values = [config.get(key, _ABSENT) for config in configs]
        if all(isinstance(value, Mapping) for value in values):
            found.update(differing(values, f"{above}{key}."))
        elif any(value != values[0] for value in values):
            found[f"{above}{key}"] = values
    return found


def _complete(run: Run) -> bool:
    return run.folder.metrics is None or run.folder.metrics.seen_complete


def _mismatch(first: Run, second: Run, a: FeatureTable, b: FeatureTable) -> str:
    """Why two tests are not the same for the queries that both have; empty if they are."""
    assert first.result is not None
    assert second.result is not None
    if first.result.protocol != second.result.protocol:
        return f"protocols differ: {first.result.protocol} and {second.result.protocol}"
    parts = [_names(images) for images in (a.query, b.query, a.gallery, b.gallery)]
    if not all(parts) or any(len(set(names)) < len(names) for names in parts):
        return "the features do not name each image once"
    ours, theirs, our_gallery, their_gallery = map(set, parts)
    if our_gallery != their_gallery or not ours & theirs:
        return (
            f"the tests differ: {len(ours & theirs)} of {len(ours)} and {len(theirs)} queries and "
            f"{len(our_gallery & their_gallery)} of {len(our_gallery)} and {len(their_gallery)} "
            "gallery images are shared"
        )
    labels, other = _labels(a), _labels(b)
    if any(labels[name] != other[name] for name in labels.keys() & other.keys()):
        return "identities or cameras of the same images differ"
    return ""


def _names(images: Images) -> list[str]:
    """Folder and file name of each image, wherever the dataset is."""
    return ["/".join(Path(path).parts[-2:]) for path in images.paths]


def _labels(table: FeatureTable) -> dict[str, tuple[int, int]]:
    return {
        name: (pid, camera)
        for part in (table.query, table.gallery)
        for name, pid, camera in zip(
            _names(part), part.pids.tolist(), part.cameras.tolist(), strict=True
        )
    }


def _rank_queries(run: Run, table: FeatureTable, rows: Tensor) -> RankingResult:
    """The ranking of some queries; re-ranking and expansion see no others."""
    assert run.result is not None
    assert run.folder.metrics is not None
    query = table.query
    if torch.equal(rows, torch.arange(len(query.pids))):
        return run.result
    some = Images(
        query.features[rows],
        query.pids[rows],
        query.cameras[rows],
        None if query.sequences is None else query.sequences[rows],
    )
    return run.folder.metrics.rank_options.rank(replace(table, query=some))[0]


def _paired(first: RankingResult, second: RankingResult) -> Paired:
    identities = len(torch.unique(first.query_pids[first.valid]))
    return Paired(first.valid_queries, identities, compare(first, second, level=1 - ALPHA))


def _points(found: Difference) -> str:
    ends = _ends(found) and f"95 % {_ends(found)}, "
    return f"{100 * found.value:.1f} points mAP ({ends}p = {found.p:.2g})"


def _ends(found: Difference, sign: str = "") -> str:
    """The interval in points; empty for one identity."""
    if math.isnan(found.low):
        return ""
    return f"{100 * found.low:{sign}.1f} .. {100 * found.high:{sign}.1f}"


def _origin(run: Run) -> list[str]:
    metrics = run.folder.metrics
    cells = (metrics.split_text, metrics.weights or "n/a") if metrics else ("n/a", "n/a")
    return [run.letter, str(run.folder.path), *cells]


def _option(value: Any) -> str:
    return f"{len(value)} options" if isinstance(value, Mapping) else str(value)


def _head_check(run: Run) -> list[list[str]]:
    """The head with the lowest coverage of those with identities to train."""
    heads = run.folder.head_check.heads if run.folder.head_check else []
    heads = [head for head in heads if head["identities"]]
    if not heads:
        return []
    head = min(heads, key=lambda head: float(head["coverage"]))
    counts = [str(head[key]) for key in ("head", "rows", "shared", "unknown")]
    return [[run.letter, *counts, percent(head["coverage"]), percent(head["image_coverage"])]]


def _test(run: Run) -> list[str]:
    assert run.folder.metrics is not None
    numbers, ends = run.folder.metrics.retrieval, run.folder.metrics.intervals
    cells = (f"{percent(numbers[key])} ({interval(ends[key])})" for key in SCORES)
    return [run.letter, f"{numbers['valid_queries']:.0f}", *cells]


def _leak(run: Run) -> list[str]:
    assert run.folder.metrics is not None
    parts = [run.folder.metrics.leak[group] for group in ("seen", "unseen")]
    cells = (cell for p in parts for cell in (str(p["identities"]), percent(p["mAP"])))
    return [run.letter, *cells]


def _pair_rows(pair: Pair) -> list[list[str]]:
    name = f"{pair.first.letter} - {pair.second.letter}"
    found = {name: pair.shared, f"{name}, unseen identities": pair.unseen}
    return [
        [
            label,
            str(paired.queries),
            str(paired.identities),
            *(f"{100 * d.value:+.1f} ({_ends(d, '+') or 'n/a'})" for d in scores),
            f"{paired.differences['mAP'].p:.2g}",
        ]
        for label, paired in found.items()
        if paired is not None
        for scores in [[paired.differences[key] for key in SCORES]]
    ]
