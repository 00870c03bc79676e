"""The strong baseline: one backbone, one neck, one head."""

from typing import Literal

from torch import Tensor, nn

from camreid.errors import InputError, require_whole
from camreid.labels import LabelMap
from camreid.model.backbone import Backbone, Changes, Pool
from camreid.model.head import Classifier, RemapHead
from camreid.model.network import ReIDNetwork, ReIDOutput
from camreid.model.pixels import PixelNorm, Pixels


class Baseline(ReIDNetwork):
    """One backbone, one BNNeck, one head: bag of tricks (Luo et al. 2019) and its kin.

    Args:
        labels: the people, in row order.
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
    """

    def __init__(
        self,
        labels: LabelMap,
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
        head = RemapHead(dim, labels, classifier, scale, margin, bias)
        self.heads = nn.ModuleDict({"identity": head})
        self.widths = {"identity": dim}

    def forward(self, images: Tensor, rows: Tensor | None = None) -> ReIDOutput:
        """See `ReIDNetwork.forward`; `features` are after the neck in both modes."""
        before = self.projection(self.backbone(self.pixel_norm(images)))
        after: Tensor = self.neck(before)
        embedding = before if self.metric_feature == "before" else after
        logits = self.heads["identity"](after, rows)
        return ReIDOutput(after, {"identity": embedding}, {"identity": logits}, before)

    def parts(self, features: Tensor) -> dict[str, Tensor]:
        """The one head sees all of the features."""
        return {"identity": features}


def bn_neck(dim: int) -> nn.BatchNorm1d:
    """Batch norm whose shift stays 0, so that the cosine after it has meaning (Luo et al. 2019)."""
    neck = nn.BatchNorm1d(dim)
    neck.bias.requires_grad_(False)
    return neck
