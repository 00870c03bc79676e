"""Features to ranking, ranking to evidence."""

from camreid.evaluation.expansion import expand_queries
from camreid.evaluation.metric import RetrievalMetric
from camreid.evaluation.ranking import RankingResult, average_precision, rank, rank_distances
from camreid.evaluation.rerank import rerank, rerank_distances

__all__ = [
    "RankingResult",
    "RetrievalMetric",
    "average_precision",
    "expand_queries",
    "rank",
    "rank_distances",
    "rerank",
    "rerank_distances",
]
