"""What a paired difference in mAP decides, as a sentence."""

from camreid.evaluation import Difference
from camreid.runs.table import in_points

ALPHA = 0.05
SMALLEST = 0.001  # of mAP: 0.1 points
FEWEST = 6  # identities with which p can fall below ALPHA


def doubt(found: Difference, identities: int) -> str:
    """Why a difference decides nothing; empty if it does."""
    if identities < FEWEST:
        return f"p below {ALPHA} needs at least {FEWEST} identities"
    if abs(found.value) < SMALLEST:
        return "the difference is below 0.1 points"
    if found.p >= ALPHA:
        return f"p is not below {ALPHA}"
    return "the interval includes 0" if found.low <= 0 <= found.high else ""


def verdict(first: str, second: str, found: Difference, identities: int) -> str:
    """The conclusion on the first minus the second, without a full stop."""
    if found.value < 0:
        found = Difference(-found.value, -found.high, -found.low, found.p)
        first, second = second, first
    value, low, high = in_points(found.value, found.low, found.high)
    ends = "" if low == "nan" else f"95 % {low}..{high}, "
    numbers = f"{value} points mAP ({ends}p = {found.p:.2g})"
    if why := doubt(found, identities):
        return f"No clear difference between {first} and {second}: {numbers}, as {why}"
    return f"{first} is better than {second} by {numbers}"
