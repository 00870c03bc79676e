"""Numbers as evidence: retrieval, closed-set accuracy with its coverage, and the leak table."""

import math
from collections.abc import Mapping, Set
from dataclasses import dataclass
from typing import Any

import torch

from camreid.errors import NoValidQuery
from camreid.evaluation.bootstrap import intervals
from camreid.evaluation.metric import scalars
from camreid.evaluation.protocols import Protocols
from camreid.evaluation.result import RankingResult


@dataclass(frozen=True)
class Evidence:
    """What a test has shown.

    Attributes:
        result: the headline ranking.
        seen: identities that the tested weights were trained on.
        identity: `accuracy`, `coverage` and `images` of the closed set, None without logits.
        protocols: the other protocols, None where there are none.
        images: tested images by part, and of those the ones that the weights were trained on
            (`query`, `query_trained`, `gallery`, `gallery_trained`); None if it is not known.
    """

    result: RankingResult
    seen: Set[int]
    identity: dict[str, float] | None = None
    protocols: Protocols | None = None
    images: Mapping[str, int] | None = None

    def summary(self) -> dict[str, Any]:
        """All numbers, ready for JSON; what could not be measured is None."""
        numbers = {
            "retrieval": scalars(self.result),
            "intervals": intervals(self.result),
            "protocol": self.result.protocol,
            "dropped_queries": self.result.dropped_queries,
            "identity": self.identity,
            "leak": leak_table(self.result, self.seen),
            "leaked_images": None if self.images is None else dict(self.images),
            **({} if self.protocols is None else _protocols(self.protocols)),
        }
        return finite(numbers)


def _protocols(protocols: Protocols) -> dict[str, Any]:
    """The numbers of each protocol, and the camera pairs as lists of rows."""
    pairs = protocols.camera_pairs
    return {
        "protocols": {
            protocol + ("" if distractors else ", without distractors"): scalars(result)
            for (protocol, distractors), result in protocols.results.items()
        },
        "camera_pairs": {
            "cameras": list(pairs.cameras),
            "mAP": [[None if math.isnan(x) else x for x in row] for row in pairs.mAP.tolist()],
            "rank1": [[None if math.isnan(x) else x for x in row] for row in pairs.rank1.tolist()],
            "valid_queries": pairs.valid_queries.tolist(),
        },
    }


def leak_table(result: RankingResult, seen: Set[int]) -> dict[str, dict[str, Any]]:
    """Retrieval over all queries, over people the weights have seen, and over people they have not.

    Args:
        result: a ranking.
        seen: identities that the weights were trained on.

    Returns:
        For `all`, `seen` and `unseen`: `identities`, `queries`, and the retrieval numbers, None
        where no query is valid.
    """
    known = torch.tensor([int(pid) in seen for pid in result.query_pids], dtype=torch.bool)
    groups = {"all": torch.ones_like(known), "seen": known, "unseen": ~known}
    table: dict[str, dict[str, Any]] = {}
    for name, queries in groups.items():
        people = {
            "identities": len(set(result.query_pids[queries].tolist())),
            "queries": int(queries.sum()),
        }
        try:
            table[name] = {**people, **scalars(result.of(queries))}
        except NoValidQuery:
            table[name] = {**people, **dict.fromkeys(scalars(result))}
    return table


def trained_images(images: Mapping[str, int]) -> str:
    """How many of the tested images the weights were trained on, in words.

    >>> trained_images({"query": 4, "query_trained": 1, "gallery": 9, "gallery_trained": 0})
    'Images that were trained on: 1 of 4 query, 0 of 9 gallery'
    """
    counts = (f"{images[f'{part}_trained']} of {images[part]} {part}" for part in _PARTS)
    return f"Images that were trained on: {', '.join(counts)}"


_PARTS = ("query", "gallery")


def finite(content: Mapping[str, Any]) -> dict[str, Any]:
    """Nested dicts and lists with None for NaN, which JSON does not have.

    >>> finite({"low": math.nan, "ends": (0.5, math.nan)})
    {'low': None, 'ends': [0.5, None]}
    """
    return {key: _finite(value) for key, value in content.items()}


def _finite(content: Any) -> Any:
    if isinstance(content, Mapping):
        return finite(content)
    if isinstance(content, list | tuple):
        return [_finite(value) for value in content]
    return None if isinstance(content, float) and math.isnan(content) else content


def percent(share: float | None) -> str:
    """A share as per cent with one digit.

    >>> percent(0.1234), percent(None)
    ('12.3 %', 'n/a')
    """
    return "n/a" if share is None else f"{100 * share:.1f} %"
