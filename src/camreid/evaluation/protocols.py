"""The evaluation protocols: which gallery images a query sees, and which of them are matches."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import get_args

import torch
from torch import Tensor

from camreid.errors import InputError
from camreid.evaluation.result import Protocol, RankingResult, measure, summarise

JUNK, DISTRACTOR = -1, 0


@dataclass(frozen=True)
class Labels:
    """The labels of some images.

    Attributes:
        pids: (N,) int64; -1 is junk, 0 a distractor.
        cameras: (N,) int64.
        sequences: (N,) int64 recordings, -1 where unknown; None if none is known.
        index: (N,) int64 image numbers, by which the query image is found in the gallery.
    """

    pids: Tensor
    cameras: Tensor
    sequences: Tensor | None = None
    index: Tensor | None = None

    def to(self, device: torch.device | str) -> "Labels":
        """The same on a device, as int64."""
        columns = (self.pids, self.cameras, self.sequences, self.index)
        return Labels(*(None if c is None else c.detach().to(device).long() for c in columns))  # type: ignore[arg-type]

    def check(self, role: str, images: int) -> None:
        """Refuse labels that are not one for each of the role's images."""
        columns = {"pids": self.pids, "cameras": self.cameras}
        columns |= {
            name: column
            for name, column in (("sequences", self.sequences), ("index", self.index))
            if column is not None
        }
        if images == 0 or any(column.shape != (images,) for column in columns.values()):
            found = ", ".join(f"{column.numel()} {name}" for name, column in columns.items())
            raise InputError(
                f"the {role} has {images} features, {found}: expected as many of each, in one "
                "dimension, and at least one."
            )


@dataclass(frozen=True)
class Pairs:
    """For each of some queries, the gallery images of the same identity.

    Attributes:
        queries: (b,) int64 rows of the query.
        columns: (b, P) int64 rows of the gallery. Short rows are filled with repeats of their last.
        real: (b, P) bool, False for the filling.
    """

    queries: Tensor
    columns: Tensor
    real: Tensor


class SameIdentity:
    """Finds the gallery images of a query's identity, without a Q x G table.

    Args:
        query: labels of the queries, on one device with the gallery's.
        gallery: labels of the gallery.

    >>> query, gallery = torch.tensor([[7], [0]]), torch.tensor([[7, 5, 7], [1, 1, 1]])
    >>> same = SameIdentity(Labels(*query), Labels(*gallery))
    >>> same.counts.tolist(), same.pairs(torch.tensor([0]), 2).columns.tolist()
    ([2], [[0, 2]])
    """

    def __init__(self, query: Labels, gallery: Labels) -> None:
        self.order = gallery.pids.argsort(stable=True)
        pids = gallery.pids[self.order]
        self.start = torch.searchsorted(pids, query.pids)
        stop = torch.searchsorted(pids, query.pids, right=True)
        self.counts = torch.where(query.pids == JUNK, 0, stop - self.start)

    def pairs(self, queries: Tensor, width: int) -> Pairs:
        """The pairs of some queries (b,) int64 that have at least one; `width` is the most."""
        counts = pick(self.counts, queries)[:, None]
        places = torch.arange(width, device=counts.device)
        first = pick(self.start, queries)[:, None]
        columns = pick(self.order, first + torch.minimum(places, counts - 1))
        return Pairs(queries, columns, places < counts)


def pick(values: Tensor, index: Tensor) -> Tensor:
    """`values[index]` for 1-D values, which torch does in one thread where the index is small.

    On the CPU, indexing wakes all threads for any size, and waiting for them takes longer than the
    work, above all where other programs have the cores.

    >>> pick(torch.tensor([5, 6]), torch.tensor([[1, 0]]))
    tensor([[6, 5]])
    """
    return values.index_select(0, index.flatten()).view(index.shape)


def is_unlabelled(pids: Tensor) -> Tensor:
    """Whether pids are junk or distractors.

    >>> is_unlabelled(torch.tensor([-1, 0, 1]))
    tensor([ True,  True, False])
    """
    return (pids == JUNK) | (pids == DISTRACTOR)


@dataclass(frozen=True)
class Block:
    """The pairs of some queries, closest first; of equals, the earlier image. On the CPU.

    Attributes:
        pairs: of the same identity.
        closer: (b, P, S) int64, closer images of other identities in each gallery segment.
    """

    pairs: Pairs
    closer: Tensor


