"""The identity loss, and how the losses add up."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from camreid.errors import InputError, require_number
from camreid.losses.triplet import Margin, Mining, Pair, PairLoss, TripletLoss

Smoothing = float | Literal["adaptive"]
Heads = Mapping[str, Tensor]


def identity_loss(logits: Tensor, rows: Tensor, smoothing: Smoothing = 0.0) -> Tensor:
    """Mean cross-entropy of the images with a row; 0 if no image has one.

    Each wrong row gets `smoothing` / (rows - 1), as in FastReID and in Szegedy's erratum; PyTorch
    spreads it over all rows. Other than in FastReID, a loss of exactly 0 is part of the mean.

    Args:
        logits: (B, rows).
        rows: (B,) int64 true rows, -1 for none.
        smoothing: 0..1; or `adaptive`, a fifth of the current probability of the true row
            (FastReID's negative epsilon).

    >>> identity_loss(torch.zeros(2, 4), torch.tensor([1, -1])).item()
    1.3862943649291992
    >>> identity_loss(torch.zeros(2, 4), torch.tensor([-1, -1])).item()
    0.0
    """
    if not logits.shape[1]:
        return logits.sum()
    scores = logits.log_softmax(1)
    true = scores.gather(1, rows.clamp(min=0)[:, None])[:, 0]  # (B,)
    share = 0.2 * true.detach().exp() if smoothing == "adaptive" else smoothing
    wrong = (scores.sum(1) - true) / max(1, logits.shape[1] - 1)
    losses = (share - 1) * true - share * wrong
    known = rows >= 0
    return losses.where(known, 0.0).sum() / known.sum().clamp(min=1)


@dataclass(frozen=True)
class LossConfig:
    """Weights and options of the losses; each loss is a mean over heads."""

    identity_weight: float
    smoothing: Smoothing  # of labels, see `identity_loss`
    triplet_weight: float  # 0 for no triplet loss
    triplet_margin: Margin
    triplet_mining: Mining = "hard"  # see `TripletLoss`
    triplet_normalize: bool = False
    pair: Literal[Pair, None] = None  # form of an additional `PairLoss`
    pair_weight: float = 1.0
    pair_margin: float = 0.25
    pair_scale: float = 128.0
    extra: Mapping[str, Any] | None = None  # `_target_` of a loss of one's own, and its options

    def __post_init__(self) -> None:
        if self.triplet_margin != "soft":
            require_number("triplet_margin", self.triplet_margin, 0)
        if self.smoothing != "adaptive":
            require_number("smoothing", self.smoothing, 0, 1)
        for n in ("identity_weight", "triplet_weight", "pair_weight", "pair_margin", "pair_scale"):
            require_number(n, getattr(self, n), 0)

    def metric_losses(self) -> dict[str, tuple[float, TripletLoss | PairLoss]]:
        """Weight and loss of embeddings and pids, by name."""
        triplet = TripletLoss(self.triplet_margin, self.triplet_mining, self.triplet_normalize)
        losses: dict[str, tuple[float, TripletLoss | PairLoss]]
        losses = {"triplet": (self.triplet_weight, triplet)}
        if self.pair is not None:
            pair = PairLoss(self.pair, self.pair_margin, self.pair_scale)
            losses[self.pair] = (self.pair_weight, pair)
        return {name: (weight, loss) for name, (weight, loss) in losses.items() if weight}


def weighed(loss: object, value: Any) -> dict[str, tuple[float, Tensor]]:
    """Weight and () value by name, as a `loss` returned them; a tensor alone has the weight 1."""
    name = type(loss).__name__
    try:
        parts = {name: (1.0, value)} if isinstance(value, Tensor) else dict(value)
        return {str(key): (float(weight), own.reshape(())) for key, (weight, own) in parts.items()}
    except (AttributeError, TypeError, ValueError, RuntimeError) as error:
        expected = "a tensor of one value, or a mapping from names to (weight, tensor)"
        raise InputError(f"{name} returned no loss ({error}): expected {expected}.") from error


def identity_loss_of_heads(logits: Heads, rows: Heads, smoothing: Smoothing = 0.0) -> Tensor:
    """The mean of `identity_loss` over all pairs of a head and an image with a row in it."""
    losses = [identity_loss(logits[name], own, smoothing) for name, own in rows.items()]
    counts = torch.stack([(own >= 0).sum() for own in rows.values()])
    return (torch.stack(losses) * counts).sum() / counts.sum().clamp(min=1)
