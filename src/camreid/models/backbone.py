"""timm backbones, pooled to one vector an image, with the changes that ReID makes to them."""

import re
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, Literal, get_args

import timm
import torch
from torch import Tensor, nn

from camreid.errors import InputError, require_number
from camreid.models.osnet import OSNet
from camreid.models.resnet import remove_last_stride, use_ibn, use_non_local, use_stem_pool
from camreid.models.weights import load_trunk

Pool = Literal["avg", "gem", "gem_learned"]
_IMAGENET_MEAN, _IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Changes:
    """What ReID does to a ResNet; other backbones take none of it.

    Attributes:
        last_stride: 1 removes the last stage's stride (Luo et al. 2019); None leaves it.
        ibn: instance-batch norm in stages 1 to 3 (IBN-a, Pan et al. 2018).
        non_local: non-local blocks in stages 2 and 3 (Ye et al. 2021).
        stem_padding: padding of the stem's max-pool: 1 as torchvision and timm, 0 (and rounding
            up) as FastReID since November 2020.
    """

    last_stride: int | None = None
    ibn: bool = False
    non_local: bool = False
    stem_padding: int = 1

    def __post_init__(self) -> None:
        if self.last_stride not in (None, 1):
            raise InputError(
                f"model.network.last_stride={self.last_stride}: type 1 to remove the stride of a "
                "ResNet's last stage, or null to leave it."
            )
        if self.stem_padding not in (0, 1):
            raise InputError(f"model.network.stem_padding={self.stem_padding}: type 0 or 1.")

    def apply(self, trunk: nn.Module, name: str) -> None:
        """Change a trunk in place; InputError if it is no ResNet."""
        if self == Changes():
            return
        if not isinstance(getattr(trunk, "layer4", None), nn.Module):
            raise InputError(
                f"model.network.last_stride=1, ibn, non_local and stem_padding are for ResNets, "
                f"and {name} has no layer4; type model.network.last_stride=null."
            )
        if self.last_stride == 1:
            remove_last_stride(trunk)
        if self.stem_padding == 0:
            use_stem_pool(trunk, padding=0)
        if self.ibn:
            use_ibn(trunk)
        if self.non_local:
            use_non_local(trunk)


class Backbone(nn.Module):
    """A network without its classifier: (B, 3, H, W) normalised images to (B, dim).

    Args:
        name: a timm model name, such as `resnet50.tv_in1k`, or an OSNet: `osnet_x1_0`,
            `osnet_x0_75`, `osnet_x0_5`, `osnet_x0_25`, `osnet_ibn_x1_0`, `osnet_ain_x1_0`.
        image_size: (H, W) in pixels.
        pretrained: fetch timm's weights.
        weights: a file of weights instead: a state dict, bare or under `state_dict` or `model`,
            with or without `module.`; a classifier in it is left out.
        changes: what is changed of a ResNet.
        pool: how a map becomes a vector: `avg`; `gem`, the generalised mean (Radenovic et al.
            2018) with p = 3; or `gem_learned`. Transformers and OSNets use their own.
        drop_path: rate of stochastic depth, of the last block; 0 for none.

    Attributes:
        dim: width of the features.
        mean: (3,) of the pixels that the weights expect, in 0..255.
        std: (3,) likewise.

    Raises:
        InputError: no such model, weights that can't be had or do not fit, no ResNet to change.
    """

    def __init__(
        self,
        name: str,
        image_size: tuple[int, int],
        pretrained: bool = False,
        weights: str | None = None,
        changes: Changes | None = None,
        pool: Pool = "avg",
        drop_path: float = 0.0,
    ) -> None:
        super().__init__()
        require_number("model.network.drop_path", drop_path, 0, 1)
        if pool not in get_args(Pool):
            raise InputError(f"model.network.pool={pool}: type {', '.join(get_args(Pool))}.")
        self.trunk = _create(name, pretrained and weights is None, image_size, drop_path)
        (changes or Changes()).apply(self.trunk, name)
        if weights is not None:
            load_trunk(self.trunk, weights)
        self.pool = GeM(learned=pool == "gem_learned") if pool != "avg" else None
        config = getattr(self.trunk, "pretrained_cfg", {}) or {}
        self.mean = 255 * torch.tensor(config.get("mean", _IMAGENET_MEAN))
        self.std = 255 * torch.tensor(config.get("std", _IMAGENET_STD))
        self.dim = self._width(image_size)

    def forward(self, images: Tensor) -> Tensor:
        """(B, dim): the pooled map, or a transformer's or OSNet's own pooling."""
        if isinstance(self.trunk, OSNet):
            own: Tensor = self.trunk(images)
            return own
        features: Tensor = self.trunk.forward_features(images)
        if features.ndim == 4:
            pooled: Tensor = features.mean((2, 3)) if self.pool is None else self.pool(features)
        else:
            pooled = self.trunk.forward_head(features, pre_logits=True)
        return pooled

    @torch.no_grad()
    def _width(self, image_size: tuple[int, int]) -> int:
        training = self.training
        self.eval()
        try:
            width = self(torch.zeros(1, 3, *image_size)).shape[1]
        except Exception as error:
            raise InputError(
                f"the backbone does not take images of {image_size[0]}x{image_size[1]} pixels "
                f"({error}); choose another model.image_size=[H,W] or model.network.backbone."
            ) from error
        self.train(training)
        return int(width)