@dataclass(frozen=True)
class CameraPairs:
    """Retrieval from each camera to each other, (C, C): query camera by gallery camera.

    On the diagonal is the within-camera protocol. NaN where no query is valid.

    Attributes:
        cameras: the C cameras of queries and gallery, ascending.
        mAP: (C, C) float64.
        rank1: (C, C) float64.
        valid_queries: (C, C) int64.
    """

    cameras: tuple[int, ...]
    mAP: Tensor
    rank1: Tensor
    valid_queries: Tensor


@dataclass(frozen=True)
class Protocols:
    """The results of all protocols, from one pass over the features.

    Attributes:
        results: by protocol, and whether distractors were in the gallery; without those for which
            no query is valid, or for which the images could not be told apart.
        camera_pairs: every camera pair, with distractors.
    """

    results: Mapping[tuple[Protocol, bool], RankingResult]
    camera_pairs: CameraPairs


class Rules:
    """Which pairs are matches, and which segments (by camera and distractor) a query sees.

    Where the sequences of a side are not known, within-camera excludes the query image alone.

    Args:
        query: labels of all queries, on the CPU.
        gallery: labels of the whole gallery, on the CPU.
    """

    def __init__(self, query: Labels, gallery: Labels) -> None:
        if not (known(query.sequences) and known(gallery.sequences)):
            query, gallery = (replace(side, sequences=None) for side in (query, gallery))
        self.query, self.gallery = query, gallery
        self.cameras = torch.unique(torch.cat([query.cameras, gallery.cameras]))

    @property
    def tells_images_apart(self) -> bool:
        """Whether a query's own image or sequence can be found in the gallery."""
        pairs = (
            (self.query.sequences, self.gallery.sequences),
            (self.query.index, self.gallery.index),
        )
        return any(q is not None and g is not None for q, g in pairs)

    def check(self, protocol: str) -> None:
        """Refuse a protocol that these labels are not enough for."""
        if protocol not in get_args(Protocol):
            raise InputError(f"protocol={protocol!r}: expected 'cross-camera' or 'within-camera'.")
        if protocol == "within-camera" and not self.tells_images_apart:
            raise InputError(
                "protocol='within-camera' needs query_sequences and gallery_sequences, to leave "
                "out the query's own recording, or query_index and gallery_index, to take the "
                "query image itself out of its gallery."
            )

    def segments(self) -> tuple[Tensor, int]:
        """Segment of each gallery image: camera, then C more for distractors; and their number."""
        label = torch.searchsorted(self.cameras, self.gallery.cameras)
        label = label + len(self.cameras) * (self.gallery.pids == DISTRACTOR)
        return label.masked_fill(self.gallery.pids == JUNK, -1), 2 * len(self.cameras)

    def one_segment(self, distractors: bool) -> tuple[Tensor, int]:
        """All images that a cross-camera ranking sees as one segment; and the number 1."""
        pids = self.gallery.pids
        ignored = pids == JUNK if distractors else is_unlabelled(pids)
        return -ignored.long(), 1

    def matches(self, pairs: Pairs, protocol: Protocol, distractors: bool = True) -> Tensor:
        """(b, P) bool: pairs that are matches."""
        valid = pairs.real & self._other(pairs, "index")
        if not distractors:
            valid &= ~is_unlabelled(pick(self.query.pids, pairs.queries))[:, None]
        if protocol == "cross-camera":
            return valid & self._other(pairs, "cameras")
        valid &= ~self._other(pairs, "cameras")
        if self.query.sequences is None:
            return valid
        unknown = pick(self.query.sequences, pairs.queries)[:, None] < 0
        return valid & (unknown | self._other(pairs, "sequences"))

    def matches_in(self, pairs: Pairs) -> Tensor:
        """(b, P) bool: pairs that are matches where the gallery is of their camera alone."""
        across = self.matches(pairs, "cross-camera")
        return across | self.matches(pairs, "within-camera") if self.tells_images_apart else across

    def seen(self, queries: Tensor, protocol: Protocol, distractors: bool = True) -> Tensor:
        """(b, S) bool: segments that a query sees."""
        camera = torch.ones(len(queries), len(self.cameras), dtype=torch.bool)
        if protocol == "within-camera":
            camera = pick(self.query.cameras, queries)[:, None] == self.cameras
        return torch.cat([camera, camera & distractors], dim=1)

    def advice(self, protocol: Protocol) -> str:
        """What to do where a protocol has no valid query."""
        if not torch.isin(self.query.pids, self.gallery.pids).any():
            return "No query's pid is in the gallery: check that both are of one split."
        if protocol == "within-camera":
            other = "image" if self.query.sequences is None else "sequence"
            return (
                f"No query's identity is in another {other} of the query's camera: "
                "protocol='cross-camera' ranks the images of the other cameras."
            )
        return (
            "All matches are in the query's own camera: protocol='within-camera' ranks those. If "
            "there are more cameras, check query_cameras and gallery_cameras."
        )

    def _other(self, pairs: Pairs, label: str) -> Tensor:
        """(b, P) bool: pairs of different labels; all where a label is not known."""
        query, gallery = getattr(self.query, label), getattr(self.gallery, label)
        if query is None or gallery is None:
            return pairs.real
        return pick(gallery, pairs.columns) != pick(query, pairs.queries)[:, None]


