"""From the features of a run to what the page shows of them."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, replace
from itertools import chain
from typing import Any

import torch

from camreid.errors import InputError, NoValidQuery
from camreid.evaluation.expansion import expand_queries
from camreid.evaluation.features import FeatureTable
from camreid.evaluation.metric import scalars
from camreid.evaluation.options import RankOptions
from camreid.evaluation.protocols import CameraPairs
from camreid.evaluation.ranking import rank, rank_protocols
from camreid.evaluation.report import leak_table
from camreid.evaluation.result import RankingResult

# another device or thread count rounds otherwise, and may swap two neighbours
TOLERANCE = 5e-4
_COUNTS = ("identities", "queries", "valid_queries", "dropped_queries")


@dataclass(frozen=True)
class Measured:
    """A test, ranked again.

    Attributes:
        options: how it was ranked.
        headline: the result that `metrics.json` should hold.
        plain: the result before re-ranking; otherwise the headline.
        pairs: retrieval by camera pair, before re-ranking.
        table: the features as compared, expanded where the options say so.
    """

    options: RankOptions
    headline: RankingResult
    plain: RankingResult
    pairs: CameraPairs
    table: FeatureTable


def options_of(metrics: Mapping[str, Any] | None) -> RankOptions:
    """How a test was ranked, by its `metrics.json`; the defaults where that is not known."""
    said = (metrics or {}).get("evaluation") or {}
    known = {field.name for field in fields(RankOptions)}
    return RankOptions(**{key: value for key, value in said.items() if key in known})


def measure(table: FeatureTable, options: RankOptions) -> Measured:
    """Rank the features again, with all that the page shows.

    Raises:
        InputError: the features can't be ranked.
        NoValidQuery: no query has a match.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    headline, protocols = options.rank(table, device)
    q, g = table.query, table.gallery
    if options.expand:
        query, gallery = expand_queries(
            q.features.to(device),
            g.features.to(device),
            k=options.expand_k,
            alpha=options.expand_alpha,
            times=options.expand,
        )
        q, g = q.with_features(query.cpu()), g.with_features(gallery.cpu())
    everything = (q.features, g.features, q.pids, g.pids, q.cameras, g.cameras)
    how: dict[str, Any] = {"metric": options.metric, "device": device, **table.exclusions()}
    plain = rank(*everything, protocol=options.protocol, **how)
    protocols = protocols or rank_protocols(*everything, **how)
    return Measured(
        options, headline, plain, protocols.camera_pairs, replace(table, query=q, gallery=g)
    )


def measured(
    table: FeatureTable | None, metrics: Mapping[str, Any] | None
) -> tuple[Measured | None, tuple[str, ...]]:
    """The test ranked again, None where it can't be, and what a reader should know of it."""
    if table is None:
        return None, ()
    try:
        found = measure(table, options_of(metrics))
    except (InputError, NoValidQuery) as error:
        return None, (f"The saved features can't be ranked: {error}",)
    notes = disagreement(found, table.notes.get("seen"), metrics)
    if found.options.rerank:
        notes += (
            f"The numbers are those after re-ranking ({found.options.rerank}), as is the CMC "
            "curve; camera pairs and ranked lists are of the distances before it.",
        )
    return found, notes


def disagreement(
    found: Measured, seen: Iterable[int] | None, metrics: Mapping[str, Any] | None
) -> tuple[str, ...]:
    """Where `metrics.json` says other numbers than the features, one sentence or none.

    Args:
        found: the test ranked again.
        seen: whom the features say that the weights were trained on.
        metrics: `metrics.json`.
    """
    if metrics is None:
        return ("Numbers are of the saved features; no metrics.json checks them.",)
    differ = other_numbers(found.headline, metrics, seen, found.pairs)
    if not differ:
        return ()
    return (
        "metrics.json and the saved features disagree, so one of them is of another test: "
        f"{'; '.join(differ)}. The table shows metrics.json; curves and lists are of the features. "
        "Run camreid-evaluate again to have both of one test.",
    )


def other_numbers(
    result: RankingResult,
    summary: Mapping[str, Any],
    seen: Iterable[int] | None,
    pairs: CameraPairs | None,
) -> list[str]:
    """The numbers that a summary says otherwise than a ranking, in words.

    Args:
        result: the ranking.
        summary: its numbers as they were written; what it does not say is not compared.
        seen: whom the weights were trained on, None if it is not known.
        pairs: retrieval by camera pair.
    """
    differ = _other(summary.get("retrieval") or {}, scalars(result))
    if summary.get("dropped_queries") is not None:
        dropped = {"dropped_queries": result.dropped_queries}
        differ += _other({"dropped_queries": summary["dropped_queries"]}, dropped)
    leak = summary.get("leak")
    if leak and seen is not None:
        for name, row in leak_table(result, frozenset(seen)).items():
            differ += _other(
                leak.get(name) or {}, row, f"leak.{name}.", _swap(row["valid_queries"])
            )
    said = summary.get("camera_pairs")
    return differ if not said or pairs is None else [*differ, *_other_pairs(said, pairs)]


def _other(
    said: Mapping[str, Any], found: Mapping[str, Any], above: str = "", slack: float = TOLERANCE
) -> list[str]:
    return [
        f"{above}{name} {said.get(name)} there, {_shown(value)} here"
        for name, value in found.items()
        if not _same(said.get(name), value, TOLERANCE if name in _COUNTS else slack)
    ]


def _swap(queries: float | None) -> float:
    """What one query whose neighbours are swapped changes in a mean over a group of queries."""
    return max(TOLERANCE, 1.001 / max(1, queries or 0))


def _other_pairs(said: Mapping[str, Any], pairs: CameraPairs) -> list[str]:
    """How many of the numbers by camera pair are others, by number."""
    if list(said["cameras"]) != list(pairs.cameras):
        return [f"camera_pairs of {said['cameras']} there, {list(pairs.cameras)} here"]
    found = {"mAP": pairs.mAP, "rank1": pairs.rank1}
    slack = [_swap(count) for count in pairs.valid_queries.flatten().tolist()]
    both = {
        name: list(
            zip(chain.from_iterable(said[name]), values.flatten().tolist(), slack, strict=True)
        )
        for name, values in found.items()
    }
    others = {name: sum(not _same(*cell) for cell in cells) for name, cells in both.items()}
    return [f"camera_pairs.{n}: {k} of {len(both[n])} cells" for n, k in others.items() if k]


def _same(said: object, found: object, slack: float) -> bool:
    """Whether two numbers are one but for rounding; NaN is written as null."""
    one, other = _number(said), _number(found)
    if math.isnan(one) or math.isnan(other):
        return math.isnan(one) and math.isnan(other)
    return math.isclose(one, other, rel_tol=0, abs_tol=slack)


def _shown(value: object) -> str:
    return f"{value:.6g}" if isinstance(value, int | float) else str(value)


def _number(value: object) -> float:
    return float(value) if isinstance(value, int | float) else math.nan
