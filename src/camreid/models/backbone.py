"""Backbones of timm and OSNet, pooled to one vector per image."""

import re
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, Literal

import timm
import torch
from timm.models import ByobNet
from torch import Tensor, nn

from camreid.errors import InputError
from camreid.models.human import TRUNKS, create_human
from camreid.models.osnet import OSNet
from camreid.models.resnet import remove_last_stride, use_ibn, use_non_local
from camreid.models.weights import load_trunk
from camreid.progress import note

Pool = Literal["avg", "gem", "gem_learned"]
# the options that change a ResNet, with the values that leave it as it is
RESNET = {"last_stride": None, "ibn": False, "non_local": False, "stem_padding": 1}
RESNET |= {"stem_relu": True}
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of 0..1
_OSNET = re.compile(r"osnet_(?:(ibn|ain)_)?x(1_0|0_75|0_5|0_25)")


@dataclass(frozen=True, kw_only=True)
class TrunkOptions:
    """Weights, and changes to a ResNet, of every network."""

    pretrained: bool = False  # timm's weights
    weights: str | None = None  # a file instead
    allow_partial: bool = False  # take weights that do not cover the whole backbone
    ibn: bool = False  # instance-batch norm in stages 1 to 3 (IBN-a, Pan et al. 2018)
    stem_padding: Literal[1, 0] = 1  # 0 and rounding up as FastReID since November 2020


@dataclass(frozen=True, kw_only=True)
class BackboneOptions(TrunkOptions):
    """Pooling, and more changes to a ResNet; other backbones refuse all changes."""

    drop_path: float = 0.0  # stochastic depth of the last block
    pool: Pool = "avg"  # of a map (B, C, h, w); other backbones pool by their head, refuse gem
    last_stride: Literal[1, None] = None  # 1 removes the last stage's stride (Luo et al. 2019)
    non_local: bool = False  # non-local blocks in stages 2 and 3 (Ye et al. 2021)
    stem_relu: bool = True  # False as reid-strong-baseline

    def change(self, trunk: nn.Module, name: str) -> None:
        """Change a ResNet in place."""
        wanted = {key: value for key, value in RESNET.items() if getattr(self, key) != value}
        if isinstance(trunk, ByobNet):  # such as CLIP's ResNets
            wanted.pop("last_stride", None)
        if wanted and not hasattr(trunk, "layer4"):
            given = ", ".join(f"{key}={getattr(self, key)}" for key in wanted)
            raise InputError(f"{given}: {name} is no ResNet, it has no layer4.", **wanted)
        if self.last_stride == 1:
            remove_last_stride(trunk)
        if self.stem_padding == 0:
            trunk.maxpool = nn.MaxPool2d(3, 2, padding=0, ceil_mode=True)
        if not self.stem_relu:
            trunk.act1 = nn.Identity()
        if self.ibn:
            use_ibn(trunk)
        if self.non_local:
            use_non_local(trunk)


class Backbone(nn.Module):
    """A network without its classifier: (B, 3, H, W) normalised images to (B, dim).

    InputError for no such model, weights or option, or not for this image size.

    Args:
        name: of a timm model, such as `resnet50.tv_in1k`; of an OSNet: `osnet_x1_0`, `x0_75`,
            `x0_5` or `x0_25`, `osnet_ibn_x1_0`, `osnet_ain_x1_0`; or for human-pretrained weights:
            `solider_swin_tiny`, `_small` or `_base`, `ics_vit_small` or `_base`.
        image_size: (H, W) in pixels.

    Attributes:
        dim: width of the features.
        mean: (3,) of the pixels that the weights expect, in 0..255; likewise `std`.
    """

    def __init__(
        self, name: str, image_size: tuple[int, int], options: BackboneOptions = BackboneOptions()
    ) -> None:
        super().__init__()
        pool = options.pool
        self.trunk = _create(name, image_size, options)
        _check_patches(name, self.trunk, image_size)
        options.change(self.trunk, name)
        if options.weights is not None:
            load_trunk(self.trunk, options.weights, options.allow_partial)
        self.pool = GeM(learned=pool == "gem_learned") if pool != "avg" else None
        config = getattr(self.trunk, "pretrained_cfg", {}) or {}
        self.mean = 255 * torch.tensor(config.get("mean", IMAGENET_MEAN))
        self.std = 255 * torch.tensor(config.get("std", IMAGENET_STD))
        self._probe(name, image_size)
        if self.pool is not None and not self._has_map:
            raise InputError(f"pool={pool} needs a map (B, C, h, w); {name} has none.", pool="avg")

    def forward(self, images: Tensor) -> Tensor:
        """(B, dim): the pooled map, or the output of the model's own head."""
        features: Tensor = self.trunk.forward_features(images)
        if self.pool is not None:
            features = self.pool(features)
        elif self._has_map:
            features = _single(features).mean((2, 3))
        else:
            features = self.trunk.forward_head(features, pre_logits=True)
        return features

    @torch.no_grad()
    def _probe(self, name: str, image_size: tuple[int, int]) -> None:
        """Set `dim` and `_has_map` from one image."""
        widths = [getattr(self.trunk, key, 0) for key in ("num_features", "head_hidden_size")]
        self.trunk.eval()
        try:
            features = self.trunk.forward_features(torch.zeros(1, 3, *image_size))
            is_map = isinstance(features, Tensor) and features.ndim == 4
            is_map = is_map and getattr(self.trunk, "output_fmt", "NCHW") == "NCHW"
            self._has_map = is_map and features.shape[1] == widths[0]
            head = self.trunk.forward_head
            vector = features if self._has_map else head(features, pre_logits=True)
            if vector.shape[1] not in widths or (vector.ndim != 2 and not self._has_map):
                raise ValueError(f"features {tuple(vector.shape)}, expected (1, {max(widths)})")
        except Exception as error:
            raise _refusal(name, image_size, error) from error
        self.trunk.train()
        self.dim = int(vector.shape[1])


