"""Images to features to logits: what every architecture has in common."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch.nn.functional as F
from torch import Tensor, nn

from camreid.errors import InputError, require_choice
from camreid.labels import HeadLabels, LabelMap
from camreid.models.head import RemapHead
from camreid.models.pixels import PixelNorm, Pixels, Size
from camreid.parts import make

Side = Literal["after", "before"]
Rows = Tensor | Mapping[str, Tensor] | None
Cameras = Tensor | None
NETWORKS = ("camreid.models.Baseline", "camreid.models.MGN")  # a checkpoint may name these


@dataclass(frozen=True)
class ReIDOutput:
    """The output of a network, the same in training and in evaluation."""

    features: Tensor  # (B, D), compared at test time: after the neck, not L2-normalised
    embeddings: dict[str, Tensor]  # (B, d) feature of each metric loss
    logits: dict[str, Tensor]  # (B, rows) of each head
    before: Tensor | None = None  # (B, D), before the neck; None where there is no neck


@dataclass(frozen=True)
class FeatureOptions:
    """The features of validation, test and prediction."""

    flip: bool = False  # the mean with the mirror image; FastReID normalises its pixels twice
    normalize: bool = False  # L2-normalised, as cosine distances do anyway
    neck: Side = "after"  # the neck, as in training

    def __post_init__(self) -> None:
        require_choice("neck", self.neck, Side)

    def __call__(
        self, network: Callable[..., ReIDOutput], images: Tensor, output: ReIDOutput | None = None
    ) -> Tensor:
        """(B, D) features of (B, 3, H, W) images; `output` is the network's, where it is known."""
        features = self._of(output or network(images))
        if self.flip:
            features = (features + self._of(network(images.flip(-1)))) / 2
        return F.normalize(features) if self.normalize else features

    def _of(self, output: ReIDOutput) -> Tensor:
        before = None if self.neck == "after" else output.before
        return output.features if before is None else before


class ReIDNetwork(nn.Module):
    """Base of all architectures: `Network(labels, image_size, pixels, **options)`.

    The images have `image_size` (H, W) and are `raw`, or `imagenet` where they are normalised.

    Attributes:
        heads: `RemapHead`s by name: all over one label map, or one per camera, each over its own.
        widths: width of the features of each head.
        cameras: 1-based, that the network tells apart; none by default.
    """

    heads: nn.ModuleDict
    widths: dict[str, int]
    cameras: tuple[int, ...] = ()

    def forward(self, images: Tensor, rows: Rows = None, cameras: Cameras = None) -> ReIDOutput:
        """Features and logits of (B, 3, H, W) images, by default raw, uint8 or float in 0..255.

        Classifiers with a margin use the (B,) true `rows`, -1 for none, of all heads or each.
        `cameras` are (B,) int64, 1-based; None for unknown ones.
        """
        raise NotImplementedError

    def parts(self, features: Tensor) -> dict[str, Tensor]:
        """The part of `features` (B, D) that belongs to each head."""
        raise NotImplementedError

    def logits(self, parts: Mapping[str, Tensor], rows: Rows) -> dict[str, Tensor]:
        """(B, rows) logits of each head of its part of the features."""
        of_heads = rows if isinstance(rows, Mapping) else dict.fromkeys(self.heads, rows)
        return {name: head(parts[name], of_heads[name]) for name, head in self.heads.items()}

    def remap_heads(self) -> dict[str, RemapHead]:
        """The heads by name."""
        return {name: head for name, head in self.heads.items() if isinstance(head, RemapHead)}

    def forward_raw(self, images: Tensor, cameras: Cameras = None) -> ReIDOutput:
        """`forward` of raw pixels, also of a network that was trained on normalised ones."""
        for part in self.modules():
            if isinstance(part, PixelNorm) and part.pixels == "imagenet":
                images = part.normalize(images)
        output: ReIDOutput = self(images, cameras=cameras)
        return output

    @property
    def camera_labels(self) -> dict[int, LabelMap]:
        """The label map of each camera's head; empty where the heads are for all cameras."""
        heads = self.remap_heads().values()
        return {head.camera: head.labels for head in heads if head.camera is not None}

    @property
    def labels(self) -> LabelMap:
        """The identities of all heads: in row order, or camera by camera."""
        return LabelMap.union(head.labels for head in self.remap_heads().values())

    def rows(self, pids: Tensor, cameras: Tensor) -> dict[str, Tensor]:
        """(B,) row in each head of images of (B,) identities and cameras; -1 for none."""
        return {name: head.rows(pids, cameras) for name, head in self.remap_heads().items()}


@contextmanager
def evaluating(network: nn.Module) -> Iterator[None]:
    """Evaluation mode inside the block; afterwards each part has its earlier mode again."""
    modes = {module: module.training for module in network.modules()}
    network.eval()
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode


def build_network(
    config: Mapping[str, Any], labels: HeadLabels, image_size: Size, pixels: Pixels
) -> ReIDNetwork:
    """The network of a config; `_target_` names its class, a `ReIDNetwork`."""
    options = {"_target_": NETWORKS[0], **config}
    if isinstance(labels, Mapping) != bool(options.get("camera_heads")):
        raise InputError("camera_heads=true takes a label map for each camera, false one of all.")
    network: ReIDNetwork = make(ReIDNetwork, options, labels, image_size, pixels=pixels)
    return network
