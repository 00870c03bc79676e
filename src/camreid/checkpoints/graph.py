"""The network of an exported file: from what programs feed to features, in either precision."""

import copy
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.utils import fuse_conv_bn_eval

from camreid.errors import require_choice, require_whole
from camreid.exported import PIXELS, Channels, Input, draw_crop, feed
from camreid.models.backbone import GeM
from camreid.models.network import ReIDNetwork
from camreid.training.module import ReIDModule

Precision = Literal["float32", "float16"]
Size = Literal["static", "dynamic"]


@dataclass(frozen=True)
class GraphOptions:
    """What a program wants of a file; InputError for a value that does not exist."""

    channels: Channels = "rgb"
    precision: Precision = "float32"  # inside; float input and output are float32
    batch: int | Literal["dynamic"] = "dynamic"
    size: Size = "static"  # of the images: that of the model, or any
    input_name: str = "images"

    def __post_init__(self) -> None:
        for name, choices in (("channels", Channels), ("precision", Precision), ("size", Size)):
            require_choice(name, getattr(self, name), choices)
        if self.batch != "dynamic":
            require_whole("batch", self.batch, least=1)


PLAIN = GraphOptions()


class RawNetwork(nn.Module):
    """A network from what programs feed to a tuple of its outputs; `outputs` are their names."""

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        module: ReIDModule,
        normalize: bool = False,
        logits: bool = False,
        input: Input = "uint8",
        options: GraphOptions = PLAIN,
    ) -> None:
        super().__init__()
        self.network = copy.deepcopy(module.model).float().cpu()
        self.image_size = module.config.image_size
        self.normalize, self.input, self.options = normalize, input, options
        self.heads = tuple(module.model.heads) if logits else ()
        self.outputs = ("features", *(f"logits_{name}" for name in self.heads))
        mean, std = (torch.as_tensor(values).view(-1, 1, 1) for values in PIXELS[input])
        self.register_buffer("mean", mean)
        self.register_buffer("std", std)
        self.eval()
        if options.precision == "float16":
            _halve(self.network, torch.zeros(1, 3, *self.image_size))

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """`outputs` in float32 of (B, 3, H, W)."""
        if self.options.channels == "bgr":
            images = images.flip(1)
        if self.input in ("unit", "imagenet"):
            images = images * self.std + self.mean
        output = self.network.forward_raw(images)
        features = output.features.float()
        features = F.normalize(features) if self.normalize else features
        return features, *(output.logits[name].float() for name in self.heads)

    @torch.inference_mode()
    def test_features(self) -> NDArray[Any]:
        """(D,) of the test crop, where raw uint8 pixels are fed."""
        features: Tensor = self(torch.from_numpy(feed(draw_crop(self.image_size))))[0][0]
        return features.numpy()


@torch.no_grad()
def _halve(network: ReIDNetwork, image: Tensor) -> None:
    """Compute in float16 up to the pooling; what follows is small, and subtracts means.

    Batch norms become a part of the convolutions before them: the variances and the epsilon of 1e-5
    are too small for float16. Others stay in float32.
    """
    order: dict[nn.Module, bool] = {}  # as executed: whether a module takes a map or tokens
    made: dict[Tensor, nn.Module] = {}  # by which convolution

    def note(part: nn.Module, inputs: Any) -> None:
        order[part] = inputs[0].numel() > inputs[0].shape[1]
        if isinstance(part, nn.BatchNorm2d):
            order[part] = inputs[0] in made and _fold(made[inputs[0]], part)

    def keep(part: nn.Module, _: Any, output: Tensor) -> None:
        made[output] = part

    hooks = []
    for part in network.modules():
        if next(part.parameters(recurse=False), None) is not None and not isinstance(part, GeM):
            hooks.append(part.register_forward_pre_hook(note))
        if isinstance(part, nn.Conv2d):
            hooks.append(part.register_forward_hook(keep))
    network.forward_raw(image)
    for hook in hooks:
        hook.remove()
    last = max(place for place, is_wide in enumerate(order.values()) if is_wide)
    for place, (part, is_wide) in enumerate(order.items()):
        part.register_forward_pre_hook(_cast)
        if place <= last and (is_wide or not isinstance(part, nn.BatchNorm2d)):
            part.half()


def _fold(conv: Any, norm: Any) -> bool:
    """Move a batch norm into its convolution, in place; True."""
    fused = fuse_conv_bn_eval(conv, norm)
    conv.weight, conv.bias = fused.weight, fused.bias
    for tensor in (norm.bias, norm.running_mean):
        tensor.zero_()
    norm.weight.fill_(1)
    norm.running_var.fill_(1 - norm.eps)
    return True


def _cast(part: nn.Module, inputs: Any) -> Any:
    """The inputs in the precision of the parameters."""
    first, *others = inputs
    kind = next(part.parameters(recurse=False)).dtype
    return first.to(kind) if first.is_floating_point() else first, *others