def known(sequences: Tensor | None) -> bool:
    """Whether sequences are known: names without a sequence are read as 0.

    >>> known(None), known(torch.tensor([0, 0])), known(torch.tensor([0, 1]))
    (False, False, True)
    """
    return sequences is not None and bool((sequences > 0).any())


class Columns:
    """Average precision, inverse penalty and first match of all queries, filled in by block.

    Args:
        queries: number of queries Q.
    """

    def __init__(self, queries: int) -> None:
        nan = torch.full((queries,), torch.nan, dtype=torch.float64)
        self.ap, self.inp = nan, nan.clone()
        self.first = torch.zeros(queries, dtype=torch.int64)

    def add(self, block: Block, matches: Tensor, seen: Tensor | None = None) -> None:
        """Measure the queries of a block.

        Args:
            block: of queries.
            matches: (b, P) bool.
            seen: (b, S) bool segments, None for all.
        """
        closer = block.closer if seen is None else block.closer * seen[:, None]
        self.add_counted(block, matches, closer.sum(2))

    def add_counted(self, block: Block, matches: Tensor, closer: Tensor) -> None:
        """Measure the queries of a block, for (b, P) counts of others that are closer."""
        rows = block.pairs.queries
        self.ap[rows], self.inp[rows], self.first[rows] = measure(matches, closer)

    @property
    def valid(self) -> Tensor:
        """(Q,) bool: queries with a match."""
        return self.first > 0

    def summary(self, rules: Rules, protocol: Protocol, max_rank: int) -> RankingResult:
        """The result over all queries.

        Raises:
            NoValidQuery: no query has a match.
        """
        columns = (self.ap, self.inp, self.first)
        advice = "" if self.valid.any() else rules.advice(protocol)
        return summarise(columns, rules.query.pids, max_rank, protocol, advice)


class CameraColumns:
    """The columns of each camera as the gallery.

    Args:
        rules: of the problem.
        queries: number of queries Q.
    """

    def __init__(self, rules: Rules, queries: int) -> None:
        self.rules = rules
        self.columns = [Columns(queries) for _ in rules.cameras]

    def add(self, block: Block) -> None:
        """Measure the queries of a block in each camera."""
        matches = self.rules.matches_in(block.pairs)
        cameras = pick(self.rules.gallery.cameras, block.pairs.columns)
        count = len(self.columns)
        for number, (camera, columns) in enumerate(
            zip(self.rules.cameras, self.columns, strict=True)
        ):
            closer = block.closer[..., number] + block.closer[..., count + number]
            columns.add_counted(block, matches & (cameras == camera), closer)

    def summary(self) -> CameraPairs:
        """The matrices."""
        rows = self.rules.query.cameras == self.rules.cameras[:, None]
        valid = torch.stack([columns.valid for columns in self.columns], dim=1)
        ap = torch.stack([columns.ap for columns in self.columns], dim=1).nan_to_num(0)
        hit = torch.stack([columns.first == 1 for columns in self.columns], dim=1)
        count, ap, hit = (rows.double() @ table.double() for table in (valid, ap, hit))
        cameras = tuple(self.rules.cameras.tolist())
        return CameraPairs(cameras, ap / count, hit / count, count.long())
