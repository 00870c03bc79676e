"""Ranking of a gallery for each query: mAP, mINP, CMC and more, exactly and in bounded memory."""

import torch
import torch.distributed as dist
from torch import Tensor

from camreid.evaluation.people import People
from camreid.evaluation.problem import Settings, distance_problem
from camreid.evaluation.protocols import Protocols
from camreid.evaluation.result import Precision, Protocol, RankingResult, average_precision
from camreid.evaluation.scores import Metric

__all__ = [
    "Metric",
    "Precision",
    "Protocol",
    "RankingResult",
    "average_precision",
    "rank",
    "rank_distances",
    "rank_protocols",
]


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
    roc: bool = False,
    precision: Precision = "float32",
    query_sequences: Tensor | None = None,
    gallery_sequences: Tensor | None = None,
    query_index: Tensor | None = None,
    gallery_index: Tensor | None = None,
    device: torch.device | str | None = None,
    group: dist.ProcessGroup | None = None,
    chunk_size: int | None = None,
) -> RankingResult:
    """Rank the gallery for each query, closest first; of equals, the earlier gallery image.

    Junk (pid -1) in the gallery is ignored; distractors (pid 0) are there to be passed over, since
    queries are labelled people. A query without a match is left out of all means, as in the
    official protocol. Besides the features, less than 400 MB are in use at any time.

    Args:
        query_features: (Q, D), of any float type; they need not be on the device that ranks.
        gallery_features: (G, D), likewise.
        query_pids: (Q,) int64.
        gallery_pids: (G,) int64.
        query_cameras: (Q,) int64, of the same base as the gallery's.
        gallery_cameras: (G,) int64.
        metric: `cosine`, or `euclidean`.
        max_rank: length of the CMC curve.
        protocol: `cross-camera`, the official one, leaves out the query's person in the query's
            camera; `within-camera` leaves out all other cameras, and the query's person in the
            query's own sequence, where sequences are given.
        distractors: whether pid 0 stays in the gallery.
        roc: measure the ROC curve of the pair scores too, which takes about as long again.
        precision: in which features are multiplied; sums are float32 always. `float32` is exact
            to rounding, with TF32 off; `tf32` leaves that to the device; `bfloat16` and `float16`
            round the features first.
        query_sequences: (Q,) int64 recordings, of the same numbers as the gallery's.
        gallery_sequences: (G,) int64.
        query_index: (Q,) int64 image numbers; a query's own image is left out of its gallery.
        gallery_index: (G,) int64.
        device: that ranks; the queries' if None.
        group: processes that each hold a part of the gallery, in their order, and all queries.
            Only labels, scores of matches and counts travel; each process gets the whole result.
        chunk_size: the most queries at a time; fewer are taken where memory asks for it.

    Raises:
        InputError: shapes do not fit together, features are not finite, or there is no such
            metric, protocol or precision.
        NoValidQuery: no query has a match.

    >>> f = torch.eye(3)
    >>> r = rank(f[:1], f[[1, 0]], *(torch.tensor(t) for t in ([5], [7, 5], [0], [1, 1])))
    >>> r.mAP, r.cmc[:2].tolist(), r.valid_queries
    (1.0, [1.0, 1.0], 1)
    """
    query = People(query_pids, query_cameras, query_sequences, query_index)
    gallery = People(gallery_pids, gallery_cameras, gallery_sequences, gallery_index)
    settings = Settings(metric, max_rank, precision, device, group, chunk_size)
    with settings.problem(query_features, gallery_features, query, gallery) as problem:
        return problem.rank(protocol, distractors, roc)


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
    precision: Precision = "float32",
    query_sequences: Tensor | None = None,
    gallery_sequences: Tensor | None = None,
    query_index: Tensor | None = None,
    gallery_index: Tensor | None = None,
    device: torch.device | str | None = None,
    group: dist.ProcessGroup | None = None,
    chunk_size: int | None = None,
) -> Protocols:
    """All protocols in one pass: across and within cameras, by camera pair, without distractors.

    Seen and unseen people are `RankingResult.of` of a result. Within-camera numbers need sequences
    or indices, and are left out without them.

    Args:
        query_features: (Q, D); this and all that follow as for `rank`.
        gallery_features: (G, D).
        query_pids: (Q,) int64.
        gallery_pids: (G,) int64.
        query_cameras: (Q,) int64.
        gallery_cameras: (G,) int64.
        metric: `cosine` or `euclidean`.
        max_rank: length of the CMC curves.
        precision: in which features are multiplied.
        query_sequences: (Q,) int64.
        gallery_sequences: (G,) int64.
        query_index: (Q,) int64.
        gallery_index: (G,) int64.
        device: that ranks.
        group: processes that each hold a part of the gallery.
        chunk_size: the most queries at a time.

    Raises:
        InputError: as `rank`.
        NoValidQuery: no query has a match under any protocol.

    >>> people = [torch.tensor(t) for t in ([5], [7, 5], [0], [1, 1])]
    >>> protocols = rank_protocols(torch.eye(3)[:1], torch.eye(3)[[1, 0]], *people)
    >>> protocols.camera_pairs.valid_queries
    tensor([[0, 1],
            [0, 0]])
    """
    query = People(query_pids, query_cameras, query_sequences, query_index)
    gallery = People(gallery_pids, gallery_cameras, gallery_sequences, gallery_index)
    settings = Settings(metric, max_rank, precision, device, group, chunk_size)
    with settings.problem(query_features, gallery_features, query, gallery) as problem:
        return problem.rank_all()


def rank_distances(
    distances: Tensor,
    query_pids: Tensor,
    gallery_pids: Tensor,
    query_cameras: Tensor,
    gallery_cameras: Tensor,
    max_rank: int = 50,
    *,
    roc: bool = False,
) -> RankingResult:
    """`rank` by the official protocol for a ready (Q, G) matrix of distances, smallest first."""
    query, gallery = People(query_pids, query_cameras), People(gallery_pids, gallery_cameras)
    return distance_problem(distances, query, gallery, max_rank).rank("cross-camera", roc=roc)
