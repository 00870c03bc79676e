"""timm backbones, pooled to one vector an image, with the changes that ReID makes to them."""

from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal, get_args

import timm
import torch
from torch import Tensor, nn

from camreid.errors import InputError

Pool = Literal["avg", "gem"]
_IMAGENET_MEAN, _IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Backbone(nn.Module):
    """A timm model without its classifier: (B, 3, H, W) normalised images to (B, dim).

    Args:
        name: a timm model name, such as `resnet50.tv_in1k`.
        image_size: (H, W) in pixels.
        pretrained: fetch timm's weights.
        weights: a file of weights instead: a state dict, bare or under `state_dict` or `model`,
            with or without `module.`; a classifier in it is left out.
        last_stride: 1 removes the last stage's stride (Luo et al. 2019), ResNets only.
        pool: how a map becomes a vector: `avg`, or `gem`, the generalised mean (Radenovic et al.
            2018) with p = 3. Transformers use their own.

    Attributes:
        dim: width of the features.
        mean: (3,) of the pixels that the weights expect, in 0..255.
        std: (3,) likewise.

    Raises:
        InputError: no such model, weights that can't be had or do not fit, no stride to change.
    """

    def __init__(
        self,
        name: str,
        image_size: tuple[int, int],
        pretrained: bool = False,
        weights: str | None = None,
        last_stride: int | None = None,
        pool: Pool = "avg",
    ) -> None:
        super().__init__()
        if pool not in get_args(Pool):
            raise InputError(f"model.network.pool={pool}: type avg or gem.")
        self.pool = pool
        self.trunk = _create(name, pretrained and weights is None)
        if last_stride not in (None, 1):
            raise InputError(
                f"model.network.last_stride={last_stride}: type 1 to remove the stride of a "
                "ResNet's "
                "last stage, or null to leave it."
            )
        if last_stride == 1:
            remove_last_stride(self.trunk, name)
        if weights is not None:
            load_trunk(self.trunk, weights)
        config = getattr(self.trunk, "pretrained_cfg", {}) or {}
        self.mean = 255 * torch.tensor(config.get("mean", _IMAGENET_MEAN))
        self.std = 255 * torch.tensor(config.get("std", _IMAGENET_STD))
        self.dim = self._width(image_size)

    def forward(self, images: Tensor) -> Tensor:
        """(B, dim): the pooled map, or a transformer's own pooling."""
        features: Tensor = self.trunk.forward_features(images)
        if features.ndim == 4:
            return features.mean((2, 3)) if self.pool == "avg" else gem(features)
        pooled: Tensor = self.trunk.forward_head(features, pre_logits=True)
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


def gem(features: Tensor, p: float = 3.0) -> Tensor:
    """Generalised mean of (B, C, h, w) over the map: (B, C).

    >>> round(gem(torch.tensor([1.0, 2.0]).view(1, 1, 1, 2)).item() ** 3, 3)
    4.5
    """
    return features.clamp(min=1e-6).pow(p).mean((2, 3)).pow(1 / p)


def _create(name: str, pretrained: bool) -> Any:
    if not timm.is_model(name):
        near = get_close_matches(name.split(".")[0], timm.list_models(), n=4)
        raise InputError(
            f"model.network.backbone={name} is no timm model; did you mean "
            f"{', '.join(near) or 'resnet50'}?"
        )
    options = {"num_classes": 0, "global_pool": ""} if _makes_maps(name) else {"num_classes": 0}
    try:
        return timm.create_model(name, pretrained=pretrained, **options)
    except Exception as error:
        if not pretrained:
            raise
        reason = str(error).split(".")[0].strip() or type(error).__name__
        raise InputError(
            f"the pretrained weights of {name} are not in the cache and could not be fetched "
            f"({reason[:200]}). Type model.network.pretrained=false to start from random weights, "
            "or "
            "model.network.weights=FILE for weights that you have; or run once with a connection."
        ) from error


def _makes_maps(name: str) -> bool:
    return not any(family in name for family in ("vit", "deit", "swin", "beit", "eva"))


def remove_last_stride(trunk: nn.Module, name: str = "this backbone") -> None:
    """Let the last stage of a ResNet keep the size of its input, in place.

    Raises:
        InputError: the trunk has no `layer4`, so it is no ResNet.
    """
    stage = getattr(trunk, "layer4", None)
    if not isinstance(stage, nn.Module):
        raise InputError(
            f"model.network.last_stride=1 is for ResNets, and {name} has no layer4; type "
            "model.network.last_stride=null."
        )
    for parent in list(stage.modules()):
        for key, child in list(parent.named_children()):
            if isinstance(child, nn.Conv2d):
                child.stride = (1, 1)
            elif isinstance(child, nn.AvgPool2d):
                setattr(parent, key, nn.Identity())


def load_trunk(trunk: nn.Module, path: str) -> None:
    """Load a file of backbone weights, every key accounted for but the classifier's.

    Raises:
        InputError: no such file, no state dict, or other keys or shapes.
    """
    if not Path(path).is_file():
        raise InputError(f"no weights at model.network.weights={path}; type the path of a file.")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise InputError(
            f"{path} can't be read as weights ({type(error).__name__}); expected a state dict "
            "saved by "
            "torch.save, without pickled code."
        ) from error
    state = _state_dict(content)
    expected = trunk.state_dict()
    state = {k: v for k, v in state.items() if not k.startswith(("fc.", "classifier.", "head."))}
    missing = [k for k in expected if k not in state and not k.endswith("num_batches_tracked")]
    left = [k for k in state if k not in expected or state[k].shape != expected[k].shape]
    if missing or left:
        raise InputError(
            f"{path} does not fit the backbone: {len(missing)} keys are missing "
            f"({', '.join(missing[:3]) or 'none'}) and {len(left)} are left over or of another "
            "shape "
            f"({', '.join(left[:3]) or 'none'}). Choose the model.network.backbone they were made "
            "for."
        )
    trunk.load_state_dict({**expected, **state})


def _state_dict(content: Any) -> dict[str, Tensor]:
    for key in ("state_dict", "model"):
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    if not isinstance(content, Mapping):
        return {}
    tensors = {str(k): v for k, v in content.items() if isinstance(v, Tensor)}
    if tensors and all(k.startswith("module.") for k in tensors):
        return {k.removeprefix("module."): v for k, v in tensors.items()}
    return tensors
