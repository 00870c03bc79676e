"""Ranking of a gallery for each query: mAP, mINP, CMC and more, exactly and in bounded memory."""

from collections.abc import Sequence
from typing import TypedDict, Unpack, get_args

import torch
from torch import Tensor

from camreid.errors import InputError, NoValidQuery, require_whole
from camreid.evaluation.protocols import CameraPairs, Labels, Protocols, Rules, View
from camreid.evaluation.result import Protocol, RankingResult, measure
from camreid.evaluation.scores import Metric, Scores, distance_scores, feature_scores
from camreid.evaluation.sweep import Sweep


class Exclusions(TypedDict, total=False):
    """What excludes a query's own recording or image from its gallery.

    Attributes:
        query_sequences: (Q,) int64 recordings, of the same numbers as the gallery's; -1 where
            unknown, and all 0 count as unknown.
        gallery_sequences: (G,) int64.
        query_index: (Q,) int64 image numbers.
        gallery_index: (G,) int64.
    """

    query_sequences: Tensor | None
    gallery_sequences: Tensor | None
    query_index: Tensor | None
    gallery_index: Tensor | None


@torch.no_grad()
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
    device: torch.device | str | None = None,
    **exclusions: Unpack[Exclusions],
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
        device: that ranks; the queries' if None.
        exclusions: `query_sequences`, `gallery_sequences`, `query_index`, `gallery_index`; see
            `Exclusions`.

    Raises:
        InputError: shapes do not fit together, features are not finite, or there is no such
            metric or protocol.
        NoValidQuery: no query has a match.

    >>> f = torch.eye(3)
    >>> r = rank(f[:1], f[[1, 0]], *(torch.tensor(t) for t in ([5], [7, 5], [0], [1, 1])))
    >>> r.mAP, r.cmc[:2].tolist(), r.valid_queries
    (1.0, [1.0, 1.0], 1)
    """
    if protocol not in get_args(Protocol):
        raise InputError(f"protocol={protocol!r}: expected 'cross-camera' or 'within-camera'.")
    scores = feature_scores(query_features, gallery_features, metric, device)
    pids, cameras = (query_pids, gallery_pids), (query_cameras, gallery_cameras)
    rules = _rules((len(query_features), len(gallery_features)), pids, cameras, **exclusions)
    if protocol == "within-camera" and not rules.within:
        raise InputError(
            "protocol='within-camera' needs query_sequences and gallery_sequences, to leave "
            "out the query's own recording, or query_index and gallery_index, to take the "
            "query image itself out of its gallery."
        )
    return _rank(scores, rules, View(protocol, distractors), max_rank)


@torch.no_grad()
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
    device: torch.device | str | None = None,
    **exclusions: Unpack[Exclusions],
) -> Protocols:
    """All protocols in one pass: across and within cameras, by camera pair, without distractors.

    Arguments and errors are those of `rank`. Within-camera numbers need sequences or indices, and
    are left out without them.

    >>> labels = [torch.tensor(t) for t in ([5], [7, 5], [0], [1, 1])]
    >>> protocols = rank_protocols(torch.eye(3)[:1], torch.eye(3)[[1, 0]], *labels)
    >>> protocols.camera_pairs.valid_queries
    tensor([[0, 1],
            [0, 0]])
    """
    scores = feature_scores(query_features, gallery_features, metric, device)
    pids, cameras = (query_pids, gallery_pids), (query_cameras, gallery_cameras)
    rules = _rules((len(query_features), len(gallery_features)), pids, cameras, **exclusions)
    names: tuple[Protocol, ...] = get_args(Protocol) if rules.within else ("cross-camera",)
    views = {(name, d): View(name, d) for name in names for d in (True, False)}
    by_camera = [View(None, camera=number) for number in range(len(rules.cameras))]
    found = _measure(scores, rules, [*views.values(), *by_camera], max_rank)
    results = {key: found[view] for key, view in views.items() if found[view].valid.any()}
    if not results:
        raise NoValidQuery(
            f"none of the {len(query_pids)} queries has a match in the gallery under any protocol. "
            f"{rules.advice(names[-1])}"
        )
    return Protocols(results, _camera_pairs(rules, [found[view] for view in by_camera]))


@torch.no_grad()
def rank_distances(
    distances: Tensor,
    query_pids: Tensor,
    gallery_pids: Tensor,
    query_cameras: Tensor,
    gallery_cameras: Tensor,
    max_rank: int = 50,
) -> RankingResult:
    """`rank` by the official protocol for a ready (Q, G) matrix of distances, smallest first."""
    scores = distance_scores(distances)
    pids, cameras = (query_pids, gallery_pids), (query_cameras, gallery_cameras)
    rules = _rules((distances.shape[0], distances.shape[1]), pids, cameras)
    return _rank(scores, rules, View("cross-camera"), max_rank)


def _rules(
    sizes: tuple[int, int],
    pids: tuple[Tensor, Tensor],
    cameras: tuple[Tensor, Tensor],
    query_sequences: Tensor | None = None,
    gallery_sequences: Tensor | None = None,
    query_index: Tensor | None = None,
    gallery_index: Tensor | None = None,
) -> Rules:
    query = Labels(pids[0], cameras[0], query_sequences, query_index)
    gallery = Labels(pids[1], cameras[1], gallery_sequences, gallery_index)
    query.check("query", sizes[0])
    gallery.check("gallery", sizes[1])
    return Rules(query.to("cpu"), gallery.to("cpu"))


def _rank(scores: Scores, rules: Rules, view: View, max_rank: int) -> RankingResult:
    result = _measure(scores, rules, [view], max_rank)[view]
    if not result.valid.any():
        raise NoValidQuery(
            f"none of the {len(result.valid)} queries has a match in the gallery under the "
            f"{result.protocol} protocol. {rules.advice(result.protocol)}"
        )
    return result


def _measure(
    scores: Scores, rules: Rules, views: Sequence[View], max_rank: int
) -> dict[View, RankingResult]:
    """The result of each view, which may have no valid query, from one pass."""
    require_whole("max_rank", max_rank, least=1)
    device, pids = scores.scale.device, rules.query.pids
    # across cameras, all images of other identities count alike: one segment
    whole = views[0] if len(views) == 1 and views[0].protocol == "cross-camera" else None
    segments = [rows.to(device) for rows in rules.segments(whole)]
    nan = torch.full(pids.shape, torch.nan, dtype=torch.float64)
    columns = {view: (nan.clone(), nan.clone(), torch.zeros_like(pids)) for view in views}
    sweep = Sweep(scores, pids.to(device), rules.gallery.pids.to(device), segments)
    for block in sweep.blocks():
        queries = block.pairs.queries
        for view in views:
            seen = 1 if whole else rules.seen(view, queries)[:, None]
            found = measure(rules.matches(view, block.pairs), (block.closer * seen).sum(2))
            for column, values in zip(columns[view], found, strict=True):
                column[queries] = values
    return {
        view: RankingResult(
            *columns[view], pids, view.protocol or "cross-camera", view.distractors, max_rank
        )
        for view in views
    }


def _camera_pairs(rules: Rules, by_camera: Sequence[RankingResult]) -> CameraPairs:
    """From the result of each camera as the gallery."""
    rows = (rules.query.cameras == rules.cameras[:, None]).double()  # (C, Q)
    valid = torch.stack([result.valid for result in by_camera], dim=1)
    ap = torch.stack([result.average_precision for result in by_camera], dim=1).nan_to_num(0)
    hit = torch.stack([result.first_match == 1 for result in by_camera], dim=1)
    count, ap, hit = (rows @ table.double() for table in (valid, ap, hit))
    return CameraPairs(tuple(rules.cameras.tolist()), ap / count, hit / count, count.long())
