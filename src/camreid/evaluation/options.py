"""How a test is ranked: protocol, distance, query expansion, re-ranking."""

from dataclasses import dataclass, fields
from typing import Any, Literal

import torch

from camreid.errors import InputError, require_choice, require_number, require_whole
from camreid.evaluation.calibration import Calibration
from camreid.evaluation.features import FeatureTable
from camreid.evaluation.neighbours import expand_queries
from camreid.evaluation.protocols import Protocol, RankingResult
from camreid.evaluation.ranking import Protocols, rank, rank_distances, rank_protocols
from camreid.evaluation.rerank import rerank
from camreid.evaluation.scores import Metric
from camreid.evaluation.verification import verify


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
