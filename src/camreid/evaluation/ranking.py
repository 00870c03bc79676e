"""Ranking of a gallery for each query: mAP, mINP, CMC and more, exactly and in bounded memory."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import get_args

import torch
from torch import Tensor

from camreid.errors import InputError, NoValidQuery, require_whole
from camreid.evaluation.protocols import Block, CameraColumns, Columns, Labels, Protocols, Rules
from camreid.evaluation.result import Protocol, RankingResult
from camreid.evaluation.scores import (
    DistanceScores,
    Features,
    FeatureScores,
    Metric,
    float32_products,
)
from camreid.evaluation.sweep import Scores, Sweep


def rank(
    query_features: Tensor,
    gallery_features: Tensor,
    query_pids: Tensor,
    gallery_pids: Tensor,
    query_cameras: Tensor,
    gallery_cameras: Tensor,
    metric: Metric = "cosine",
    max_rank: int = 50,
    *,
    protocol: Protocol = "cross-camera",
    distractors: bool = True,
    query_sequences: Tensor | None = None,
    gallery_sequences: Tensor | None = None,
    query_index: Tensor | None = None,
    gallery_index: Tensor | None = None,
    device: torch.device | str | None = None,
) -> RankingResult:
    """Rank the gallery for each query, closest first; of equals, the earlier gallery image.

    Junk (pid -1) in the gallery is ignored; distractors (pid 0) match no query. A query without a
    match is left out of all means, as in the official protocol. Products are float32, with TF32
    off. Besides the features, less than 400 MB are in use at any time.

    Args:
        query_features: (Q, D), of any float type; they need not be on the device that ranks.
        gallery_features: (G, D), likewise.
        query_pids: (Q,) int64.
        gallery_pids: (G,) int64.
        query_cameras: (Q,) int64, of the same base as the gallery's.
        gallery_cameras: (G,) int64.
        metric: `cosine`, or `euclidean`.
        max_rank: length of the CMC curve.
        protocol: `cross-camera`, the official one, leaves out the query's identity in the query's
            camera; `within-camera` leaves out all other cameras, and the query's identity in the
            query's own sequence, where sequences are known.
        distractors: whether pid 0 stays in the gallery.
        query_sequences: (Q,) int64 recordings, of the same numbers as the gallery's; -1 where
            unknown, and all 0 count as unknown.
        gallery_sequences: (G,) int64.
        query_index: (Q,) int64 image numbers; a query's own image is left out of its gallery.
        gallery_index: (G,) int64.
        device: that ranks; the queries' if None.

    Raises:
        InputError: shapes do not fit together, features are not finite, or there is no such
            metric or protocol.
        NoValidQuery: no query has a match.

    >>> f = torch.eye(3)
    >>> r = rank(f[:1], f[[1, 0]], *(torch.tensor(t) for t in ([5], [7, 5], [0], [1, 1])))
    >>> r.mAP, r.cmc[:2].tolist(), r.valid_queries
    (1.0, [1.0, 1.0], 1)
    """
    query = Labels(query_pids, query_cameras, query_sequences, query_index)
    gallery = Labels(gallery_pids, gallery_cameras, gallery_sequences, gallery_index)
    with _problem(query_features, gallery_features, query, gallery, metric, device) as problem:
        return problem.rank(protocol, distractors, max_rank)


def rank_protocols(
    query_features: Tensor,
    gallery_features: Tensor,
    query_pids: Tensor,
    gallery_pids: Tensor,
    query_cameras: Tensor,
    gallery_cameras: Tensor,
    metric: Metric = "cosine",
    max_rank: int = 50,
    *,
    query_sequences: Tensor | None = None,
    gallery_sequences: Tensor | None = None,
    query_index: Tensor | None = None,
    gallery_index: Tensor | None = None,
    device: torch.device | str | None = None,
) -> Protocols:
    """All protocols in one pass: across and within cameras, by camera pair, without distractors.

    Within-camera numbers need sequences or indices, and are left out without them.

    Args:
        query_features: (Q, D); this and all that follow as for `rank`.
        gallery_features: (G, D).
        query_pids: (Q,) int64.
        gallery_pids: (G,) int64.
        query_cameras: (Q,) int64.
        gallery_cameras: (G,) int64.
        metric: `cosine` or `euclidean`.
        max_rank: length of the CMC curves.
        query_sequences: (Q,) int64.
        gallery_sequences: (G,) int64.
        query_index: (Q,) int64.
        gallery_index: (G,) int64.
        device: that ranks.

    Raises:
        InputError: as `rank`.
        NoValidQuery: no query has a match under any protocol.

    >>> labels = [torch.tensor(t) for t in ([5], [7, 5], [0], [1, 1])]
    >>> protocols = rank_protocols(torch.eye(3)[:1], torch.eye(3)[[1, 0]], *labels)
    >>> protocols.camera_pairs.valid_queries
    tensor([[0, 1],
            [0, 0]])
    """
    query = Labels(query_pids, query_cameras, query_sequences, query_index)
    gallery = Labels(gallery_pids, gallery_cameras, gallery_sequences, gallery_index)
    with _problem(query_features, gallery_features, query, gallery, metric, device) as problem:
        return problem.rank_all(max_rank)


def rank_distances(
    distances: Tensor,
    query_pids: Tensor,
    gallery_pids: Tensor,
    query_cameras: Tensor,
    gallery_cameras: Tensor,
    max_rank: int = 50,
) -> RankingResult:
    """`rank` by the official protocol for a ready (Q, G) matrix of distances, smallest first."""
    query, gallery = Labels(query_pids, query_cameras), Labels(gallery_pids, gallery_cameras)
    if distances.ndim != 2:
        raise InputError(f"distances of shape {tuple(distances.shape)}: expected (Q, G).")
    query.check("query", distances.shape[0])
    gallery.check("gallery", distances.shape[1])
    with torch.no_grad():
        problem = _Problem(DistanceScores(distances), query.to("cpu"), gallery.to("cpu"))
        return problem.rank("cross-camera", True, max_rank)


@contextmanager
def _problem(
    q: Tensor,
    g: Tensor,
    query: Labels,
    gallery: Labels,
    metric: Metric,
    device: torch.device | str | None,
) -> Iterator["_Problem"]:
    if metric not in get_args(Metric):
        raise InputError(f"metric={metric!r}: expected 'cosine' or 'euclidean'.")
    if q.ndim != 2 or g.ndim != 2 or q.shape[1] != g.shape[1] or not q.shape[1]:
        raise InputError(
            f"features of shapes {tuple(q.shape)} and {tuple(g.shape)}: expected (Q, D) for "
            "the query and (G, D) for the gallery, with the same D, from one model."
        )
    query.check("query", len(q))
    gallery.check("gallery", len(g))
    # a tensor's device has its number, as in cuda:0
    device = torch.empty(0, device=q.device if device is None else device).device
    with torch.no_grad(), float32_products(device):
        scores = FeatureScores(Features(q, "query", device), Features(g, "gallery", device), metric)
        yield _Problem(scores, query.to("cpu"), gallery.to("cpu"))


@dataclass(frozen=True)
class _Problem:
    """Scores on the device that ranks; labels of queries and gallery on the CPU."""

    scores: Scores
    query: Labels
    gallery: Labels

    def rank(self, protocol: Protocol, distractors: bool, max_rank: int) -> RankingResult:
        rules = Rules(self.query, self.gallery)
        rules.check(protocol)
        require_whole("max_rank", max_rank, least=1)
        # across cameras, all images of other identities count alike: one segment
        whole = protocol == "cross-camera"
        segments, count = rules.one_segment(distractors) if whole else rules.segments()
        columns = Columns(len(self.query.pids))
        for block in self._blocks(segments, count):
            matches = rules.matches(block.pairs, protocol, distractors)
            seen = None if whole else rules.seen(block.pairs.queries, protocol, distractors)
            columns.add(block, matches, seen)
        result = columns.summary(rules, protocol, max_rank)
        return replace(result, distractors=distractors)

    def rank_all(self, max_rank: int) -> Protocols:
        rules = Rules(self.query, self.gallery)
        require_whole("max_rank", max_rank, least=1)
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
        results = {
            key: replace(columns.summary(rules, key[0], max_rank), distractors=key[1])
            for key, columns in table.items()
            if columns.valid.any()
        }
        if not results:
            raise NoValidQuery(
                f"none of the {size} queries has a match in the gallery under any protocol, so "
                f"there is nothing to measure. {rules.advice(names[-1])}"
            )
        return Protocols(results, cameras.summary())

    def _blocks(self, segments: Tensor, count: int) -> Iterator[Block]:
        device = self.scores.device
        query, gallery = self.query.to(device), self.gallery.to(device)
        return Sweep(self.scores, query, gallery, segments.to(device), count).blocks()
