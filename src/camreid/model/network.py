"""Images to features to logits: what every architecture has in common, and the strong baseline."""

import inspect
import pkgutil
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor, nn

from camreid.errors import InputError, PixelRangeError
from camreid.labels import LabelMap
from camreid.model.backbone import Backbone, Changes, Pool
from camreid.model.head import Classifier, RemapHead

Pixels = Literal["raw", "imagenet"]


@dataclass(frozen=True)
class ReIDOutput:
    """What a network says of images, in training and in evaluation.

    Attributes:
        features: (B, D), what is compared; not L2-normalised.
        embeddings: metric-loss feature of each head, (B, d).
        logits: of each head, (B, rows).
    """

    features: Tensor
    embeddings: dict[str, Tensor]
    logits: dict[str, Tensor]


class PixelNorm(nn.Module):
    """Normalises raw pixels on the device and refuses any other range on the first batches.

    Args:
        pixels: `raw` for uint8 or float in 0..255; `imagenet` for input that is normalised already.
        mean: (3,) in raw units.
        std: (3,) in raw units.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, pixels: Pixels, mean: Tensor, std: Tensor) -> None:
        super().__init__()
        if pixels not in ("raw", "imagenet"):
            raise InputError(
                f"model.pixels={pixels}: type model.pixels=raw or model.pixels=imagenet."
            )
        self.pixels = pixels
        self.register_buffer("mean", mean.view(1, 3, 1, 1))
        self.register_buffer("std", std.view(1, 3, 1, 1))
        self._checked: set[bool] = set()

    def forward(self, images: Tensor) -> Tensor:
        """Float images as the backbone wants them; `images` (B, 3, H, W) are left as they are."""
        if self.training not in self._checked:
            self._check(images)
            self._checked.add(self.training)
        if self.pixels == "imagenet":
            return images.to(self.mean.dtype)
        return self.normalize(images)

    def normalize(self, images: Tensor) -> Tensor:
        """Raw pixels (B, 3, H, W) as the backbone wants them, whatever was declared."""
        return (images.to(self.mean.dtype) - self.mean) / self.std

    def _check(self, images: Tensor) -> None:
        if images.ndim != 4 or images.shape[1] != 3:
            raise InputError(f"images of shape {tuple(images.shape)}: expected (B, 3, H, W), RGB.")
        if images.numel() == 0:
            return
        if self.pixels == "raw":
            check_raw(images, ", or say that they are normalised already: model.pixels=imagenet")
            return
        low, high = (value.item() for value in images.aminmax())
        if not images.is_floating_point() or max(-low, high) > 20:
            raise PixelRangeError(
                f"{_seen(images)}: model.pixels=imagenet declares (x / 255 - mean) / std, about "
                "-3..3. For raw pixels type model.pixels=raw."
            )


def check_raw(images: Tensor, otherwise: str = "") -> None:
    """Refuse pixels that are not raw, such as scaled or normalised ones.

    Args:
        images: of any shape, not empty.
        otherwise: what else there is to do about it, for the message.

    Raises:
        PixelRangeError: not in 0..255, or float in 0..1.

    >>> check_raw(Tensor([0, 7, 255]))
    """
    low, high = (value.item() for value in images.aminmax())
    # floats within 0..1 are scaled: not even night is that black, but zeros are zeros
    scaled = images.is_floating_point() and 0 < high <= 1
    if not 0 <= low <= high <= 255 or scaled:
        raise PixelRangeError(
            f"{_seen(images)}: expected raw pixels, uint8 or float in 0..255, because the model "
            f"normalises them itself. Feed raw pixels (x * 255 for 0..1){otherwise}."
        )


def _seen(images: Tensor) -> str:
    low, high = (value.item() for value in images.aminmax())
    return f"{str(images.dtype).removeprefix('torch.')} images from {low:.4g} to {high:.4g}"


class ReIDNetwork(nn.Module):
    """What an architecture has.

    Attributes:
        heads: `RemapHead`s by name, over one label map.
        widths: width of the features that each head is given.
    """

    heads: nn.ModuleDict
    widths: dict[str, int]

    def forward(self, images: Tensor, rows: Tensor | None = None) -> ReIDOutput:
        """Features and logits of images.

        Args:
            images: (B, 3, H, W) as `model.pixels` says, raw uint8 or float in 0..255 by default.
            rows: (B,) true rows, for classifiers with a margin; -1 for none.
        """
        raise NotImplementedError

    def parts(self, features: Tensor) -> dict[str, Tensor]:
        """The part of `features` (B, D) that each head's rows are compared with."""
        raise NotImplementedError

    def remap_heads(self) -> dict[str, RemapHead]:
        """The heads by name."""
        return {name: head for name, head in self.heads.items() if isinstance(head, RemapHead)}


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
        pool: see `Backbone`.
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
        pool: Pool = "avg",
        neck: Literal["bn", "none"] = "bn",
        classifier: Classifier = "linear",
        scale: float = 1.0,
        margin: float = 0.0,
        bias: bool = False,
        metric_feature: Literal["before", "after"] = "before",
    ) -> None:
        super().__init__()
        if metric_feature not in ("before", "after"):
            raise InputError("type model.network.metric_feature=before or =after the neck.")
        self.metric_feature = metric_feature
        if neck not in ("bn", "none"):
            raise InputError(f"model.network.neck={neck}: type bn or none.")
        changes = Changes(last_stride, ibn, non_local, stem_padding)
        self.backbone = Backbone(backbone, image_size, pretrained, weights, changes, pool)
        self.pixel_norm = PixelNorm(pixels, self.backbone.mean, self.backbone.std)
        self.neck = bn_neck(self.backbone.dim) if neck == "bn" else nn.Identity()
        head = RemapHead(self.backbone.dim, labels, classifier, scale, margin, bias)
        self.heads = nn.ModuleDict({"identity": head})
        self.widths = {"identity": self.backbone.dim}

    def forward(self, images: Tensor, rows: Tensor | None = None) -> ReIDOutput:
        """See `ReIDNetwork.forward`; `features` are after the neck in both modes."""
        before = self.backbone(self.pixel_norm(images))
        after: Tensor = self.neck(before)
        embedding = before if self.metric_feature == "before" else after
        return ReIDOutput(
            after, {"identity": embedding}, {"identity": self.heads["identity"](after, rows)}
        )

    def parts(self, features: Tensor) -> dict[str, Tensor]:
        """The one head sees all of the features."""
        return {"identity": features}


