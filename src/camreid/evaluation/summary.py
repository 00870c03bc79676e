"""How a test is ranked, its numbers, and the rows of a matrix with their paired differences."""

from collections.abc import Mapping, Sequence, Set
from contextlib import suppress
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal

import torch
from torch import Tensor

from camreid.errors import InputError, NoValidQuery, require_choice, require_number, require_whole
from camreid.evaluation.bootstrap import compare, intervals
from camreid.evaluation.features import FeatureTable
from camreid.evaluation.neighbours import expand_queries
from camreid.evaluation.protocols import Protocol, RankingResult
from camreid.evaluation.ranking import Protocols, rank, rank_distances, rank_protocols
from camreid.evaluation.rerank import rerank
from camreid.evaluation.scores import Metric
from camreid.evaluation.verification import Calibration, verify


@dataclass(frozen=True)
class RankOptions:
    """How features are ranked; InputError for a value that does not exist."""

    metric: Metric = "cosine"
    protocol: Protocol = "cross-camera"  # of the headline numbers
    expand: int = 0  # times; see `expand_queries` for k and alpha
    expand_k: int = 5
    expand_alpha: float = 3.0
    rerank: Literal["k-reciprocal", None] = None  # see `rerank`; under `cross-camera` alone
    rerank_k1: int = 20
    rerank_k2: int = 6
    rerank_lambda: float = 0.3

    def __post_init__(self) -> None:
        require_choice("metric", self.metric, Metric)
        require_choice("protocol", self.protocol, Protocol)
        require_choice("rerank", self.rerank, Literal["k-reciprocal", None])
        if self.rerank and self.protocol != "cross-camera":
            raise InputError(f"rerank is under cross-camera alone, not protocol={self.protocol}.")
        require_whole("expand", self.expand, least=0)
        for name in ("expand_k", "rerank_k1", "rerank_k2"):
            require_whole(name, getattr(self, name), least=1)
        require_number("expand_alpha", self.expand_alpha, least=0)
        require_number("rerank_lambda", self.rerank_lambda, 0, 1)

    @classmethod
    def of(cls, options: Any) -> "RankOptions":
        """From a mapping that may hold more."""
        return cls(**{own.name: options[own.name] for own in fields(cls) if own.name in options})

    def decisions(
        self, table: FeatureTable, device: torch.device, calibration: Calibration | None = None
    ) -> dict[str, Any]:
        """`verification` and `reliability` of cosines, or `no_thresholds` with the reason."""
        try:
            pairs = verify(table, self.protocol, device)
        except InputError as error:
            return {"no_thresholds": str(error)}
        reliability = calibration and calibration.reliability(pairs)
        return {"verification": pairs.summary(), "reliability": reliability}

    def rank(
        self, table: FeatureTable, device: torch.device | None = None
    ) -> tuple[RankingResult, Protocols | None]:
        """The headline result, and all protocols' (None if re-ranked); `device` as of `rank`."""
        q, g = table.query, table.gallery
        query, gallery = q.features, g.features
        if device is not None and (self.rerank or self.expand):
            query, gallery = query.to(device), gallery.to(device)
        if self.expand:
            k, alpha, times = self.expand_k, self.expand_alpha, self.expand
            query, gallery = expand_queries(query, gallery, k=k, alpha=alpha, times=times)
        if self.rerank is not None:
            k1, k2, share = self.rerank_k1, self.rerank_k2, self.rerank_lambda
            distances = rerank(query, gallery, k1=k1, k2=k2, lambda_value=share, metric=self.metric)
            return rank_distances(distances, q.pids, g.pids, q.cameras, g.cameras), None
        table = FeatureTable(q.with_features(query), g.with_features(gallery)).numbered()
        protocols = rank_protocols(table.query, table.gallery, metric=self.metric, device=device)
        found = protocols.results.get((self.protocol, True))
        if found is None:  # raises, with the reason
            found = rank(**table.tensors, metric=self.metric, protocol=self.protocol, device=device)
        return found, protocols


