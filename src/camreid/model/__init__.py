"""Images to features to rows."""

from camreid.model.backbone import Backbone
from camreid.model.baseline import Baseline
from camreid.model.batch import Batch, read_batch
from camreid.model.config import ModelConfig
from camreid.model.head import RemapHead
from camreid.model.losses import LossConfig, identity_loss
from camreid.model.metric_losses import PairLoss, TripletLoss
from camreid.model.mgn import MGN
from camreid.model.module import ReIDModule
from camreid.model.network import FeatureOptions, ReIDNetwork, ReIDOutput
from camreid.model.schedule import OptimizerConfig, Schedule

__all__ = [
    "MGN",
    "Backbone",
    "Baseline",
    "Batch",
    "FeatureOptions",
    "LossConfig",
    "ModelConfig",
    "OptimizerConfig",
    "PairLoss",
    "ReIDModule",
    "ReIDNetwork",
    "ReIDOutput",
    "RemapHead",
    "Schedule",
    "TripletLoss",
    "identity_loss",
    "read_batch",
]
