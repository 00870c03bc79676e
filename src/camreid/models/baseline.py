"""The strong baseline: one backbone, one neck, one head."""

from collections.abc import Mapping, Sequence
from typing import Literal

from torch import Tensor, nn

from camreid.errors import InputError, require_whole
from camreid.labels import HeadLabels
from camreid.models.backbone import Backbone, Changes, Pool
from camreid.models.camera_embedding import use_camera_embedding
from camreid.models.camera_norm import use_camera_norm
from camreid.models.cameras import CameraIndex, CameraOptions
from camreid.models.head import Classifier, RemapHead
from camreid.models.network import ReIDNetwork, ReIDOutput, Rows
from camreid.models.pixels import PixelNorm, Pixels


class Baseline(ReIDNetwork):
    """One backbone, one BNNeck, one head: bag of tricks (Luo et al. 2019) and its kin.

    Args:
        labels: the identities, in row order; with `camera_heads` those of each camera.
        image_size: (H, W) in pixels.
        pixels: see `PixelNorm`.
        backbone: a timm model name.
        pretrained: fetch timm's weights for it.
        weights: a file of backbone weights instead.
        last_stride: see `Changes`, as `ibn`, `non_local` and `stem_padding`.
        ibn: see `Changes`.
        non_local: see `Changes`.
        stem_padding: see `Changes`.
        drop_path: see `Backbone`.
        pool: see `Backbone`.
        projection: width that the features are reduced to by a linear layer, batch norm and ReLU
            before the neck, as torchreid's `fc512` models do; None for none.
        neck: `bn`, the BNNeck, or `none`.
        classifier: see `RemapHead`.
        scale: see `RemapHead`.
        margin: see `RemapHead`.
        bias: see `RemapHead`.
        metric_feature: the metric loss sees features `before` or `after` the neck.
        cameras: see `CameraOptions`, as the other options of cameras.
        camera_norm: see `CameraNorm`.
        camera_embedding: see `CameraEmbedding`.
        camera_heads: see `CameraOptions`.
    """

    def __init__(
        self,
        labels: HeadLabels,
        image_size: tuple[int, int],
        *,
        pixels: Pixels = "raw",
        backbone: str,
        pretrained: bool = False,
        weights: str | None = None,
        last_stride: int | None = None,
        ibn: bool = False,
        non_local: bool = False,
        stem_padding: int = 1,
        drop_path: float = 0.0,
        pool: Pool = "avg",
        projection: int | None = None,
        neck: Literal["bn", "none"] = "bn",
        classifier: Classifier = "linear",
        scale: float = 1.0,
        margin: float = 0.0,
        bias: bool = False,
        metric_feature: Literal["before", "after"] = "before",
        cameras: Sequence[int] | None = None,
        camera_norm: bool = False,
        camera_embedding: float = 0.0,
        camera_heads: bool = False,
    ) -> None:
        super().__init__()
        if projection is not None:
            require_whole("model.network.projection", projection, least=1)
        if metric_feature not in ("before", "after"):
            raise InputError("type model.network.metric_feature=before or =after the neck.")
        self.metric_feature = metric_feature
        if neck not in ("bn", "none"):
            raise InputError(f"model.network.neck={neck}: type bn or none.")
        changes = Changes(last_stride, ibn, non_local, stem_padding)
        self.backbone = Backbone(
            backbone, image_size, pretrained, weights, changes, pool, drop_path
        )
        self.pixel_norm = PixelNorm(pixels, self.backbone.mean, self.backbone.std)
        dim = self.backbone.dim if projection is None else projection
        self.projection = (
            nn.Sequential()
            if projection is None
            else nn.Sequential(nn.Linear(self.backbone.dim, dim), nn.BatchNorm1d(dim), nn.ReLU())
        )
        self.neck = bn_neck(dim) if neck == "bn" else nn.Identity()
        options = CameraOptions(cameras, camera_norm, camera_embedding, camera_heads)
        self._add_heads(options, dim, labels, (classifier, scale, margin, bias))

    def _add_heads(
        self,
        options: CameraOptions,
        dim: int,
        labels: HeadLabels,
        how: tuple[Classifier, float, float, bool],
    ) -> None:
        """The heads, and what else is told the cameras; after the trunk and the neck."""
        self.cameras = options.told
        self.camera_index = CameraIndex(self.cameras)
        if options.camera_norm:
            use_camera_norm(self, self.camera_index)
        factor = options.camera_embedding
        if factor:
            use_camera_embedding(self.backbone.trunk, factor, self.camera_index)
        self.heads = nn.ModuleDict(
            {f"c{c}": RemapHead(dim, labels.get(c, ()), *how, camera=c) for c in self.cameras}
            if isinstance(labels, Mapping)
            else {"identity": RemapHead(dim, labels, *how)}
        )
        self.widths = dict.fromkeys(self.heads, dim)

    def forward(
        self, images: Tensor, rows: Rows = None, cameras: Tensor | None = None
    ) -> ReIDOutput:
        """See `ReIDNetwork.forward`; `features` are after the neck in both modes."""
        index = self.camera_index
        with index.of(cameras):
            normalised = index.sort(self.pixel_norm(images))
            before = self.projection(self.backbone(normalised))
            after: Tensor = self.neck(before)
            before, after = index.unsort(before), index.unsort(after)
        embedding = before if self.metric_feature == "before" else after
        logits = self.logits(self.parts(after), rows)
        return ReIDOutput(after, {"identity": embedding}, logits, before)

    def parts(self, features: Tensor) -> dict[str, Tensor]:
        """Every head sees all of the features."""
        return dict.fromkeys(self.heads, features)


def bn_neck(dim: int) -> nn.BatchNorm1d:
    """Batch norm whose shift stays 0, so that the cosine after it has meaning (Luo et al. 2019)."""
    neck = nn.BatchNorm1d(dim)
    neck.bias.requires_grad_(False)
    return neck