class GeM(nn.Module):
    """Generalised mean of (B, C, h, w) over the map: (B, C) (Radenovic et al. 2018).

    >>> round(GeM()(torch.tensor([1.0, 2.0]).view(1, 1, 1, 2)).item() ** 3, 3)
    4.5
    """

    p: Tensor

    def __init__(self, learned: bool = False) -> None:
        super().__init__()
        if learned:
            self.p = nn.Parameter(torch.tensor([3.0]))
        else:
            self.register_buffer("p", torch.tensor([3.0]), persistent=False)

    def forward(self, features: Tensor) -> Tensor:
        """(B, C) of (B, C, h, w)."""
        features = _single(features)
        pooled: Tensor = features.clamp(min=1e-6).pow(self.p).mean((2, 3)).pow(1 / self.p)
        return pooled


def _single(features: Tensor) -> Tensor:
    # at least single precision: a mean of bfloat16 has three digits
    return features.to(torch.promote_types(features.dtype, torch.float32))


def is_resnet(name: str) -> bool:
    """Whether a backbone has what the options of `RESNET` change; also for an unknown name."""
    with torch.device("meta"):  # without memory
        if timm.is_model(name):
            return hasattr(timm.create_model(name), "layer4")
    return name not in TRUNKS and not _OSNET.fullmatch(name)


def _check_patches(name: str, trunk: nn.Module, image_size: tuple[int, int]) -> None:
    """Refuse images that are not whole patches, unless these overlap: the rest is not seen."""
    patches: Any = getattr(getattr(trunk, "patch_embed", None), "proj", None)
    apart = isinstance(patches, nn.Conv2d) and patches.stride == patches.kernel_size
    sides = patches.stride if apart else (1, 1)
    pairs = list(zip(image_size, sides, strict=True))
    down, up = [max(1, n // k) * k for n, k in pairs], [-(-n // k) * k for n, k in pairs]
    if down != up:
        found = f"image_size={list(image_size)}: {name} takes whole patches of {list(sides)}"
        raise InputError(f"{found}; the nearest sizes: {down} and {up}.", image_size=down)


def _create(name: str, image_size: tuple[int, int], own: BackboneOptions) -> Any:
    pretrained = own.pretrained and own.weights is None
    osnet = _OSNET.fullmatch(name)
    if pretrained and (osnet or name in TRUNKS):
        raise InputError(f"timm has no weights of {name}; set weights=FILE.", pretrained=False)
    if osnet:
        return OSNet(float(osnet[2].replace("_", ".")), osnet[1] or "bn")  # type: ignore[arg-type]
    if name not in TRUNKS and not timm.is_model(name):
        near = get_close_matches(name.split(".")[0], timm.list_models(), n=4) or ["resnet50"]
        raise InputError(f"backbone={name} is no timm model; similar: {', '.join(near)}.")
    options: dict[str, Any] = {"num_classes": 0, "pretrained": pretrained}
    options["drop_path_rate"] = own.drop_path or None  # timm leaves out None
    if pretrained:
        note(f"Loading the pretrained weights of {name}")  # they may have to be fetched
    try:
        if name in TRUNKS:
            return create_human(name, image_size, **options)
        try:
            return timm.create_model(name, img_size=image_size, **options)
        except TypeError:  # most convolutional networks have no image size
            return timm.create_model(name, **options)
    except Exception as error:
        if not pretrained or isinstance(error, TypeError | AssertionError | ValueError):
            raise _refusal(name, image_size, error) from error
        found = f"backbone={name}: its pretrained weights could not be fetched ({_reason(error)})"
        raise InputError(f"{found}; set weights=FILE.", pretrained=False) from error


def _refusal(name: str, image_size: tuple[int, int], error: Exception) -> InputError:
    config = timm.get_pretrained_cfg(name) if timm.is_model(name) else None
    meant = f"; its weights are for {config.input_size[1:]}" if config else ""
    found = f"backbone={name} takes no images of {image_size[0]}x{image_size[1]} pixels"
    return InputError(f"{found} ({_reason(error)}{meant}).", backbone="resnet50.tv_in1k")


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".split("\n")[0].rstrip(": .")[:200]
