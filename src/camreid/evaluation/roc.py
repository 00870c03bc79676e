"""The ROC curve of pair scores, from counts on a fine grid."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from camreid.errors import InputError

BINS = 2**16
# `histc` counts in float32, which holds whole numbers up to here
_EXACT = 2**24


@dataclass(frozen=True)
class ROC:
    """How well one threshold on the score tells matches from others, over the valid queries.

    The rates are exact at their thresholds, which lie on a grid.

    Attributes:
        thresholds: (T,) float64 scores, ascending: the cosine, or minus the squared distance.
        true_positive_rate: (T,) share of matches that score at least the threshold.
        false_positive_rate: (T,) share of pairs of different people that do.
    """

    thresholds: Tensor
    true_positive_rate: Tensor
    false_positive_rate: Tensor

    @property
    def resolution(self) -> float:
        """Distance between thresholds."""
        return (self.thresholds[1] - self.thresholds[0]).item()

    def at(self, false_positive_rate: float) -> float:
        """The true positive rate at the lowest threshold that keeps to a false positive rate.

        NaN where there are no matches, or nobody else.

        >>> rates = torch.tensor([1.0, 0.5, 0.0])
        >>> ROC(torch.arange(3.0), rates, rates.square()).at(0.3)
        0.5
        """
        if not 0 <= false_positive_rate <= 1:
            raise InputError(
                f"false_positive_rate={false_positive_rate}: expected a share in 0..1, such as "
                "1e-3."
            )
        if self.false_positive_rate.isnan().any():
            return math.nan
        kept = (self.false_positive_rate <= false_positive_rate).int().argmax()
        return self.true_positive_rate[kept].item()


class ScoreCounts:
    """Counts of the scores of matches and of others.

    Args:
        low: no score is lower.
        high: no score is higher.
        device: of the scores.
    """

    def __init__(self, low: float, high: float, device: torch.device) -> None:
        # rounding may carry a score past its bound, and equal bounds are no range
        margin = max((high - low) / BINS, 1e-6 * max(1.0, abs(low), abs(high)))
        self.low, self.high = low - margin, high + margin
        self.matches = torch.zeros(BINS, dtype=torch.int64, device=device)
        self.others = torch.zeros_like(self.matches)

    def add(self, counts: Tensor, scores: Tensor) -> None:
        """Count scores, of any shape, into `matches` or `others`; -inf is no score."""
        for part in torch.split(scores.flatten(), _EXACT):
            counts += torch.histc(part, BINS, self.low, self.high).long()

    def curve(self) -> ROC:
        """The curve of what was counted."""
        step = (self.high - self.low) / BINS
        # one more threshold, above all scores, where both rates are 0
        thresholds = self.low + step * torch.arange(BINS + 1, dtype=torch.float64)
        return ROC(thresholds, *map(_share_above, (self.matches, self.others)))


def _share_above(counts: Tensor) -> Tensor:
    """(T + 1,) float64: share of the counts in this bin or a higher one."""
    above = counts.flip(0).cumsum(0).flip(0).cpu().double()
    return torch.cat([above, above.new_zeros(1)]) / above[:1]
