"""One ranking problem, checked, and the passes that answer it."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
import torch.distributed as dist
from torch import Tensor

from camreid.errors import InputError, NoValidQuery, require_whole
from camreid.evaluation.people import People
from camreid.evaluation.protocols import CameraColumns, Columns, Protocols, Rules
from camreid.evaluation.result import Precision, Protocol, RankingResult
from camreid.evaluation.roc import ScoreCounts
from camreid.evaluation.scores import (
    DistanceScores,
    Features,
    FeatureScores,
    Metric,
    check_choices,
    multiplied_in,
)
from camreid.evaluation.shards import Shards, agree
from camreid.evaluation.sweep import Block, Scores, Sweep

_ROC_SCORES = 2**22  # copied at a time


@dataclass(frozen=True)
class Problem:
    """Scores and labels, checked, on the device that ranks.

    Attributes:
        scores: of the queries against the gallery images that this process holds.
        query: labels of the queries.
        shards: labels of the whole gallery.
        max_rank: length of the CMC curves.
        precision: in which features are multiplied.
        chunk_size: the most queries at a time.
    """

    scores: Scores
    query: People
    shards: Shards
    max_rank: int
    precision: Precision = "float32"
    chunk_size: int | None = None

    def rank(
        self,
        protocol: Protocol,
        distractors: bool = True,
        roc: bool = False,
    ) -> RankingResult:
        """The result of one protocol; see `camreid.evaluation.rank`."""
        rules = Rules(self.query.to("cpu"), self.shards.gallery.to("cpu"))
        rules.check(protocol)
        # across cameras, all that is nobody's match counts alike: one segment
        whole = protocol == "cross-camera"
        segments, count = rules.one_segment(distractors) if whole else rules.segments()
        columns = Columns(len(self.query.pids))
        curve = Curve(self.scores, self.shards) if roc else None
        for block in self._blocks(segments, count):
            matches = rules.matches(block.pairs, protocol, distractors)
            seen = None if whole else rules.seen(block.pairs.queries, protocol, distractors)
            columns.add(block, matches, seen)
            if curve is not None:
                curve.add(block, matches, seen)
        result = self._result(columns, rules, protocol, distractors)
        return result if curve is None else replace(result, roc=curve.counts.curve())

    def rank_all(self) -> Protocols:
        """The results of all protocols; see `camreid.evaluation.rank_protocols`."""
        rules = Rules(self.query.to("cpu"), self.shards.gallery.to("cpu"))
        names: list[Protocol] = ["cross-camera"]
        if rules.tells_images_apart:
            names.append("within-camera")
        size = len(self.query.pids)
        table = {(name, d): Columns(size) for name in names for d in (True, False)}
        cameras = CameraColumns(rules, size)
        for block in self._blocks(*rules.segments()):
            for key, columns in table.items():
                seen = rules.seen(block.pairs.queries, *key)
                columns.add(block, rules.matches(block.pairs, *key), seen)
            cameras.add(block)
        valid = {key: columns for key, columns in table.items() if columns.valid.any()}
        if not valid:
            raise NoValidQuery(
                f"none of the {size} queries has a match in the gallery under any protocol, so "
                f"there is nothing to measure. {rules.advice(names[-1])}"
            )
        results = {key: self._result(columns, rules, *key) for key, columns in valid.items()}
        return Protocols(results, cameras.summary())

    def _blocks(self, segments: Tensor, count: int) -> Iterator[Block]:
        segments = segments.to(self.scores.device)
        return Sweep(
            self.scores, self.query, self.shards, segments, count, self.chunk_size
        ).blocks()

    def _result(
        self, columns: Columns, rules: Rules, protocol: Protocol, distractors: bool
    ) -> RankingResult:
        result = columns.summary(rules, protocol, self.max_rank)
        return replace(result, precision=self.precision, distractors=distractors)


class Curve:
    """Counts the scores of a pass for its ROC curve.

    Args:
        scores: of the problem.
        shards: of the problem.
    """

    def __init__(self, scores: Scores, shards: Shards) -> None:
        self.scores, self.shards = scores, shards
        low, high = shards.hull(scores.bounds())
        self.counts = ScoreCounts(low, high, scores.device)

    def add(self, block: Block, matches: Tensor, seen: Tensor | None) -> None:
        """Count the valid queries of a block.

        Args:
            block: of queries.
            matches: (b, P) bool.
            seen: (b, S) bool segments, None for all.
        """
        matches = matches.to(block.scores.device)
        queries, valid = block.pairs.queries.to(matches.device), matches.any(1)
        seen = None if seen is None else seen.to(matches.device)
        comparable = self.scores.comparable(block.scores, queries)
        self.counts.add(self.counts.matches, comparable[matches])
        others = torch.zeros_like(self.counts.others)
        for segment, table in enumerate(block.others):
            rows = (valid if seen is None else valid & seen[:, segment]).nonzero().flatten()
            for some in torch.split(rows, max(1, _ROC_SCORES // max(1, table.shape[1]))):
                self.counts.add(others, self.scores.comparable(table[some], queries[some]))
        self.counts.others += self.shards.add(others)


@dataclass(frozen=True)
class Settings:
    """How to rank; see `camreid.evaluation.rank`."""

    metric: Metric
    max_rank: int
    precision: Precision
    device: torch.device | str | None
    group: dist.ProcessGroup | None
    chunk_size: int | None

    def __post_init__(self) -> None:
        check_choices(self.metric, self.precision)
        require_whole("max_rank", self.max_rank, least=1)
        if self.chunk_size is not None:
            require_whole("chunk_size", self.chunk_size, least=1)

    @contextmanager
    def problem(self, q: Tensor, g: Tensor, query: People, gallery: People) -> Iterator[Problem]:
        """The problem of features (Q, D) and (G, D) with their labels, once they are checked."""
        device = torch.empty(0, device=q.device if self.device is None else self.device).device
        with torch.no_grad(), multiplied_in(self.precision, device):
            scores, error = None, None
            try:
                scores = self._scores(q, g, query, gallery, device)
            except InputError as found:
                error = found
            agree(error, self.group)
            shards = Shards.join(gallery.to(device), self.group)
            if scores is not None:
                people = query.to(device)
                yield Problem(
                    scores, people, shards, self.max_rank, self.precision, self.chunk_size
                )

    def _scores(
        self, q: Tensor, g: Tensor, query: People, gallery: People, device: torch.device
    ) -> FeatureScores:
        if q.ndim != 2 or g.ndim != 2 or q.shape[1] != g.shape[1] or not q.shape[1]:
            raise InputError(
                f"features of shapes {tuple(q.shape)} and {tuple(g.shape)}: expected (Q, D) for "
                "the query and (G, D) for the gallery, with the same D, from one model."
            )
        query.check("query", len(q))
        gallery.check("gallery", len(g))
        return FeatureScores(
            Features(q, "query", device, self.precision),
            Features(g, "gallery", device, self.precision),
            self.metric,
        )


@torch.no_grad()
def distance_problem(distances: Tensor, query: People, gallery: People, max_rank: int) -> Problem:
    """The problem of a ready matrix of distances.

    Args:
        distances: (Q, G), smaller for closer.
        query: labels of the rows.
        gallery: labels of the columns.
        max_rank: length of the CMC curve.
    """
    if distances.ndim != 2:
        raise InputError(f"distances of shape {tuple(distances.shape)}: expected (Q, G).")
    query.check("query", distances.shape[0])
    gallery.check("gallery", distances.shape[1])
    scores = DistanceScores(distances)
    shards = Shards.join(gallery.to(scores.device), None)
    return Problem(scores, query.to(scores.device), shards, max_rank)
