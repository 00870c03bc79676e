"""Features to ranking, ranking to evidence."""

from camreid.evaluation.bootstrap import Difference, compare, intervals
from camreid.evaluation.metric import RetrievalMetric
from camreid.evaluation.protocols import CameraPairs, Protocols
from camreid.evaluation.ranking import (
    RankingResult,
    average_precision,
    rank,
    rank_distances,
    rank_protocols,
)
from camreid.evaluation.roc import ROC

__all__ = [
    "ROC",
    "CameraPairs",
    "Difference",
    "Protocols",
    "RankingResult",
    "RetrievalMetric",
    "average_precision",
    "compare",
    "intervals",
    "rank",
    "rank_distances",
    "rank_protocols",
]
