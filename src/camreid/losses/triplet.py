"""Losses of embeddings and pids: triplets and pairs."""

from typing import Literal

import torch
import torch.nn.functional as F
from pytorch_metric_learning.distances import LpDistance
from pytorch_metric_learning.losses import TripletMarginLoss
from pytorch_metric_learning.miners import BatchHardMiner
from pytorch_metric_learning.reducers import MeanReducer
from torch import Tensor, nn

Margin = float | Literal["soft"]
Mining = Literal["hard", "weighted", "weighted_fastreid"]
Pair = Literal["circle", "cosface"]


class TripletLoss(nn.Module):
    """Triplet loss on the farthest positive and nearest negative, or on weighted means of them.

    Args:
        margin: relu(dp - dn + margin), or `soft`: softplus(dp - dn).
        mining: `hard` takes the extremes (Hermans et al. 2017). `weighted` (Ye et al. 2021, AGW)
            averages the distances to positives by their softmax, those to negatives by the softmax
            of their opposites. `weighted_fastreid` repeats two faults of FastReID: 1e-6 added to
            unstabilised sums, which takes the negative's distance to 0 where all are beyond about
            14, and relu(dp - dn + 0.3) in place of the soft form where exp(dp - dn) overflows.
        normalize: 2 - 2 cosine in place of the euclidean distance.
    """

    def __init__(self, margin: Margin, mining: Mining = "hard", normalize: bool = False) -> None:
        super().__init__()
        power = 2 if normalize else 1
        self.margin, self.mining = margin, mining
        self.distance = LpDistance(normalize_embeddings=normalize, power=power)
        self.miner = BatchHardMiner(distance=self.distance)
        self.hard = TripletMarginLoss(
            margin=0.0 if margin == "soft" else margin,
            smooth_loss=margin == "soft",
            distance=self.distance,
            reducer=MeanReducer(),
        )

    def forward(self, embeddings: Tensor, pids: Tensor) -> Tensor:
        """Mean over the images with a positive and a negative, of (B, d) embeddings; 0 without."""
        embeddings = embeddings.to(torch.promote_types(embeddings.dtype, torch.float32))
        if self.mining == "hard":
            loss: Tensor = self.hard(embeddings, pids, self.miner(embeddings, pids))
        else:
            loss = self._weighted(self.distance(embeddings), pids)
        return loss + 0.0 * embeddings.sum()  # keeps the graph where there was no triplet

    def _weighted(self, distances: Tensor, pids: Tensor) -> Tensor:
        same, anchors = pids[:, None] == pids, _anchors(pids)
        if not anchors.any():
            return distances.new_zeros(())
        distances, same = distances[anchors], same[anchors]
        fastreid = self.mining == "weighted_fastreid"
        positive = _weighted_mean(distances, same, distances, fastreid)
        negative = _weighted_mean(distances, ~same, -distances, fastreid)
        gap = positive - negative
        if self.margin != "soft":
            return (gap + self.margin).relu().mean()
        soft = F.softplus(gap).mean()
        overflows = fastreid & gap.exp().isinf().any()
        return torch.where(overflows, (gap + 0.3).relu().mean(), soft)


def _anchors(pids: Tensor) -> Tensor:
    """(B,) bool: images that have a positive and a negative."""
    same = pids[:, None] == pids
    return (same.sum(1) > 1) & ~same.all(1)


def _weighted_mean(distances: Tensor, chosen: Tensor, scores: Tensor, fastreid: bool) -> Tensor:
    """(B,): means of the chosen distances by the softmax of their scores, both (B, B)."""
    if not fastreid:
        weights = scores.masked_fill(~chosen, -torch.inf).softmax(1)
        return (weights * distances).sum(1)
    highest = (scores * chosen).amax(1, keepdim=True)  # 0 for negatives: the fault
    weights = (scores - highest).masked_fill(~chosen, -torch.inf).exp()
    return (weights / (weights.sum(1, keepdim=True) + 1e-6) * distances).sum(1)


class PairLoss(nn.Module):
    """Circle loss (Sun et al. 2020) or pairwise CosFace on the cosines of all pairs of a batch."""

    def __init__(self, form: Pair, margin: float = 0.25, scale: float = 128.0) -> None:
        super().__init__()
        self.form, self.margin, self.scale = form, margin, scale

    def forward(self, embeddings: Tensor, pids: Tensor) -> Tensor:
        """Mean over all images of (B, d) embeddings; 0 for one without positive or negative."""
        embeddings = embeddings.to(torch.promote_types(embeddings.dtype, torch.float32))
        with torch.autocast(embeddings.device.type, enabled=False):  # the scale is large
            cosine = F.normalize(embeddings) @ F.normalize(embeddings).T
        same = pids[:, None] == pids
        itself = torch.eye(len(pids), dtype=torch.bool, device=pids.device)
        m = self.margin
        if self.form == "circle":
            positive = -(1 + m - cosine).clamp(min=0).detach() * (cosine - (1 - m))
            negative = (cosine + m).clamp(min=0).detach() * (cosine - m)
        else:
            positive, negative = -cosine, cosine + m
        anchors = _anchors(pids)
        sums = [
            (self.scale * terms).masked_fill(~chosen, -torch.inf)[anchors].logsumexp(1)
            for terms, chosen in ((positive, same & ~itself), (negative, ~same))
        ]
        return F.softplus(sums[0] + sums[1]).sum() / len(pids) + 0.0 * embeddings.sum()


def within_cameras(
    loss: TripletLoss | PairLoss, embeddings: Tensor, pids: Tensor, cameras: Tensor
) -> Tensor:
    """The mean of a loss over cameras, weighted by the images with a positive and a negative.

    Identities are labelled within each camera, so images of two cameras are no pair.
    """
    own = [cameras == camera for camera in set(cameras.tolist())]
    counts = torch.stack([_anchors(pids[images]).sum() for images in own])
    losses = torch.stack([loss(embeddings[images], pids[images]) for images in own])
    return (losses * counts).sum() / counts.sum().clamp(min=1)
