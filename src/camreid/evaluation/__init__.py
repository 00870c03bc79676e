"""Ranking of features, and retrieval metrics."""

from camreid.evaluation.bootstrap import Difference, compare, intervals
from camreid.evaluation.features import FeatureTable, Images
from camreid.evaluation.metric import RetrievalMetric
from camreid.evaluation.neighbours import expand_queries
from camreid.evaluation.protocols import RankingResult
from camreid.evaluation.ranking import CameraPairs, Protocols, rank, rank_distances, rank_protocols
from camreid.evaluation.rerank import rerank
from camreid.evaluation.summary import RankOptions
from camreid.evaluation.verification import Calibration, verify

__all__ = ["Calibration", "CameraPairs", "Difference", "FeatureTable", "Images", "Protocols"]
__all__ += ["RankOptions", "RankingResult", "RetrievalMetric", "compare", "expand_queries"]
__all__ += ["intervals", "rank", "rank_distances", "rank_protocols", "rerank", "verify"]
