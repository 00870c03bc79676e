"""Re-ranking with k-reciprocal encoding, blockwise and sparse."""

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from camreid.errors import InputError, require_number, require_whole
from camreid.evaluation.joint import joint_features, require_images, require_neighbours
from camreid.evaluation.neighbours import FeatureDistances, MatrixDistances, nearest
from camreid.evaluation.reciprocal import SparseRows, encode, jaccard
from camreid.evaluation.scores import multiplied_in

Method = Literal["k-reciprocal", "fastreid"]
Metric = Literal["cosine", "euclidean"]

_LARGEST = 1e19  # its square is a float32


def rerank(
    query_features: Tensor,
    gallery_features: Tensor,
    *,
    k1: int = 20,
    k2: int = 6,
    lambda_value: float = 0.3,
    method: Method = "k-reciprocal",
    metric: Metric = "cosine",
    block_size: int = 1024,
) -> Tensor:
    """Distances of queries to the gallery, better ranked by the company that images keep.

    `k-reciprocal` is the method of Zhong et al. 2017 (https://arxiv.org/abs/1701.08398) as in its
    authors' code: of the squared euclidean distances of all images to all, each image's divided by
    its largest, the k1 + 1 smallest (the image itself among them) make neighbours, reciprocal ones
    the encoding. The result mixes lambda_value of that distance with the Jaccard distance.

    `fastreid` is what FastReID's evaluator computes under that name: only k1 neighbours with the
    image itself, distances of unit features that are not divided by the largest, and 1 - cosine in
    the mix.

    Of equal distances, the earlier image counts as nearer, queries before the gallery. Nearly
    equal ones fall as float32 rounds them, which may differ between devices and block sizes.

    Args:
        query_features: (Q, D), any float type; computed in float32.
        gallery_features: (G, D).
        k1: neighbours that count, 1..G.
        k2: neighbours over which encodings are averaged, 1..k1; 1 for no averaging.
        lambda_value: share of the original distance, 0..1.
        method: `k-reciprocal` or `fastreid`.
        metric: `cosine` to compare unit features, `euclidean` to compare them as they are.
        block_size: images at a time; memory grows with block_size x (Q + G).

    Returns:
        (Q, G) float32, smallest first; for `rank_distances`.

    Raises:
        InputError: shapes do not fit together, features are not finite, or a parameter is out of
            its range.

    >>> query, gallery = torch.tensor([[0.0]]), torch.tensor([[1.0], [-1.0], [-1.5]])
    >>> rerank(query, gallery, k1=1, k2=1, metric="euclidean")
    tensor([[0.3151, 0.8333, 1.0000]])
    """
    features = _prepared(joint_features(query_features, gallery_features), method, metric)
    _check_parameters(k1, k2, lambda_value, block_size, len(gallery_features))
    with multiplied_in("float32", features.device):
        distances = FeatureDistances(features, len(query_features), block_size)
        if method == "k-reciprocal":
            near = nearest(distances, k1 + 1)
            scale = _inverse(near.farthest)
            mix = distances.query_gallery.mul_(scale[: len(query_features), None])
        else:
            near = nearest(distances, k1)
            scale = torch.ones_like(near.farthest)
            mix = distances.query_gallery.div_(2)  # of unit features: 1 - cosine
        return _mixed(mix, encode(distances, near, k1, k2, scale), lambda_value)


def rerank_distances(
    query_gallery: Tensor,
    query_query: Tensor,
    gallery_gallery: Tensor,
    *,
    k1: int = 20,
    k2: int = 6,
    lambda_value: float = 0.3,
    block_size: int = 4096,
) -> Tensor:
    """`rerank` by `k-reciprocal` for ready distances, in the order torchreid's `re_ranking` takes.

    They are squared here, so give plain euclidean ones for the method of the paper. torchreid gives
    squared ones, whose squares are squared again; the same matrices have the same result here.

    Args:
        query_gallery: (Q, G), any float type.
        query_query: (Q, Q).
        gallery_gallery: (G, G). Of matrices that are not symmetric, an image's distances are its
            column, as the largest is in the authors' code.
        k1: neighbours that count, 1..G.
        k2: neighbours over which encodings are averaged, 1..k1; 1 for no averaging.
        lambda_value: share of the original distance, 0..1.
        block_size: images at a time; memory beside the result grows with block_size x (Q + G).

    Returns:
        (Q, G) float32, smallest first; for `rank_distances`.

    Raises:
        InputError: shapes do not fit together, distances are not finite, or a parameter is out of
            its range.

    >>> to_gallery, among = torch.tensor([[1.0, 1.0, 1.5]]), torch.tensor([0.0, 2.0, 2.5])
    >>> among_gallery = torch.tensor([[0.0, 2.0, 2.5], [2.0, 0.0, 0.5], [2.5, 0.5, 0.0]])
    >>> rerank_distances(to_gallery, torch.zeros(1, 1), among_gallery, k1=1, k2=1)
    tensor([[0.3151, 0.8333, 1.0000]])
    """
    matrices = (query_gallery, query_query, gallery_gallery)
    _check_shapes(*matrices)
    _check_values(*matrices)
    _check_parameters(k1, k2, lambda_value, block_size, len(gallery_gallery))
    distances = MatrixDistances(*matrices, block_size)
    near = nearest(distances, k1 + 1)
    scale = _inverse(near.farthest)
    encoded = encode(distances, near, k1, k2, scale)
    mix = query_gallery.float().square().mul_(scale[: len(query_gallery), None])
    return _mixed(mix, encoded, lambda_value)


