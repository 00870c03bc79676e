"""The network of an exported file: from what programs feed to features, in either precision."""

import copy
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from camreid.errors import require_choice, require_whole
from camreid.exported import PIXELS, Channels, Input, draw_crop, feed
from camreid.models.pixels import PixelNorm
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
        self.normalize, self.is_bgr = normalize, options.channels == "bgr"
        self.heads = tuple(module.model.heads) if logits else ()
        self.outputs = ("features", *(f"logits_{name}" for name in self.heads))
        mean, std = (torch.as_tensor(values).view(-1, 1, 1) for values in PIXELS[input])
        self.is_raw = input in ("uint8", "float")
        self.register_buffer("mean", mean)
        self.register_buffer("std", std)
        if options.precision == "float16":
            _halve(self.network)
        self.eval()

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """`outputs` in float32 of (B, 3, H, W)."""
        images = images.flip(1) if self.is_bgr else images
        images = images if self.is_raw else images * self.std + self.mean
        output = self.network.forward_raw(images)
        features = output.features.float()
        features = F.normalize(features) if self.normalize else features
        return features, *(output.logits[name].float() for name in self.heads)

    @torch.inference_mode()
    def test_features(self) -> NDArray[Any]:
        """(D,) of the test crop, where raw uint8 pixels are fed."""
        features: Tensor = self(torch.from_numpy(feed(draw_crop(self.image_size))))[0][0]
        return features.numpy()


def _halve(network: nn.Module) -> None:
    """Compute in float16, but normalise pixels and pool by GeM in float32, which have the range."""
    network.half()
    for part in network.modules():
        if isinstance(part, PixelNorm):
            part.float()
        elif next(part.parameters(recurse=False), None) is not None:
            part.register_forward_pre_hook(lambda _, inputs: tuple(map(_half, inputs)))


def _half(value: Any) -> Any:
    is_float = isinstance(value, Tensor) and value.is_floating_point()
    return value.half() if is_float else value