class GeM(nn.Module):
    """Generalised mean of (B, C, h, w) over the map: (B, C).

    Args:
        p: 1 is the mean, infinity the maximum.
        learned: whether p is trained.

    >>> round(GeM()(torch.tensor([1.0, 2.0]).view(1, 1, 1, 2)).item() ** 3, 3)
    4.5
    """

    p: Tensor

    def __init__(self, p: float = 3.0, learned: bool = False) -> None:
        super().__init__()
        if learned:
            self.p = nn.Parameter(torch.tensor([p]))
        else:
            self.register_buffer("p", torch.tensor([p]), persistent=False)

    def forward(self, features: Tensor) -> Tensor:
        """(B, C) of (B, C, h, w)."""
        pooled: Tensor = features.clamp(min=1e-6).pow(self.p).mean((2, 3)).pow(1 / self.p)
        return pooled


def _create(name: str, pretrained: bool, image_size: tuple[int, int], drop_path: float) -> Any:
    osnet = re.fullmatch(r"osnet_(?:(ibn|ain)_)?x(1_0|0_75|0_5|0_25)", name)
    if osnet:
        if pretrained:
            raise InputError(
                f"timm has no weights of {name}; type model.network.pretrained=false, or "
                "model.network.weights=FILE for weights that you have."
            )
        return OSNet(float(osnet[2].replace("_", ".")), osnet[1] or "bn")  # type: ignore[arg-type]
    if not timm.is_model(name):
        near = get_close_matches(name.split(".")[0], timm.list_models(), n=4)
        raise InputError(
            f"model.network.backbone={name} is no timm model; did you mean "
            f"{', '.join(near) or 'resnet50'}?"
        )
    options: dict[str, Any] = {"num_classes": 0}
    if drop_path:
        options["drop_path_rate"] = drop_path
    if _makes_maps(name):
        options["global_pool"] = ""
    elif name.startswith(("vit", "deit")):
        options["img_size"] = image_size
    try:
        return timm.create_model(name, pretrained=pretrained, **options)
    except Exception as error:
        if not pretrained:
            raise
        reason = str(error).split(".")[0].strip() or type(error).__name__
        raise InputError(
            f"the pretrained weights of {name} are not in the cache and could not be fetched "
            f"({reason[:200]}). Type model.network.pretrained=false to start from random weights, "
            "or model.network.weights=FILE for weights that you have; or run once with a "
            "connection."
        ) from error


def _makes_maps(name: str) -> bool:
    return not any(family in name for family in ("vit", "deit", "swin", "beit", "eva"))
