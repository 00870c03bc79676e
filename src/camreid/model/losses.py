"""Identity and metric losses."""

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from pytorch_metric_learning.distances import LpDistance
from pytorch_metric_learning.losses import TripletMarginLoss
from pytorch_metric_learning.miners import BatchHardMiner
from pytorch_metric_learning.reducers import MeanReducer
from torch import Tensor, nn

from camreid.errors import InputError


def identity_loss(logits: Tensor, rows: Tensor, smoothing: float = 0.0) -> Tensor:
    """Cross-entropy over the images whose identity has a row; 0 if none has.

    Smoothing gives `smoothing` / (rows - 1) to each wrong row, as in FastReID and in Szegedy's
    erratum, where PyTorch's own form spreads it over all rows.

    Args:
        logits: (B, rows).
        rows: (B,) int64 true rows, -1 for none.
        smoothing: 0..1.

    >>> identity_loss(torch.zeros(2, 4), torch.tensor([1, -1])).item()
    1.3862943649291992
    >>> identity_loss(torch.zeros(2, 4), torch.tensor([-1, -1])).item()
    0.0
    """
    count = logits.shape[1]
    spread = min(1.0, smoothing * count / max(1, count - 1))
    total = F.cross_entropy(logits, rows, ignore_index=-1, label_smoothing=spread, reduction="sum")
    return total / (rows >= 0).sum().clamp(min=1)


class TripletLoss(nn.Module):
    """Batch-hard triplet loss (Hermans et al. 2017) on euclidean distances of plain features.

    Args:
        margin: relu(dp - dn + margin), or `soft`: softplus(dp - dn).
    """

    def __init__(self, margin: float | Literal["soft"]) -> None:
        super().__init__()
        distance = LpDistance(normalize_embeddings=False)
        soft = margin == "soft"
        self.miner = BatchHardMiner(distance=distance)
        self.loss = TripletMarginLoss(
            margin=0.0 if margin == "soft" else margin,
            smooth_loss=soft,
            distance=distance,
            reducer=MeanReducer(),
        )

    def forward(self, embeddings: Tensor, pids: Tensor) -> Tensor:
        """Mean over the anchors of (B, d) embeddings; 0 where no image has company and a rival."""
        embeddings = embeddings.float()
        loss: Tensor = self.loss(embeddings, pids, self.miner(embeddings, pids))
        return loss + 0.0 * embeddings.sum()  # keeps the graph where there was no triplet


@dataclass(frozen=True)
class LossConfig:
    """How the losses add up.

    Attributes:
        identity_weight: of the identity loss, mean over heads.
        smoothing: label smoothing, 0..1.
        triplet_weight: of the triplet loss, mean over heads; 0 for none.
        triplet_margin: a number, or `soft`.
    """

    identity_weight: float
    smoothing: float
    triplet_weight: float
    triplet_margin: float | Literal["soft"]

    def __post_init__(self) -> None:
        soft = self.triplet_margin == "soft"
        if not soft and not isinstance(self.triplet_margin, int | float):
            raise InputError(
                f"model.loss.triplet_margin={self.triplet_margin}: type a number such as 0.3, or "
                "soft."
            )
        if not 0 <= self.smoothing < 1 or min(self.identity_weight, self.triplet_weight) < 0:
            raise InputError(f"{self}: expected weights of at least 0 and smoothing in 0..1.")


def mean_over_heads(values: list[Tensor]) -> Tensor:
    """The mean of one loss over all heads.

    >>> mean_over_heads([torch.tensor(1.0), torch.tensor(3.0)])
    tensor(2.)
    """
    return torch.stack(values).mean()
