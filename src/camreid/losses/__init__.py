"""Losses: identity, metric, distillation."""

from camreid.losses.identity import LossConfig, identity_loss
from camreid.losses.triplet import PairLoss, TripletLoss

__all__ = ["LossConfig", "PairLoss", "TripletLoss", "identity_loss"]
