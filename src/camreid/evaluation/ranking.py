"""Ranking of a gallery for each query: mAP, mINP, CMC and more, exactly and in bounded memory."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import get_args

import torch
from torch import Tensor

from camreid.errors import InputError, NoValidQuery, require_choice, require_whole
from camreid.evaluation.features import Images
from camreid.evaluation.protocols import Protocol, RankingResult, Rules, View, measure
from camreid.evaluation.scores import Metric, Scores, distance_scores, feature_scores
from camreid.evaluation.sweep import Sweep


@dataclass(frozen=True)
class CameraPairs:
    """Query cameras (rows) by gallery cameras, (C, C) each; NaN where no query is valid."""

    cameras: tuple[int, ...]
    mAP: Tensor  # on the diagonal within-camera
    rank1: Tensor
    valid_queries: Tensor


@dataclass(frozen=True)
class Protocols:
    """Results by (protocol, with distractors), where a query is valid, and by camera pair."""

    results: Mapping[tuple[Protocol, bool], RankingResult]
    camera_pairs: CameraPairs


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

    Features are (Q, D) and (G, D), of any float type on any device; labels are (Q,) and (G,)
    int64. Junk (pid -1) in the gallery is ignored; distractors (pid 0) match no query, and are left
    out for `distractors=False`. A query without a match is left out of all means, as in the
    official protocol. Products are float32, with TF32 off. Besides the features, less than 400 MB
    are in use at any time.

    The protocol `cross-camera`, the official one, leaves out the query's identity in its camera.
    `within-camera` leaves out all other cameras, and the query's identity in its sequence (-1 where
    unknown, and all 0 count as unknown). An image with the query's index is left out by both.
    The CMC curve has `max_rank` values. `device` ranks, the queries' if None. NoValidQuery if no
    query has a match; InputError for shapes that do not fit, or values that are not finite.

    >>> f = torch.eye(3)
    >>> r = rank(f[:1], f[[1, 0]], *(torch.tensor(t) for t in ([5], [7, 5], [0], [1, 1])))
    >>> r.mAP, r.cmc[:2].tolist(), r.valid_queries
    (1.0, [1.0, 1.0], 1)
    """
    query = Images(query_features, query_pids, query_cameras, query_sequences, index=query_index)
    labels = gallery_pids, gallery_cameras, gallery_sequences
    gallery = Images(gallery_features, *labels, index=gallery_index)
    require_choice("protocol", protocol, Protocol)
    rules = Rules(query, gallery)
    if protocol == "within-camera" and not rules.within:
        raise InputError("protocol='within-camera' needs sequences or index of query and gallery.")
    scores = feature_scores(query_features, gallery_features, metric, device)
    return _rank(scores, rules, View(protocol, distractors), max_rank)


def rank_protocols(
    query: Images,
    gallery: Images,
    metric: Metric = "cosine",
    max_rank: int = 50,
    device: torch.device | str | None = None,
) -> Protocols:
    """All protocols in one pass; see `rank`.

    Within-camera numbers need sequences or indices. Protocols without a valid query are left out.

    >>> query = Images(torch.eye(3)[:1], torch.tensor([5]), torch.tensor([0]))
    >>> gallery = Images(torch.eye(3)[:2], torch.tensor([7, 5]), torch.tensor([1, 1]))
    >>> list(rank_protocols(query, gallery).results)
    [('cross-camera', True), ('cross-camera', False)]
    """
    rules = Rules(query, gallery)
    names: tuple[Protocol, ...] = get_args(Protocol) if rules.within else ("cross-camera",)
    views = {(name, d): View(name, d) for name in names for d in (True, False)}
    by_camera = [View(None, camera=camera) for camera in rules.cameras.tolist()]
    scores = feature_scores(query.features, gallery.features, metric, device)
    found = _measure(scores, rules, [*views.values(), *by_camera], max_rank)
    results = {key: found[view] for key, view in views.items() if found[view].valid.any()}
    return Protocols(results, _camera_pairs(rules, [found[view] for view in by_camera]))


def rank_distances(
    distances: Tensor,
    query_pids: Tensor,
    gallery_pids: Tensor,
    query_cameras: Tensor,
    gallery_cameras: Tensor,
    max_rank: int = 50,
) -> RankingResult:
    """`rank` by the official protocol for a ready (Q, G) matrix of distances, smallest first."""
    query = Images(distances, query_pids, query_cameras)
    gallery = Images(distances.T, gallery_pids, gallery_cameras)
    return _rank(distance_scores(distances), Rules(query, gallery), View(), max_rank)


def _rank(scores: Scores, rules: Rules, view: View, max_rank: int) -> RankingResult:
    result = _measure(scores, rules, [view], max_rank)[view]
    if not result.valid.any():
        other = next(name for name in get_args(Protocol) if name != view.protocol)
        found = f"none of the {len(result.valid)} queries has a {view.protocol} match"
        raise NoValidQuery(f"{found}: check pids and cameras, or rank by protocol={other!r}.")
    return result


@torch.no_grad()
def _measure(scores: Scores, rules: Rules, views: list[View], k: int) -> dict[View, RankingResult]:
    require_whole("max_rank", k, least=1)
    device, pids = scores.scale.device, rules.query["pids"]
    # across cameras, all images of other identities count alike: one segment
    whole = views[0] if len(views) == 1 and views[0].protocol == "cross-camera" else None
    segments = [rows.to(device) for rows in rules.segments(whole)]
    nan, zero = torch.full(pids.shape, torch.nan, dtype=torch.float64), torch.zeros_like(pids)
    columns = {view: (nan.clone(), nan.clone(), zero.clone()) for view in views}
    sweep = Sweep(scores, pids.to(device), rules.gallery["pids"].to(device), segments)
    for pairs, closer in sweep.blocks():
        for view in views:
            seen = 1 if whole else rules.seen(view, pairs.queries)[:, None]
            found = measure(rules.matches(view, pairs), (closer * seen).sum(2))
            for column, values in zip(columns[view], found, strict=True):
                column[pairs.queries] = values
    how = {v: (v.protocol or "cross-camera", v.distractors, k) for v in views}
    return {view: RankingResult(*columns[view], pids, *how[view]) for view in views}


def _camera_pairs(rules: Rules, by_camera: Sequence[RankingResult]) -> CameraPairs:
    rows = (rules.query["cameras"] == rules.cameras[:, None]).double()  # (C, Q)
    columns = [(r.valid, r.average_precision.nan_to_num(0), r.first_match == 1) for r in by_camera]
    tables = (torch.stack(column, dim=1).double() for column in zip(*columns, strict=True))
    count, ap, hit = (rows @ table for table in tables)  # (C, C)
    return CameraPairs(tuple(rules.cameras.tolist()), ap / count, hit / count, count.long())
