"""Average query expansion: each feature replaced by a weighted mean of its neighbours'."""

import torch
import torch.nn.functional as F
from torch import Tensor

from camreid.errors import require_number, require_whole
from camreid.evaluation.neighbours import (
    BLOCK,
    Distances,
    joint_features,
    nearest,
    require_neighbours,
)
from camreid.evaluation.scores import float32_products


def expand_queries(
    query_features: Tensor,
    gallery_features: Tensor,
    *,
    k: int = 5,
    alpha: float = 3.0,
    times: int = 1,
) -> tuple[Tensor, Tensor]:
    """Mean over the k nearest features by cosine, times their cosine to the power of alpha.

    Queries and gallery are expanded together, each image among its own k, as FastReID's
    `TEST.AQE` does (Chum et al. 2007; alpha: Radenović et al. 2019). The features may be of any
    length, and keep it in the mean.

    Args:
        query_features: (Q, D).
        gallery_features: (G, D).
        k: features in the mean, 1..Q + G.
        alpha: 0 for the plain mean; a cosine below 0 counts as 0 where alpha is not whole.
        times: how often.

    Returns:
        (Q, D) and (G, D) float32.

    Raises:
        InputError: shapes do not fit together, features are not finite, or k is too large.

    >>> query, gallery = expand_queries(torch.eye(2)[:1], torch.eye(2), k=2)
    >>> gallery
    tensor([[1.0000, 0.0000],
            [0.0000, 0.5000]])
    """
    features = joint_features(query_features, gallery_features)
    require_neighbours("k", k, len(features))
    require_whole("times", times, least=0)
    require_number("alpha", alpha, 0)
    with float32_products(features.device):
        for _ in range(times):
            near = nearest(Distances(F.normalize(features, dim=1), 0), k)
            cosines = 1 - near.distances / 2
            weights = (cosines if alpha == int(alpha) else cosines.clamp(min=0)) ** alpha / k
            chunks = zip(*(torch.split(x, BLOCK) for x in (near.index, weights)), strict=True)
            features = torch.cat([(features[i] * w[..., None]).sum(1) for i, w in chunks])
    return features[: len(query_features)], features[len(query_features) :]