def _prepared(features: Tensor, method: str, metric: str) -> Tensor:
    if method not in ("k-reciprocal", "fastreid"):
        raise InputError(f"method={method!r}: expected 'k-reciprocal' or 'fastreid'.")
    if metric == "cosine":
        return F.normalize(features, dim=1)
    if metric != "euclidean":
        raise InputError(f"metric={metric!r}: expected 'cosine' or 'euclidean'.")
    if method == "fastreid":
        raise InputError(
            "metric='euclidean' with method='fastreid': FastReID's variant is defined for unit "
            "features; expected metric='cosine', or method='k-reciprocal'."
        )
    return features


def _inverse(farthest: Tensor) -> Tensor:
    """1 / farthest; 1 for an image that is equal to all others."""
    return farthest.where(farthest > 0, 1).reciprocal()


def _mixed(distances: Tensor, encoded: SparseRows, share: float) -> Tensor:
    """`share` of (Q, G) distances, which are changed in place, and the rest of Jaccard's."""
    for queries, jaccards in jaccard(encoded, len(distances)):
        distances[queries].mul_(share).add_(jaccards, alpha=1 - share)
    return distances


def _check_parameters(k1: int, k2: int, lambda_value: float, block_size: int, gallery: int) -> None:
    require_neighbours("k1", k1, gallery, "in the gallery")
    require_whole("k2", k2, least=1)
    if k2 > k1:
        raise InputError(
            f"k2={k2} is more than k1={k1}: encodings are averaged over the nearest of the k1 "
            f"neighbours; expected 1..{k1}, such as k2={max(1, round(0.3 * k1))}."
        )
    require_number("lambda_value", lambda_value, 0, 1)
    require_whole("block_size", block_size, least=1)


def _check_shapes(q_g: Tensor, q_q: Tensor, g_g: Tensor) -> None:
    shapes = [tuple(matrix.shape) for matrix in (q_g, q_q, g_g)]
    if q_g.ndim == 2:
        require_images(*q_g.shape)
        queries, gallery = q_g.shape
        if shapes[1:] == [(queries, queries), (gallery, gallery)]:
            return
    raise InputError(
        f"distances of shapes {shapes[0]}, {shapes[1]} and {shapes[2]}: expected (Q, G), (Q, Q) "
        "and (G, G), in this order: query to gallery, query to query, gallery to gallery."
    )


def _check_values(q_g: Tensor, q_q: Tensor, g_g: Tensor) -> None:
    names = ("query_gallery", "query_query", "gallery_gallery")
    for name, matrix in zip(names, (q_g, q_q, g_g), strict=True):
        low, high = matrix.amin().item(), matrix.amax().item()
        if not math.isfinite(high - low):
            finite = torch.cat([rows.isfinite().all(1) for rows in torch.split(matrix, 256)])
            rows = (~finite).nonzero().flatten().tolist()
            raise InputError(
                f"{name} holds NaN or infinite distances in {len(rows)} of {len(matrix)} rows, the "
                f"first at {rows[:5]}: expected finite ones; look for features that are NaN or "
                "overflowed at half precision."
            )
        if high > _LARGEST:
            raise InputError(
                f"{name} holds distances up to {high:g}, whose squares are beyond the range of "
                f"float32: expected at most {_LARGEST:g}; divide all three by the same number."
            )
        if low < -1e-3 * high:  # round-off makes 1 - cosine a little less than 0
            raise InputError(
                f"{name} holds distances down to {low:g}: expected none below 0; a similarity is "
                "none, give 1 - cosine or euclidean distances."
            )
