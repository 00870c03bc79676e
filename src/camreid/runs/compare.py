"""Which of several runs is better: paired tests on identities that none of a pair trained on."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from itertools import chain, combinations
from pathlib import Path
from statistics import mean
from typing import Any

import torch

from camreid.errors import InputError, NoValidQuery
from camreid.evaluation import Difference, RankingResult, compare
from camreid.provenance import SplitRecord, plain
from camreid.runs import metrics
from camreid.runs.folder import RunFolder
from camreid.runs.table import Table

_PLACES = ("run_dir", "save_dir", "dirpath", "resume")  # where a run writes and goes on
_ONE_SEED = "Intervals and p are over test identities. They do not cover the seeds of trainings."


@dataclass(frozen=True)
class Method:
    """Runs that differ in nothing but their seed, compared as one."""

    runs: tuple[RunFolder, ...]
    words: str = ""  # what makes it differ from the others

    def __str__(self) -> str:
        return str(self.runs[0])

    @property
    def title(self) -> str:
        """Name, and what differs."""
        seeds = f"{len(self.runs)} seeds" if len(self.runs) > 1 else ""
        words = ", ".join(filter(None, (self.words, seeds)))
        return f"{self} ({words})" if words else str(self)


@dataclass(frozen=True)
class Pair:
    """Two methods on their shared queries of identities that neither was trained on."""

    first: str  # path of the run with the higher mAP
    second: str
    queries: int = 0  # with a match
    identities: int = 0  # of these queries
    leaked: int = 0  # identities of shared queries that are left out
    complete: bool = True  # whether all training identities of both are known
    differences: Mapping[str, Difference] = field(default_factory=dict)  # first minus second
    reason: str = ""  # why they are not comparable
    titles: Sequence[str] = ()  # their names, and what differs

    @property
    def better(self) -> str | None:
        """The run with the higher mAP; None if that is not decided."""
        decided = self.differences and not metrics.doubt(self.differences["mAP"], self.identities)
        return self.first if decided else None

    @property
    def verdict(self) -> str:
        """The conclusion in a sentence."""
        first, second = self.titles or (self.first, self.second)
        if not self.differences:
            return f"{first} and {second} are not comparable: {self.reason}"
        text = metrics.verdict(first, second, self.differences["mAP"], self.identities)
        text += f"; tested on {self.queries} queries of {self.identities} identities"
        if self.leaked:
            text += f"; {self.leaked} identities that one of them was trained on are left out"
        return text + ("." if self.complete else "; not all training identities are known.")


@dataclass(frozen=True)
class Comparison:
    """Tested runs, and pairs of them."""

    runs: Sequence[RunFolder]
    methods: Sequence[Method]
    pairs: Sequence[Pair]

    @property
    def options(self) -> dict[str, list[str]]:
        """The options of the trainings that differ, of config sections that all have."""
        return differing(self.runs)

    @property
    def warnings(self) -> list[str]:
        """Leakage and other limits, each once."""
        seeds = ["No verdict: these runs differ only in their seeds."] if not self.pairs else []
        return seeds + [w for r in self.runs if r.metrics for w in r.metrics.warnings(str(r))]

    @property
    def scores(self) -> Table:
        """A row per run; below them, means over the seeds."""
        single = [(str(m), m.runs[0].metrics) for m in self.methods if len(m.runs) == 1]
        table = metrics.score_table("Test", {name: own for name, own in single if own})
        groups = {m.title: [r.metrics for r in m.runs if r.metrics] for m in self.methods}
        means = [metrics.mean_row(name, runs) for name, runs in groups.items() if len(runs) > 1]
        note = ["±: standard deviation over seeds."] if means else [_ONE_SEED]
        return Table(table.title, table.columns, [*table.rows, *means], [*table.notes, *note])

    def tables(self) -> list[Table]:
        """Options, head checks, scores and paired differences; none is empty."""
        checks = {str(run): run.training["head_check"] for run in self.runs}
        heads = {n: metrics.HeadCheckRecord.from_json(c).lowest for n, c in checks.items() if c}
        options = [(key, *values) for key, values in self.options.items()]
        differences = []
        for pair in (pair for pair in self.pairs if pair.differences):
            cells = [metrics.points(pair.differences[score]) for score in metrics.SCORES]
            row = (f"{pair.first} - {pair.second}", str(pair.queries), *cells)
            differences.append([*row, f"{pair.differences['mAP'].p:.2g}"])
        columns = ("pair", "queries", *metrics.SCORES.values(), "p")
        title = "Paired differences in points; below, 95 % intervals"
        note = "p is of mAP, and not adjusted for the number of pairs."
        tables = [
            Table("Training options that differ", ("option", *map(str, self.runs)), options),
            metrics.head_check_table("Head check: the head with the lowest coverage", heads),
            self.scores,
            Table(title, columns, differences, [note]),
        ]
        return [table for table in tables if table.rows]

    def to_json(self) -> dict[str, Any]:
        """Nested plain values; shares are in 0..1."""
        pairs = [{"verdict": p.verdict, "better": p.better, **asdict(p)} for p in self.pairs]
        return {"command": "camreid-compare", "pairs": plain(pairs), "options": self.options}


def compare_runs(
    paths: Sequence[str | Path | RunFolder], names: Sequence[str] = (), with_first: bool = False
) -> Comparison:
    """Compare each two of several run folders, or each with the first; `names` are shown.

    Runs that differ only in `seed` count as one. InputError for a run that is not tested.
    """
    runs = [p if isinstance(p, RunFolder) else RunFolder.existing(p) for p in paths]
    if len({run.path.resolve() for run in runs}) < max(2, len(runs)):
        raise InputError(f"runs={[str(run) for run in runs]}: expected two or more run folders.")
    for run, name in zip(runs, names, strict=False):
        run.name = name
    for run in runs:
        if run.ranked is None:
            file = "features.safetensors" if run.metrics else "metrics.json"
            raise InputError(f"{run} has no {file}: evaluate its checkpoint, compare that folder.")
    methods = methods_of(runs)
    pairs = ((methods[0], m) for m in methods[1:]) if with_first else combinations(methods, 2)
    return Comparison(runs, methods, [compare_pair(*pair) for pair in pairs])


def compare_pair(first: Method, second: Method) -> Pair:
    """Compare two methods, if their runs have the same gallery and share queries."""
    runs = (*first.runs, *second.runs)
    seen = {pid for run in runs if run.ranked for pid in run.ranked[0].notes.get("seen") or ()}
    try:
        results = _on_shared_queries(runs)
        pids, valid = results[0].query_pids, results[0].valid
        unseen = ~torch.isin(pids, torch.tensor(sorted(seen), dtype=torch.int64))
        leaked = len(torch.unique(pids[~unseen & valid]))
        if not (unseen & valid).any():
            raise NoValidQuery(f"one of them was trained on each of the {leaked} identities.")
        results = [result.of(unseen) for result in results]
        groups = [(first, results[: len(first.runs)]), (second, results[len(first.runs) :])]
        groups.sort(key=lambda group: -mean(result.mAP for result in group[1]))
        (first, ours), (second, theirs) = groups
        differences = compare(ours, theirs)
    except InputError as error:
        return Pair(str(first), str(second), reason=str(error), titles=(first.title, second.title))
    identities = len(torch.unique(ours[0].query_pids[ours[0].valid]))
    complete = all(run.metrics.seen_complete for run in runs if run.metrics)
    counts = (ours[0].valid_queries, identities, leaked, complete)
    return Pair(str(first), str(second), *counts, differences, titles=(first.title, second.title))


def _on_shared_queries(runs: Sequence[RunFolder]) -> list[RankingResult]:
    ranked = [run.ranked for run in runs if run.ranked]
    protocols = list(dict.fromkeys(result.protocol for _, result in ranked))
    if len(protocols) > 1:
        raise InputError(f"their protocols differ: {' and '.join(protocols)}.")
    queries, galleries = zip(*(_rows(run) for run in runs), strict=True)
    shared = [image for image in queries[0] if all(image in rows for rows in queries)]
    common = set.intersection(*(set(rows) for rows in galleries))
    if not shared or any(len(rows) != len(common) for rows in galleries):
        weights = dict.fromkeys(run.metrics.weights for run in runs if run.metrics)
        counts, sizes = (" and ".join(str(len(r)) for r in rows) for rows in (queries, galleries))
        raise InputError(
            f"the tests differ. They share {len(shared)} of {counts} queries, and {len(common)} of "
            f"{sizes} gallery images, by name, identity and camera. For one test of all, type "
            f"camreid-compare {' '.join(filter(None, weights))} data.root=FOLDER"
        )
    places = (torch.tensor([rows[image] for image in shared]) for rows in queries)
    return [result.of(place) for (_, result), place in zip(ranked, places, strict=True)]


@lru_cache(maxsize=64)
def _rows(run: RunFolder) -> list[dict[tuple[str, int, int], int]]:
    """Row of each query and gallery image by folder and file name, identity and camera."""
    found = []
    for images in (run.ranked[0].query, run.ranked[0].gallery) if run.ranked else ():
        names = ("/".join(Path(path).parts[-2:]) for path in images.paths)
        labels = zip(names, images.pids.tolist(), images.cameras.tolist(), strict=False)
        found.append({image: row for row, image in enumerate(labels)})
    return found


def differing(runs: Sequence[RunFolder]) -> dict[str, list[str]]:
    """The options in which trainings differ, of the sections of the config that all have."""
    found = []
    for run in runs:
        test = run.metrics.evaluation if run.metrics else {}
        found.append(_flat({**run.training["config"], "evaluation": test}))
    shared = set.intersection(*({key.split(".")[0] for key in options} for options in found))
    keys = [key for key in dict.fromkeys(chain(*found)) if key.split(".")[0] in shared]
    rows = {key: [options.get(key, "(not set)") for options in found] for key in keys}
    return {key: values for key, values in rows.items() if len(set(values)) > 1}


def methods_of(runs: Sequence[RunFolder]) -> list[Method]:
    """Runs by what differs but the seed, in the order of their first runs."""
    groups: dict[tuple[str, ...], list[RunFolder]] = {}
    options = differing(runs)
    seeds = options.pop("seed", [""] * len(runs))
    tested: Counter[tuple[str, ...]] = Counter()  # best.ckpt and last.ckpt are of one seed
    for run, seed, *key in zip(runs, seeds, *options.values(), strict=True):
        tested[seed, *key] += 1
        groups.setdefault((*key, str(tested[seed, *key])), []).append(run)
    members = list(groups.values())
    words = _words([group[0] for group in members])
    return [Method(tuple(group), text) for group, text in zip(members, words, strict=True)]


def _words(runs: Sequence[RunFolder]) -> list[str]:
    facts: list[list[str]] = []
    for run in runs:
        config, split = run.training["config"], run.training["split"]
        model = config.get("model") or {}
        unknown = str(model.get("unknown", "")) if config.get("init") else ""
        brief = SplitRecord.from_json(split).brief if split else ""
        facts.append([brief, unknown, str(model.get("name", ""))])
    columns = [column for column in zip(*facts, strict=True) if len(set(column)) > 1]
    if not columns:
        few = [(k, v) for k, v in differing(runs).items() if k != "seed"][:2]
        columns = [tuple(f"{k.rpartition('.')[2]} {v}" for v in values) for k, values in few]
    return [", ".join(filter(None, own)) for own in zip(*columns, strict=True)] or [""] * len(runs)


def _flat(config: Mapping[str, Any], above: str = "") -> dict[str, str]:
    found: dict[str, str] = {}
    for key, value in config.items():
        if isinstance(value, Mapping):
            found |= _flat(value, f"{above}{key}.")
        elif key not in _PLACES:
            found[f"{above}{key}"] = str(value)
    return found
