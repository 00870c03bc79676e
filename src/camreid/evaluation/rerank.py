"""Re-ranking with k-reciprocal encoding, blockwise and sparse."""

from typing import Literal, get_args

import torch.nn.functional as F
from torch import Tensor

from camreid.errors import InputError, require_number, require_whole
from camreid.evaluation.joint import joint_features, require_neighbours
from camreid.evaluation.neighbours import FeatureDistances, nearest
from camreid.evaluation.reciprocal import encode, jaccard
from camreid.evaluation.scores import Metric, float32_products

Method = Literal["k-reciprocal"]


def rerank(
    query_features: Tensor,
    gallery_features: Tensor,
    *,
    k1: int = 20,
    k2: int = 6,
    lambda_value: float = 0.3,
    metric: Metric = "cosine",
    block_size: int = 1024,
) -> Tensor:
    """Distances of queries to the gallery, re-ranked by the neighbours that images share.

    This is the method of Zhong et al. 2017 (https://arxiv.org/abs/1701.08398) as in its
    authors' code: of the squared euclidean distances of all images to all, each image's divided by
    its largest, the k1 + 1 smallest (the image itself among them) make neighbours, reciprocal ones
    the encoding. The result mixes lambda_value of that distance with the Jaccard distance.

    Of equal distances, the earlier image counts as nearer, queries before the gallery. Nearly
    equal ones fall as float32 rounds them, which may differ between devices and block sizes.

    Args:
        query_features: (Q, D), any float type; computed in float32.
        gallery_features: (G, D).
        k1: neighbours that count, 1..G.
        k2: neighbours over which encodings are averaged, 1..k1; 1 for no averaging.
        lambda_value: share of the original distance, 0..1.
        metric: `cosine` to compare unit features, `euclidean` to compare them as they are.
        block_size: images at a time; memory grows with block_size x (Q + G).

    Returns:
        (Q, G) float32, smallest first; for `rank_distances`.

    Raises:
        InputError: shapes do not fit together, features are not finite, or a parameter is out of
            its range.

    >>> import torch
    >>> query, gallery = torch.tensor([[0.0]]), torch.tensor([[1.0], [-1.0], [-1.5]])
    >>> rerank(query, gallery, k1=1, k2=1, metric="euclidean")
    tensor([[0.3151, 0.8333, 1.0000]])
    """
    if metric not in get_args(Metric):
        raise InputError(f"metric={metric!r}: expected 'cosine' or 'euclidean'.")
    features = joint_features(query_features, gallery_features)
    if metric == "cosine":
        features = F.normalize(features, dim=1)
    _check_parameters(k1, k2, lambda_value, block_size, len(gallery_features))
    with float32_products(features.device):
        distances = FeatureDistances(features, len(query_features), block_size)
        near = nearest(distances, k1 + 1)
        # an image that is equal to all others has the farthest distance 0
        scale = near.farthest.where(near.farthest > 0, 1).reciprocal()
        mix = distances.query_gallery.mul_(scale[: len(query_features), None])
        encoded = encode(distances, near, k1, k2, scale)
        for queries, jaccards in jaccard(encoded, len(mix)):
            mix[queries].mul_(lambda_value).add_(jaccards, alpha=1 - lambda_value)
    return mix


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
