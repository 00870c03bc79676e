"""From cosines to the probability that two images show one identity."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from camreid.evaluation.verification import BINS, EDGES, Verification
from camreid.provenance import Record

LEAST = 100  # pairs of each kind of two cameras with a map of their own
Map = tuple[float, float]  # slope, offset


@dataclass(frozen=True)
class Calibration(Record):
    """Logistic maps from cosines to probabilities, where half of the pairs have one identity.

    For another share, multiply the odds p / (1 - p) by genuine / impostor pairs.
    """

    slope: float
    offset: float
    genuine: int  # number of pairs of one identity
    protocol: str = "cross-camera"  # of the pairs; `within-camera` for validation in one camera
    cameras: Mapping[str, Map] = field(default_factory=dict)  # as `1-2`

    def __post_init__(self) -> None:
        maps = ((self.slope, self.offset), *self.cameras.values())
        if not all(math.isfinite(slope) and math.isfinite(offset) for slope, offset in maps):
            raise ValueError("numbers that are not finite")

    @classmethod
    def fit(cls, pairs: Verification) -> "Calibration":
        """From the pairs of a validation."""
        own = {name: _logistic(part) for name, part in pairs.by_cameras(LEAST)}
        return cls(*_logistic(pairs), len(pairs.genuine), pairs.protocol, own)

    def probability(self, cosines: Tensor, query: int = 0, gallery: int = 0) -> Tensor:
        """That a pair has one identity, 0..1; `query` and `gallery` are cameras, 0 if unknown.

        >>> Calibration(10.0, -5.0, 100).probability(torch.tensor([0.5, 0.9]))
        tensor([0.5000, 0.9820])
        """
        slope, offset = self.cameras.get(f"{query}-{gallery}", (self.slope, self.offset))
        return (slope * cosines + offset).sigmoid()

    def reliability(self, pairs: Verification) -> list[dict[str, float]]:
        """By tenths of probability: its mean, the share of genuine pairs, and the weight.

        Genuine and impostor pairs have half of the weight each.
        """
        cosines, weights, genuine = _weighed(pairs)
        chance = self.probability(cosines)
        columns = torch.stack([chance * weights, genuine * weights, weights], dim=1)
        place = (chance * 10).long().clamp(max=9)
        sums = torch.zeros(10, 3, dtype=torch.float64).index_add_(0, place, columns).tolist()
        return [{"probability": p / w, "genuine": g / w, "weight": w} for p, g, w in sums if w]


def _weighed(pairs: Verification) -> tuple[Tensor, Tensor, Tensor]:
    """Cosines, weights and targets (1 or 0) of genuine pairs and of bins of impostors."""
    genuine, impostors = pairs.genuine, pairs.impostors.sum(0)
    used = impostors.nonzero()[:, 0]
    cosines = torch.cat([genuine, EDGES[used] + 1 / BINS]).double()
    shares = (torch.ones_like(genuine).double(), impostors[used].double())
    weights = torch.cat([share / share.sum() / 2 for share in shares])
    return cosines, weights, (torch.arange(len(cosines)) < len(genuine)).double()


def _logistic(pairs: Verification) -> Map:
    """Slope and offset by Newton's method, with targets of Platt 1999, finite where separable."""
    x, weights, target = _weighed(pairs)
    low, high = 1 / (pairs.impostors.sum() + 2), 1 - 1 / (len(pairs.genuine) + 2)
    target = torch.where(target > 0, high, low)
    design, found = torch.stack([x, torch.ones_like(x)], dim=1), torch.zeros(2).double()
    for _ in range(100):
        chance = (design @ found).sigmoid()
        gradient = design.T @ (weights * (chance - target))
        curvature = design.T @ (design * (weights * chance * (1 - chance))[:, None])
        step = torch.linalg.solve(curvature + 1e-9 * torch.eye(2).double(), gradient)
        found = found - step * (20 / step.abs().max()).clamp(max=1)
        if step.abs().max() < 1e-9:
            break
    return found[0].item(), found[1].item()