@dataclass(frozen=True)
class EvaluationResult:
    """The outcome of a test."""

    ranking: RankingResult
    seen: Set[int]  # training identities of the tested weights
    identity: dict[str, float] | None = None  # of the closed set; None without logits
    protocols: Protocols | None = None  # None where re-ranked
    decisions: Mapping[str, Any] = field(default_factory=dict)  # see `RankOptions`

    def summary(self) -> dict[str, Any]:
        """All numbers as nested plain values; NaN where a number does not exist."""
        numbers = {
            **_scores(self.ranking),
            "protocol": self.ranking.protocol,
            "dropped_queries": int((~self.ranking.valid).sum()),
            "identity": self.identity,
            "leak": leakage(self.ranking, self.seen),
            **self.decisions,
        }
        if self.protocols is None:
            return numbers
        results = {
            protocol + ("" if distractors else ", without distractors"): result.scalars()
            for (protocol, distractors), result in self.protocols.results.items()
        }
        columns = vars(self.protocols.camera_pairs).items()
        pairs = {name: torch.as_tensor(column).tolist() for name, column in columns}
        return {**numbers, "protocols": results, "camera_pairs": pairs}


def leakage(result: RankingResult, seen: Set[int]) -> dict[str, dict[str, Any]]:
    """Numbers over `all` queries, and those of identities `seen` and `unseen` in training.

    Numbers of identities and queries, and the retrieval numbers, None where no query is valid.
    """
    known = torch.isin(result.query_pids, torch.tensor(sorted(seen), dtype=torch.int64))
    table: dict[str, dict[str, Any]] = {}
    for name, queries in {"all": known | True, "seen": known, "unseen": ~known}.items():
        identities = len(torch.unique(result.query_pids[queries]))
        numbers: dict[str, Any] = dict.fromkeys(result.scalars())
        with suppress(NoValidQuery):
            numbers |= result.of(queries).scalars()
        table[name] = {"identities": identities, "queries": int(queries.sum()), **numbers}
    return table


@dataclass(frozen=True)
class Row:
    """An expert, a baseline or a fusion, as tested."""

    ranking: RankingResult  # of all queries
    query_cameras: Tensor  # (Q,) int64, 1-based
    seen: frozenset[int]  # training identities of its weights
    seen_complete: bool = True  # whether `seen` are all

    def summary(self) -> dict[str, Any]:
        """`numbers` of all queries, and `leak`, see `leakage`."""
        about = {"leak": leakage(self.ranking, self.seen), "seen_complete": self.seen_complete}
        return {**self.numbers(torch.ones_like(self.ranking.valid)), **about}

    def numbers(self, queries: Tensor) -> dict[str, Any]:
        """Numbers of some queries, (Q,) bool, and `by_camera`: None for one without a match."""
        by_camera: dict[str, Any] = {}
        for camera in torch.unique(self.query_cameras).tolist():
            by_camera[str(camera)] = None
            with suppress(NoValidQuery):
                part = self.ranking.of(queries & (self.query_cameras == camera))
                by_camera[str(camera)] = _scores(part)
        return {**_scores(self.ranking.of(queries)), "by_camera": by_camera}


def comparison(rows: Mapping[str, Row], experts: Sequence[str]) -> dict[str, Any]:
    """The strongest expert, and each row minus it, on the identities that no row was trained on.

    `compared` has the numbers of the `rows` on these identities where they are not all.
    """
    ranking = next(iter(rows.values())).ranking
    seen = sorted(set().union(*(row.seen for row in rows.values())))
    unseen = ~torch.isin(ranking.query_pids, torch.tensor(seen, dtype=torch.int64))
    valid = unseen & ranking.valid
    fair = {name: row.ranking.of(unseen) for name, row in rows.items()} if valid.any() else {}
    strongest = max(experts, key=lambda name: fair[name].mAP) if fair else None
    leaks = not bool(unseen.all())
    compared = {
        "leaks": leaks,
        "complete": all(row.seen_complete for row in rows.values()),
        "identities": len(torch.unique(ranking.query_pids[valid])),
        "queries": int(valid.sum()),
        "rows": {name: rows[name].numbers(unseen) for name in fair if leaks},
    }
    differences = {
        name: {score: asdict(d) for score, d in compare(result, fair[strongest]).items()}
        for name, result in fair.items()
        if strongest is not None and name != strongest
    }
    return {"compared": compared, "strongest": strongest, "differences": differences}


def _scores(ranking: RankingResult) -> dict[str, Any]:
    return {"retrieval": ranking.scalars(), "intervals": intervals(ranking)}
