"""How a test is ranked: protocol, distance, query expansion, re-ranking."""

from dataclasses import dataclass
from typing import Any, get_args

import torch

from camreid.errors import InputError, require_number, require_whole
from camreid.evaluation.expansion import expand_queries
from camreid.evaluation.features import FeatureTable
from camreid.evaluation.protocols import Protocols
from camreid.evaluation.ranking import rank, rank_distances, rank_protocols
from camreid.evaluation.rerank import Method, rerank
from camreid.evaluation.result import Protocol, RankingResult
from camreid.evaluation.scores import Metric


@dataclass(frozen=True)
class RankOptions:
    """What `camreid-evaluate` does with features.

    Attributes:
        metric: `cosine` or `euclidean`.
        protocol: of the headline numbers: `cross-camera` or `within-camera`.
        expand: how often queries and gallery are expanded; see `expand_queries`.
        expand_k: neighbours in each mean.
        expand_alpha: power of the cosine that weighs them.
        rerank: None or `k-reciprocal`, under the official protocol only; see `rerank`.
        rerank_k1: neighbours that count.
        rerank_k2: neighbours over which encodings are averaged.
        rerank_lambda: share of the original distance.
    """

    metric: Metric = "cosine"
    protocol: Protocol = "cross-camera"
    expand: int = 0
    expand_k: int = 5
    expand_alpha: float = 3.0
    rerank: Method | None = None
    rerank_k1: int = 20
    rerank_k2: int = 6
    rerank_lambda: float = 0.3

    def __post_init__(self) -> None:
        for name, kind in (("metric", Metric), ("protocol", Protocol)):
            if getattr(self, name) not in get_args(kind):
                raise InputError(
                    f"evaluation.{name}={getattr(self, name)}: type one of "
                    f"{', '.join(get_args(kind))}."
                )
        if self.rerank is not None and self.rerank not in get_args(Method):
            raise InputError(
                f"evaluation.rerank={self.rerank}: type null or one of "
                f"{', '.join(get_args(Method))}."
            )
        if self.rerank is not None and self.protocol != "cross-camera":
            raise InputError(
                f"evaluation.rerank={self.rerank} is for the official protocol; leave out "
                f"evaluation.protocol={self.protocol}."
            )
        require_whole("evaluation.expand", self.expand, least=0)
        for name in ("expand_k", "rerank_k1", "rerank_k2"):
            require_whole(f"evaluation.{name}", getattr(self, name), least=1)
        require_number("evaluation.expand_alpha", self.expand_alpha, least=0)
        require_number("evaluation.rerank_lambda", self.rerank_lambda, 0, 1)

    def rank(
        self, table: FeatureTable, device: torch.device | None = None
    ) -> tuple[RankingResult, Protocols | None]:
        """The headline result, and those of all protocols; None for the latter where re-ranked.

        Args:
            table: query and gallery.
            device: that ranks; the features' own if None.

        Raises:
            InputError: features or labels are not fit to be ranked.
            NoValidQuery: no query has a match under `protocol`.
        """
        q, g = table.query, table.gallery
        query, gallery = q.features, g.features
        if device is not None and (self.rerank or self.expand):
            query, gallery = query.to(device), gallery.to(device)
        if self.expand:
            query, gallery = expand_queries(
                query, gallery, k=self.expand_k, alpha=self.expand_alpha, times=self.expand
            )
        labels = (q.pids, g.pids, q.cameras, g.cameras)
        if self.rerank is not None:
            distances = rerank(
                query,
                gallery,
                k1=self.rerank_k1,
                k2=self.rerank_k2,
                lambda_value=self.rerank_lambda,
                metric=self.metric,
            )
            return rank_distances(distances, *labels), None
        how: dict[str, Any] = {"metric": self.metric, "device": device, **table.exclusions()}
        protocols = rank_protocols(query, gallery, *labels, **how)
        found = protocols.results.get((self.protocol, True))
        if found is None:  # raises, with the reason
            found = rank(query, gallery, *labels, protocol=self.protocol, **how)
        return found, protocols
