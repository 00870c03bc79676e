"""Ranking of a gallery for each query: mAP, mINP and CMC by the official protocol."""

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from camreid.errors import InputError, NoValidQuery

Metric = Literal["cosine", "euclidean"]
Protocol = Literal["cross-camera", "within-camera"]


@dataclass(frozen=True)
class RankingResult:
    """What a ranking is worth.

    Attributes:
        mAP: mean average precision over the valid queries, 0..1.
        mINP: mean inverse negative penalty (Ye et al. 2021), 0..1.
        cmc: (max_rank,) share of valid queries with a match among the first k, k from 1.
        valid_queries: number of queries with a match in the gallery.
        average_precision: (Q,) per query, NaN for a query that is not valid.
        inverse_penalty: (Q,) number of matches over the rank of the last, NaN likewise.
        first_match: (Q,) int64 rank of the first match, from 1; 0 for a query that is not valid.
        query_pids: (Q,) int64 whom each query looks for.
        protocol: which gallery images a query did not see.
    """

    mAP: float
    mINP: float
    cmc: Tensor
    valid_queries: int
    average_precision: Tensor
    inverse_penalty: Tensor
    first_match: Tensor
    query_pids: Tensor
    protocol: Protocol

    def of(self, queries: Tensor) -> "RankingResult":
        """The result of some of the queries: (Q,) bool.

        Raises:
            NoValidQuery: none of them is valid.
        """
        columns = (self.average_precision, self.inverse_penalty, self.first_match)
        kept = [column[queries] for column in columns]
        return _summarise(kept, self.query_pids[queries], len(self.cmc), self.protocol)


@dataclass(frozen=True)
class _People:
    """Who is ranked: (Q,) or (G,) int64 each; `index` identifies an image, to drop it itself."""

    pids: Tensor
    cameras: Tensor
    index: Tensor | None = None

    def chunk(self, start: int, stop: int) -> "_People":
        index = None if self.index is None else self.index[start:stop]
        return _People(self.pids[start:stop], self.cameras[start:stop], index)


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
    query_index: Tensor | None = None,
    gallery_index: Tensor | None = None,
    chunk_size: int = 256,
) -> RankingResult:
    """Rank the gallery for each query, closest first; of equals, the earlier gallery image.

    Junk (pid -1) in the gallery is ignored; distractors (pid 0) are there to be passed over, since
    queries are labelled people. A query without a match is left out of all means, as in the
    official protocol.

    Args:
        query_features: (Q, D).
        gallery_features: (G, D).
        query_pids: (Q,) int64.
        gallery_pids: (G,) int64.
        query_cameras: (Q,) int64, of the same base as the gallery's.
        gallery_cameras: (G,) int64.
        metric: `cosine`, or `euclidean` (squared, which ranks the same).
        max_rank: length of the CMC curve.
        protocol: `cross-camera`, the official one, leaves out the query's person in the query's
            camera; `within-camera` leaves out all other cameras instead.
        query_index: (Q,) int64 image numbers; a query's own image is left out of its gallery.
            Needed for `within-camera`.
        gallery_index: (G,) int64.
        chunk_size: queries at a time; memory grows with chunk_size x G.

    Raises:
        InputError: shapes do not fit together, or features are not finite.
        NoValidQuery: no query has a match.

    >>> f = torch.eye(3)
    >>> r = rank(f[:1], f[[1, 0]], *(torch.tensor(t) for t in ([5], [7, 5], [0], [1, 1])))
    >>> r.mAP, r.cmc[:2].tolist(), r.valid_queries
    (1.0, [1.0, 1.0], 1)
    """
    query = _People(query_pids, query_cameras, query_index)
    gallery = _People(gallery_pids, gallery_cameras, gallery_index)
    _check_features(query_features, gallery_features, query, gallery)
    q, g = _prepare(query_features, metric), _prepare(gallery_features, metric)
    parts = []
    for start in range(0, len(q), chunk_size):
        stop = start + chunk_size
        distances = _distances(q[start:stop], g, metric)
        parts.append(_score(distances, query.chunk(start, stop), gallery, protocol))
    columns = [torch.cat(column) for column in zip(*parts, strict=True)]
    return _summarise(columns, query_pids, max_rank, protocol)


def rank_distances(
    distances: Tensor,
    query_pids: Tensor,
    gallery_pids: Tensor,
    query_cameras: Tensor,
    gallery_cameras: Tensor,
    max_rank: int = 50,
) -> RankingResult:
    """`rank` by the official protocol for a ready (Q, G) matrix of distances, smallest first."""
    query, gallery = _People(query_pids, query_cameras), _People(gallery_pids, gallery_cameras)
    columns = list(_score(distances, query, gallery, "cross-camera"))
    return _summarise(columns, query_pids, max_rank, "cross-camera")


