"""The coverage of a model whose heads may know different people."""

from collections.abc import Mapping, Sequence
from typing import Any

from camreid.evaluation.report import percent

Head = Mapping[str, Any]


def by_coverage(heads: Sequence[Head]) -> list[Head]:
    """Heads of `head_check.json` that have people to learn, the least covered first."""
    learning = [head for head in heads if head.get("identities") != 0]
    return sorted(learning, key=lambda head: float(head["coverage"]))


def coverage(heads: Sequence[Head]) -> str:
    """The least and the largest coverage, with their heads where they differ.

    >>> coverage([{"coverage": 0.5, "camera": 2}, {"coverage": 0.25, "camera": 1}])
    '25.0 % (c1) to 50.0 % (c2)'
    >>> coverage([{"coverage": 0.5, "head": "identity"}]), coverage([])
    ('50.0 %', 'n/a')
    """
    ends = by_coverage(heads)
    if not ends:
        return percent(None)
    low, high = (percent(head["coverage"]) for head in (ends[0], ends[-1]))
    return low if low == high else f"{low} ({_name(ends[0])}) to {high} ({_name(ends[-1])})"


def _name(head: Head) -> str:
    """The camera of a head that has one."""
    return str(head.get("head")) if head.get("camera") is None else f"c{head['camera']}"
