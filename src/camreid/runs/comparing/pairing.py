"""Two runs on the same queries: the paired difference, or why there is none."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from camreid.errors import InputError
from camreid.evaluation import Difference, FeatureTable, Images, RankingResult, compare
from camreid.runs.comparing.runs import RunFolder

LEVEL = 0.95


@dataclass(frozen=True)
class Paired:
    """The first run minus the second, on the same queries.

    Attributes:
        queries: how many have a match.
        people: whom they look for.
        differences: by name, in 0..1.
    """

    queries: int
    people: int
    differences: Mapping[str, Difference]


@dataclass(frozen=True)
class Pair:
    """What two runs say about each other.

    Attributes:
        first: letter of a run.
        second: letter of the other.
        shared: on all queries that both have, None where they can't be paired.
        unseen: on the queries of people whom neither has seen; None where nobody was seen, or
            everybody.
        leaks: whether one of the two has seen any of the people of `shared`.
        reason: why there is no paired difference; empty if there is one.
        unknown: letters of those of whose weights nobody knows all whom they have seen.
    """

    first: str
    second: str
    shared: Paired | None = None
    unseen: Paired | None = None
    leaks: bool = False
    reason: str = ""
    unknown: tuple[str, ...] = ()

    @property
    def fair(self) -> Paired | None:
        """The numbers to go by: of people whom neither has seen."""
        return self.unseen if self.leaks else self.shared

    @property
    def better(self) -> str | None:
        """The run with the higher mAP on `fair`, None if it can't be told."""
        if self.fair is None:
            return None
        found = self.fair.differences["mAP"]
        if found.p >= 1 - LEVEL or found.low <= 0 <= found.high:
            return None
        return self.first if found.value > 0 else self.second


def pair(first: RunFolder, second: RunFolder) -> Pair:
    """Compare two runs on the queries that they share, if their galleries are the same."""
    letters = (first.letter, second.letter)
    if first.table is None or second.table is None:
        without = " and ".join(r.letter for r in (first, second) if r.table is None)
        return Pair(*letters, reason=f"there are no features of {without} to rank again")
    reason = _different_tests(first, second)
    if reason:
        return Pair(*letters, reason=reason)
    try:
        ours, theirs = _on_shared_queries(first, second)
        shared = _paired(ours, theirs)
    except InputError as error:
        return Pair(*letters, reason=str(error).rstrip("."))
    seen = torch.tensor(sorted(first.seen | second.seen), dtype=torch.int64)
    unseen = ~torch.isin(ours.query_pids, seen)
    leaks = bool((~unseen & ours.valid).any())
    unknown = tuple(run.letter for run in (first, second) if not run.seen_complete)
    if not leaks or not bool((unseen & ours.valid).any()):
        return Pair(*letters, shared, leaks=leaks, unknown=unknown)
    fair = _paired(ours.of(unseen), theirs.of(unseen))
    return Pair(*letters, shared, fair, leaks, unknown=unknown)


def _paired(first: RankingResult, second: RankingResult) -> Paired:
    people = set(first.query_pids[first.valid].tolist())
    return Paired(first.valid_queries, len(people), compare(first, second, level=LEVEL))


def _on_shared_queries(first: RunFolder, second: RunFolder) -> tuple[RankingResult, RankingResult]:
    """Both ranked again with the queries that they share alone, in the order of the first."""
    assert first.table is not None
    assert second.table is not None
    names = image_names(first.table.query), image_names(second.table.query)
    place = {name: i for i, name in enumerate(names[1])}
    both = [(i, place[name]) for i, name in enumerate(names[0]) if name in place]
    chosen = torch.tensor(both, dtype=torch.int64).unbind(1)
    return _rank_some(first, chosen[0]), _rank_some(second, chosen[1])


def _rank_some(run: RunFolder, queries: Tensor) -> RankingResult:
    """The ranking of some queries; re-ranking and expansion see no others."""
    assert run.table is not None
    assert run.result is not None
    if torch.equal(queries, torch.arange(len(run.table.query.pids))):
        return run.result
    some = _pick(run.table.query, queries)
    return run.options.rank(replace(run.table, query=some))[0]


def _pick(images: Images, index: Tensor) -> Images:
    sequences = None if images.sequences is None else images.sequences[index]
    paths = tuple(images.paths[i] for i in index.tolist())
    pids, cameras = images.pids[index], images.cameras[index]
    return Images(images.features[index], pids, cameras, sequences, paths)


def image_names(images: Images) -> list[str]:
    """Folder and file name of each image, the same wherever the dataset lies.

    >>> one = torch.ones(1, 2)
    >>> image_names(Images(one, one[0], one[0], paths=("/datasets/market/query/x.jpg",)))
    ['query/x.jpg']
    """
    return ["/".join(Path(path).parts[-2:]) for path in images.paths]


def _different_tests(first: RunFolder, second: RunFolder) -> str:
    """Why two tests are not the same; empty if they are, for the queries that both have."""
    assert first.table is not None
    assert second.table is not None
    if first.options.protocol != second.options.protocol:
        return (
            f"{first.letter} was tested by the {first.options.protocol} protocol and "
            f"{second.letter} by {second.options.protocol}, which have other matches"
        )
    tables = (first.table, second.table)
    parts = [image_names(images) for t in tables for images in (t.query, t.gallery)]
    if not all(parts) or any(len(set(names)) < len(names) for names in parts):
        return "the features do not name each of their images once, so nothing says which are whose"
    queries, galleries = (set(parts[0]), set(parts[2])), (set(parts[1]), set(parts[3]))
    if galleries[0] != galleries[1] or not queries[0] & queries[1]:
        return _overlap(first, second, queries, galleries)
    ours, theirs = map(_labels, tables)
    if any(ours[name] != theirs[name] for name in ours.keys() & theirs.keys()):
        return "the same images bear other identities or cameras in one of them than in the other"
    return ""


def _labels(table: FeatureTable) -> dict[str, tuple[int, int]]:
    """Pid and camera of each image by name."""
    found: dict[str, tuple[int, int]] = {}
    for images in (table.query, table.gallery):
        columns = zip(images.pids.tolist(), images.cameras.tolist(), strict=True)
        found.update(zip(image_names(images), columns, strict=True))
    return found


def _overlap(
    first: RunFolder,
    second: RunFolder,
    queries: Sequence[set[str]],
    galleries: Sequence[set[str]],
) -> str:
    """How much two tests have in common."""
    people = [set(run.table.query.pids.tolist()) for run in (first, second) if run.table]
    return (
        f"they were tested on other images: {len(queries[0] & queries[1])} queries are in both "
        f"({len(queries[0])} of {len(people[0])} people in {first.letter}, {len(queries[1])} of "
        f"{len(people[1])} in {second.letter}; {len(people[0] & people[1])} people in both), and "
        f"{len(galleries[0] & galleries[1])} of {len(galleries[0])} and {len(galleries[1])} "
        "gallery images; how hard a query is depends on the gallery"
    )