def average_precision(relevant: Tensor) -> Tensor:
    """Mean precision at each hit.

    Args:
        relevant: (..., G) bool, best match first, ignored images removed or behind the others.

    Returns:
        (...) float64, NaN where nothing is relevant.

    >>> average_precision(torch.tensor([True, False, True])).item()
    0.8333333333333333
    """
    hits = relevant.cumsum(-1, dtype=torch.float64)
    places = torch.arange(1, relevant.shape[-1] + 1, device=relevant.device, dtype=torch.float64)
    return (hits / places * relevant).sum(-1) / relevant.sum(-1, dtype=torch.float64)


def _prepare(features: Tensor, metric: Metric) -> Tensor:
    features = features.float()
    if metric == "cosine":
        return F.normalize(features, dim=1)
    if metric == "euclidean":
        return features
    raise InputError(f"metric={metric!r}: expected 'cosine' or 'euclidean'.")


def _distances(q: Tensor, g: Tensor, metric: Metric) -> Tensor:
    """(q, G): minus the cosine, or the squared euclidean distance."""
    if metric == "cosine":
        return -(q @ g.T)
    squares = q.square().sum(1, keepdim=True) + g.square().sum(1)
    return squares.addmm_(q, g.T, alpha=-2)


def _score(
    distances: Tensor, query: _People, gallery: _People, protocol: Protocol
) -> tuple[Tensor, Tensor, Tensor]:
    """Average precision, inverse penalty and first match of each query; see `RankingResult`."""
    device = distances.device
    same_pid = query.pids.to(device)[:, None] == gallery.pids.to(device)
    ignored = _ignored(query, gallery, protocol, same_pid)
    distances = distances.masked_fill(ignored, torch.inf)
    order = distances.argsort(dim=1, stable=True)
    relevant = (same_pid & ~ignored).gather(1, order)
    matches = relevant.sum(1, dtype=torch.float64)
    places = torch.arange(1, relevant.shape[1] + 1, device=device)
    last = (relevant * places).amax(1)
    first = torch.where(matches > 0, relevant.int().argmax(1) + 1, 0)
    return average_precision(relevant), matches / last, first


def _ignored(query: _People, gallery: _People, protocol: Protocol, same_pid: Tensor) -> Tensor:
    """(q, G) bool: gallery images that this query does not see."""
    device = same_pid.device
    same_camera = query.cameras.to(device)[:, None] == gallery.cameras.to(device)
    junk = (gallery.pids.to(device) == -1)[None]
    if protocol == "cross-camera":
        ignored = (same_pid & same_camera) | junk
    elif protocol == "within-camera":
        ignored = ~same_camera | junk
    else:
        raise InputError(f"protocol={protocol!r}: expected 'cross-camera' or 'within-camera'.")
    if query.index is None or gallery.index is None:
        if protocol == "within-camera":
            raise InputError(
                "protocol='within-camera' needs query_index and gallery_index, to take the query "
                "image itself out of its gallery."
            )
        return ignored
    return ignored | (query.index.to(device)[:, None] == gallery.index.to(device))


def _summarise(
    columns: list[Tensor], query_pids: Tensor, max_rank: int, protocol: Protocol
) -> RankingResult:
    ap, inp, first = (column.cpu() for column in columns)
    valid = first > 0
    if not valid.any():
        other = "within-camera" if protocol == "cross-camera" else "cross-camera"
        raise NoValidQuery(
            f"none of the {len(first)} queries has a match in the gallery under the {protocol} "
            "protocol, so there is nothing to measure. Check the pids and cameras; images of a "
            f"single camera have matches under protocol='{other}' only."
        )
    ranks = torch.arange(1, max_rank + 1)
    cmc = (first[valid][:, None] <= ranks).double().mean(0)
    mean_ap, mean_inp = ap[valid].mean().item(), inp[valid].mean().item()
    count = int(valid.sum())
    return RankingResult(mean_ap, mean_inp, cmc, count, ap, inp, first, query_pids.cpu(), protocol)


def _check_features(q: Tensor, g: Tensor, query: _People, gallery: _People) -> None:
    if q.ndim != 2 or g.ndim != 2 or q.shape[1] != g.shape[1]:
        raise InputError(
            f"features of shapes {tuple(q.shape)} and {tuple(g.shape)}: expected (Q, D) for the "
            "query and (G, D) for the gallery, with the same D, from one model."
        )
    for name, features, people in (("query", q, query), ("gallery", g, gallery)):
        lengths = {len(features), len(people.pids), len(people.cameras)}
        if len(lengths) > 1 or 0 in lengths:
            raise InputError(
                f"the {name} has {len(features)} features, {len(people.pids)} pids and "
                f"{len(people.cameras)} cameras: expected as many of each, and at least one."
            )
        broken = (~features.isfinite().all(1)).nonzero().flatten().tolist()
        if broken:
            raise InputError(
                f"{len(broken)} of {len(features)} {name} features are NaN or infinite, the first "
                f"at {broken[:5]}: the model has diverged, or overflowed at half precision."
            )