def bn_neck(dim: int) -> nn.BatchNorm1d:
    """Batch norm whose shift stays 0, so that the cosine after it has meaning (Luo et al. 2019)."""
    neck = nn.BatchNorm1d(dim)
    neck.bias.requires_grad_(False)
    return neck


def build_network(
    config: Mapping[str, Any], labels: LabelMap, image_size: tuple[int, int], pixels: Pixels
) -> ReIDNetwork:
    """The network that a config names by `_target_`, which must be a `ReIDNetwork`."""
    options = dict(config)
    target = str(options.pop("_target_", "camreid.model.Baseline"))
    try:
        network = pkgutil.resolve_name(target)
    except (ImportError, AttributeError, ValueError) as error:
        raise InputError(f"model.network._target_={target} can't be imported: {error}.") from error
    if not (inspect.isclass(network) and issubclass(network, ReIDNetwork)):
        raise InputError(
            f"model.network._target_={target} is no camreid.model.ReIDNetwork; type the dotted "
            "name of a class that is, such as camreid.model.Baseline."
        )
    try:
        inspect.signature(network).bind(labels, image_size, pixels=pixels, **options)
    except TypeError as error:
        raise InputError(f"model.network does not fit {target}: {error}.") from error
    return network(labels, image_size, pixels=pixels, **options)
