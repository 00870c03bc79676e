"""Losses of embeddings and pids: triplets and pairs."""

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from pytorch_metric_learning.distances import LpDistance
from torch import Tensor, nn

from camreid.losses.distillation import cosines

Margin = float | Literal["soft"]
Mining = Literal["hard", "weighted", "weighted_fastreid"]
Pair = Literal["circle", "cosface", "supcon"]


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
        self.margin, self.mining = margin, mining
        self.distance = LpDistance(normalize_embeddings=normalize, power=2 if normalize else 1)

    def forward(self, embeddings: Tensor, pids: Tensor, cameras: Tensor | None = None) -> Tensor:
        """Mean over the images with a positive and a negative, of (B, d) embeddings; 0 without.

        Images of two of (B,) `cameras` are no pair: identities are labelled within each camera.
        """
        embeddings = embeddings.to(torch.promote_types(embeddings.dtype, torch.float32))
        pairs = _Pairs.of(pids, cameras)
        with torch.autocast(embeddings.device.type, enabled=False):
            distances = self.distance(embeddings)
        positive, negative = self._mine(distances, pairs)
        gap = (positive - negative).where(pairs.anchors, 0.0)
        if self.margin == "soft":
            losses = F.softplus(gap)
            if self.mining == "weighted_fastreid":
                losses = torch.where(gap.exp().isinf().any(), (gap + 0.3).relu(), losses)
        else:
            losses = (gap + self.margin).relu()
        mean = losses.where(pairs.anchors, 0.0).sum() / pairs.anchors.sum().clamp(min=1)
        return mean + 0.0 * embeddings.sum()  # keeps the graph where there was no triplet

    def _mine(self, distances: Tensor, pairs: "_Pairs") -> tuple[Tensor, Tensor]:
        """(B,) distances to positives and to negatives; those of no anchor have no meaning."""
        if self.mining == "hard":
            farthest = distances.masked_fill(~pairs.positive, -torch.inf).max(1).values
            return farthest, distances.masked_fill(~pairs.negative, torch.inf).min(1).values
        fastreid, others = self.mining == "weighted_fastreid", ~pairs.anchors[:, None]
        same = pairs.positive.clone().fill_diagonal_(True)
        positive = _weighted_mean(distances, same | others, distances, fastreid)
        return positive, _weighted_mean(distances, pairs.negative | others, -distances, fastreid)


@dataclass(frozen=True)
class _Pairs:
    """The pairs of a batch, as masks, because a selection by them would wait for the device."""

    positive: Tensor  # (B, B) bool: two images of an identity
    negative: Tensor  # (B, B) bool: images of two identities
    anchors: Tensor  # (B,) bool: images with a positive and a negative

    @classmethod
    def of(cls, pids: Tensor, cameras: Tensor | None) -> "_Pairs":
        same = pids[:, None] == pids
        pair = torch.ones_like(same) if cameras is None else cameras[:, None] == cameras
        positive, negative = (same & pair).fill_diagonal_(False), ~same & pair
        return cls(positive, negative, positive.any(1) & negative.any(1))


def _weighted_mean(distances: Tensor, chosen: Tensor, scores: Tensor, fastreid: bool) -> Tensor:
    """(B,): means of the chosen distances by the softmax of their scores, both (B, B)."""
    if not fastreid:
        weights = scores.masked_fill(~chosen, -torch.inf).softmax(1)
        return (weights * distances).sum(1)
    highest = (scores * chosen).amax(1, keepdim=True)  # 0 for negatives: the fault
    weights = (scores - highest).masked_fill(~chosen, -torch.inf).exp()
    return (weights / (weights.sum(1, keepdim=True) + 1e-6) * distances).sum(1)


class PairLoss(nn.Module):
    """Circle (Sun et al. 2020), CosFace of pairs, or supcon (Khosla et al. 2020) at 1 / scale."""

    def __init__(self, form: Pair, margin: float = 0.25, scale: float = 128.0) -> None:
        super().__init__()
        self.form, self.margin, self.scale = form, margin, scale

    def forward(self, embeddings: Tensor, pids: Tensor, cameras: Tensor | None = None) -> Tensor:
        """Mean over all images, 0 for those without positive or negative; see `TripletLoss`."""
        cosine, pairs = cosines(embeddings), _Pairs.of(pids, cameras)
        losses = (self._contrast if self.form == "supcon" else self._pairs)(cosine, pairs)
        return losses.where(pairs.anchors, 0.0).sum() / len(pids) + 0.0 * cosine.sum()

    def _contrast(self, cosine: Tensor, pairs: "_Pairs") -> Tensor:
        others = pairs.positive | pairs.negative | ~pairs.anchors[:, None]
        scores = (self.scale * cosine).masked_fill(~others, -torch.inf).log_softmax(1)
        count = pairs.positive.sum(1).clamp(min=1)
        return -scores.where(pairs.positive, 0.0).sum(1) / count

    def _pairs(self, cosine: Tensor, pairs: "_Pairs") -> Tensor:
        m = self.margin
        if self.form == "circle":
            positive = -(1 + m - cosine).clamp(min=0).detach() * (cosine - (1 - m))
            negative = (cosine + m).clamp(min=0).detach() * (cosine - m)
        else:
            positive, negative = -cosine, cosine + m
        both = (positive, pairs.positive), (negative, pairs.negative)
        terms = [(self.scale * term).masked_fill(~chosen, -torch.inf) for term, chosen in both]
        sums = [term.where(pairs.anchors[:, None], 0.0).logsumexp(1) for term in terms]
        return F.softplus(sums[0] + sums[1])
