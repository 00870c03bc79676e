"""Models: pixels to features to logits."""

from camreid.models.backbone import Backbone
from camreid.models.baseline import Baseline
from camreid.models.config import ModelConfig
from camreid.models.head import RemapHead
from camreid.models.mgn import MGN
from camreid.models.network import FeatureOptions, ReIDNetwork, ReIDOutput
from camreid.models.pixels import PixelNorm

__all__ = ["MGN", "Backbone", "Baseline", "FeatureOptions", "ModelConfig", "PixelNorm"]
__all__ += ["ReIDNetwork", "ReIDOutput", "RemapHead"]
