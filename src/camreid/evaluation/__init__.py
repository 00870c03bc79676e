"""Features to ranking, ranking to evidence."""

from camreid.evaluation.metric import RetrievalMetric
from camreid.evaluation.ranking import RankingResult, average_precision, rank, rank_distances

__all__ = ["RankingResult", "RetrievalMetric", "average_precision", "rank", "rank_distances"]
