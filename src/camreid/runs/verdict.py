"""What a paired difference decides, as a sentence."""

from dataclasses import dataclass

from camreid.evaluation import Difference
from camreid.runs.table import in_points

ALPHA = 0.05
SMALLEST = 0.001  # of mAP: 0.1 points
FEWEST = 6  # identities with which p can fall below ALPHA


@dataclass(frozen=True)
class Verdict:
    """A difference in mAP on some identities; the first has the higher mAP."""

    difference: Difference
    identities: int

    @property
    def doubt(self) -> str:
        """Why the difference decides nothing; empty if it does."""
        found = self.difference
        if self.identities < FEWEST:
            return f"p below {ALPHA} needs at least {FEWEST} identities"
        if found.value < SMALLEST:
            return "the difference is below 0.1 points"
        if found.p >= ALPHA:
            return f"p is not below {ALPHA}"
        return "the interval includes 0" if found.low <= 0 else ""

    def sentence(self, first: str, second: str) -> str:
        """The conclusion, without a full stop."""
        found = self.difference
        value, low, high = in_points(found.value, found.low, found.high)
        ends = "" if low == "nan" else f"95 % {low}..{high}, "
        numbers = f"{value} points mAP ({ends}p = {found.p:.2g})"
        if self.doubt:
            return f"No clear difference between {first} and {second}: {numbers}, as {self.doubt}"
        return f"{first} is better than {second} by {numbers}"
