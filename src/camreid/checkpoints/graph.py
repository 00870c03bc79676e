"""The network of an exported file: its input, its outputs and its test crop."""

import copy
import json
from base64 import b64decode, b64encode
from collections.abc import Mapping
from dataclasses import dataclass, fields
from io import BytesIO
from typing import Any, Literal, get_origin

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn
from torchvision.transforms.v2.functional import pil_to_tensor

from camreid.errors import InputError, require_choice, require_whole
from camreid.evaluation.features import digest_of
from camreid.models.backbone import IMAGENET_MEAN, IMAGENET_STD
from camreid.training.module import ReIDModule

Input = Literal["uint8", "float", "unit", "imagenet"]
_MEAN, _STD = (255 * torch.tensor(x).view(3, 1, 1) for x in (IMAGENET_MEAN, IMAGENET_STD))
# name, range, mean and std of each input: a program feeds (x - mean) / std of x in 0..255
PIXELS: dict[str, tuple[str, str, Any, Any]] = {
    "uint8": ("images", "0..255", 0.0, 1.0),
    "float": ("images_0_255", "0..255", 0.0, 1.0),
    "unit": ("images_0_1", "0..1", 0.0, 255.0),
    "imagenet": ("images_imagenet", "ImageNet's mean and std", _MEAN, _STD),
}


@dataclass(frozen=True)
class GraphOptions:
    """The form of a file; InputError for a value that does not exist."""

    input: Input = "uint8"
    normalize: bool = False
    logits: bool = False
    channels: Literal["rgb", "bgr"] = "rgb"
    precision: Literal["float32", "float16"] = "float32"  # inside; output is float32
    batch: int | Literal["dynamic"] = "dynamic"
    size: Literal["static", "dynamic"] = "static"  # of the images: that of the model, or any

    def __post_init__(self) -> None:
        for field in fields(self):
            if get_origin(field.type) is Literal:
                require_choice(field.name, getattr(self, field.name), field.type)
        if self.batch != "dynamic":
            require_whole("batch", self.batch, least=1)

    def feed(self, pixels: Tensor) -> Tensor:
        """The input (uint8 or float32) that a program makes of (N, 3, H, W) uint8 RGB pixels."""
        mean, std = PIXELS[self.input][2:]
        fed = pixels if self.input == "uint8" else (pixels - mean) / std
        return fed.flip(1) if self.channels == "bgr" else fed


class Graph(nn.Module):
    """A network that takes a program's input and gives a tuple; `outputs` has the names."""

    def __init__(self, module: ReIDModule, options: GraphOptions = GraphOptions()) -> None:
        super().__init__()
        self.network = copy.deepcopy(module.model).float().cpu()
        self.config, self.options = module.config, options
        self.heads = tuple(module.model.heads) if options.logits else ()
        self.outputs = ("features", *(f"logits_{name}" for name in self.heads))
        self.mean, self.std = (nn.Buffer(torch.as_tensor(x)) for x in PIXELS[options.input][2:])
        self.eval()

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """`outputs` of (B, 3, H, W) images, the inverse of `GraphOptions.feed` first."""
        images = images.flip(1) if self.options.channels == "bgr" else images
        return self.raw(images * self.std + self.mean)

    def raw(self, pixels: Tensor) -> tuple[Tensor, ...]:
        """`outputs` of (B, 3, H, W) RGB pixels in 0..255."""
        output = self.network.forward_raw(pixels)
        features = F.normalize(output.features) if self.options.normalize else output.features
        return features, *(output.logits[name] for name in self.heads)

    @torch.inference_mode()
    def evidence(self) -> dict[str, str]:
        """Metadata: the weights, a test crop as PNG in base64, and its (D,) features as JSON."""
        blocks = np.random.RandomState(0).randint(0, 256, (16, 8, 3), np.uint8)
        height, width = self.config.image_size
        crop = Image.fromarray(blocks).resize((width, height), Image.Resampling.NEAREST)
        crop.save(file := BytesIO(), "png")
        return {
            "source": f"{self.config.name}-{digest_of(self.network.state_dict(), {})[:16]}",
            "test_crop": b64encode(file.getvalue()).decode(),
            "test_features": json.dumps(self.raw(pil_to_tensor(crop)[None])[0][0].tolist()),
        }


def read_test(metadata: Mapping[str, str]) -> tuple[Tensor, Tensor]:
    """The test crop (1, 3, H, W) uint8 of a file, and its features (1, D)."""
    crop = Image.open(BytesIO(b64decode(metadata["test_crop"])), formats=["PNG"])
    return pil_to_tensor(crop)[None], torch.tensor([json.loads(metadata["test_features"])]).float()


def compare(output: str, given: Tensor, expected: Tensor, limit: float = 1e-3) -> float:
    """Largest distance of (N, D) vectors as a share of the norm; InputError above the limit."""
    share = float(((given - expected).norm(dim=-1) / expected.norm(dim=-1).clamp(1e-12)).max())
    if not share <= limit:  # NaN is refused, too
        raise InputError(
            f"{output} of PyTorch and file differ by {share:.1e} of their norm, over {limit:g}."
        )
    return share
