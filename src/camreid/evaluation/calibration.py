"""From cosines to the probability that two images show one identity."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor

from camreid.errors import InputError
from camreid.evaluation.verification import BINS, Verification, edges

LEAST = 100  # genuine pairs of a camera pair with a map of its own


@dataclass(frozen=True)
class Calibration:
    """Logistic maps of cosines, with equal weight of genuine and impostor pairs.

    The probability is for equal prior odds: multiply its odds by those of your own pairs.
    """

    slope: float
    offset: float
    genuine: int  # number of pairs
    cameras: Mapping[str, tuple[float, float]] = field(
        default_factory=dict
    )  # "1-2": query, gallery

    @classmethod
    def fit(cls, pairs: Verification) -> "Calibration":
        """From validation pairs; InputError where genuine or impostor pairs are missing."""
        genuine, impostor = pairs.genuine_bins, pairs.impostors
        if not len(pairs.genuine) or not impostor.any():
            raise InputError(
                f"calibration needs pairs of one identity and of two, and has {len(pairs.genuine)} "
                f"and {int(impostor.sum())}: validate on several identities.",
                val_fraction=0.1,
            )
        own = {}
        for (i, query), (j, gallery) in _places(pairs.cameras):
            if genuine[i, j].sum() >= LEAST and impostor[i, j].sum() >= LEAST:
                own[f"{query}-{gallery}"] = _logistic(genuine[i, j], impostor[i, j])
        both = _logistic(genuine.sum((0, 1)), impostor.sum((0, 1)))
        return cls(*both, len(pairs.genuine), own)

    def probability(self, cosines: Tensor, query: int = 0, gallery: int = 0) -> Tensor:
        """Of one identity, 0..1, by cosine; `query` and `gallery` are cameras, 0 if unknown.

        >>> Calibration(10.0, -5.0, 100).probability(torch.tensor([0.5, 0.9]))
        tensor([0.5000, 0.9820])
        """
        slope, offset = self.cameras.get(f"{query}-{gallery}", (self.slope, self.offset))
        return (slope * cosines + offset).sigmoid()

    def reliability(self, pairs: Verification, bins: int = 10) -> list[dict[str, float]]:
        """By `bins` of probability: its mean, the share of genuine pairs, and the weight of pairs.

        Genuine and impostor pairs have half of the weight each.
        """
        sides = (pairs.genuine_bins.sum((0, 1)), pairs.impostors.sum((0, 1)))
        genuine, impostor = (side.double() / side.sum().clamp(min=1) / 2 for side in sides)
        chance = self.probability(_centres())
        place = (chance * bins).long().clamp(max=bins - 1)
        sums = torch.zeros(bins, 3, dtype=torch.float64)
        weight = genuine + impostor
        sums.index_add_(0, place, torch.stack([chance * weight, genuine, weight], dim=1))
        names = ("probability", "genuine", "weight")
        rows = ((p / w, g / w, w) for p, g, w in sums.tolist() if w)
        return [dict(zip(names, row, strict=True)) for row in rows]

    def to_json(self) -> dict[str, Any]:
        """Nested primitives, for `from_json`."""
        return {**asdict(self), "cameras": {k: list(v) for k, v in self.cameras.items()}}

    @classmethod
    def from_json(cls, content: Any) -> "Calibration":
        """InputError for what `to_json` did not write."""
        try:
            maps = {str(k): (float(a), float(b)) for k, (a, b) in content["cameras"].items()}
            found = cls(
                float(content["slope"]), float(content["offset"]), int(content["genuine"]), maps
            )
        except (TypeError, KeyError, ValueError, AttributeError) as error:
            raise InputError(f"the calibration is broken ({error!r}).") from error
        if not all(map(math.isfinite, (found.slope, found.offset, *sum(maps.values(), ())))):
            raise InputError("the calibration has values that are not finite.")
        return found


def _places(cameras: Tensor) -> list[tuple[tuple[int, int], tuple[int, int]]]:
    numbered = list(enumerate(cameras.tolist()))
    return [(query, gallery) for query in numbered for gallery in numbered]


def _centres() -> Tensor:
    return edges() + 1 / BINS


def _logistic(genuine: Tensor, impostor: Tensor) -> tuple[float, float]:
    """Slope and offset for (BINS,) counts: Newton's method with Platt's targets (Platt 1999)."""
    used = (genuine + impostor).nonzero().flatten()
    x = _centres()[used]
    sides = [side[used].double() for side in (genuine, impostor)]
    counts = [side.sum() for side in sides]
    weights = [side / count / 2 for side, count in zip(sides, counts, strict=True)]
    high, low = (counts[0] + 1) / (counts[0] + 2), 1 / (counts[1] + 2)
    total, target = weights[0] + weights[1], weights[0] * high + weights[1] * low
    design = torch.stack([x, torch.ones_like(x)], dim=1)
    found = torch.zeros(2, dtype=torch.float64)
    for _ in range(100):
        chance = (design @ found).sigmoid()
        gradient = design.T @ (total * chance - target)
        curvature = (design.T * (total * chance * (1 - chance))) @ design
        step = torch.linalg.solve(curvature + 1e-9 * torch.eye(2, dtype=torch.float64), gradient)
        found = found - step * (20 / step.abs().max()).clamp(max=1)
        if step.abs().max() < 1e-9:
            break
    slope, offset = found.tolist()
    return slope, offset
