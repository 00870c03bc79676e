"""The strong baseline: one backbone, one neck, one head, or a head per camera."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor, nn

from camreid.labels import HeadLabels
from camreid.models.backbone import Backbone, BackboneOptions
from camreid.models.cameras import CameraIndex, CameraOptions, use_embedding, use_norm, used_cameras
from camreid.models.config import build_options
from camreid.models.head import Classifier, RemapHead
from camreid.models.network import Cameras, ReIDNetwork, ReIDOutput, Rows, Side
from camreid.models.pixels import PixelNorm, Pixels, Size


@dataclass(frozen=True, kw_only=True)
class BaselineOptions(BackboneOptions, CameraOptions):
    """Options of `Baseline`: the backbone's, the cameras', those of `RemapHead`, and its own."""

    backbone: str
    projection: int | None = None  # width before the neck, as in torchreid's `fc512` models
    neck: Literal["bn", "none"] = "bn"
    classifier: Classifier = "linear"
    scale: float = 1.0
    margin: float = 0.0
    bias: bool = False
    metric_feature: Side = "before"  # of the neck


class Baseline(ReIDNetwork):
    """One backbone, one BNNeck, one head: bag of tricks (Luo et al. 2019) and its kin.

    With `camera_heads` it takes a label map for each camera. Options: see `BaselineOptions`.
    """

    def __init__(
        self, labels: HeadLabels, image_size: Size, pixels: Pixels = "raw", **options: Any
    ) -> None:
        super().__init__()
        own = build_options(BaselineOptions, "network", options)
        self.metric_feature = own.metric_feature
        self.backbone = Backbone(own.backbone, image_size, own)
        self.pixel_norm = PixelNorm(pixels, self.backbone.mean, self.backbone.std)
        dim = self.backbone.dim
        self.projection = nn.Sequential()
        if own.projection is not None:
            reduction = nn.Linear(dim, own.projection), nn.BatchNorm1d(own.projection), nn.ReLU()
            self.projection, dim = nn.Sequential(*reduction), own.projection
        self.neck = bn_neck(dim) if own.neck == "bn" else nn.Identity()
        self.cameras = used_cameras(options)
        self.camera_index = CameraIndex(self.cameras)
        if own.camera_norm:
            use_norm(self, self.camera_index)
        if own.camera_embedding:
            use_embedding(self.backbone.trunk, own.camera_embedding, self.camera_index)
        how = (own.classifier, own.scale, own.margin, own.bias)
        self.heads = nn.ModuleDict(
            {f"c{c}": RemapHead(dim, labels.get(c, ()), *how, camera=c) for c in self.cameras}
            if isinstance(labels, Mapping)
            else {"identity": RemapHead(dim, labels, *how)}
        )
        self.widths = dict.fromkeys(self.heads, dim)

    def forward(self, images: Tensor, rows: Rows = None, cameras: Cameras = None) -> ReIDOutput:
        """See `ReIDNetwork.forward`; `features` are after the neck in both modes."""
        with self.camera_index.of(cameras):
            before = self.projection(self.backbone(self.pixel_norm(images)))
            after: Tensor = self.neck(before)
        embedding = before if self.metric_feature == "before" else after
        logits = self.logits(self.parts(after), rows)
        return ReIDOutput(after, {"identity": embedding}, logits, before)

    def parts(self, features: Tensor) -> dict[str, Tensor]:
        """Every head takes all of the features."""
        return dict.fromkeys(self.heads, features)


def bn_neck(dim: int) -> nn.BatchNorm1d:
    """Batch norm with a shift fixed at 0, for the cosine metric after it (Luo et al. 2019)."""
    neck = nn.BatchNorm1d(dim)
    neck.bias.requires_grad_(False)
    return neck
