"""A network after training: evaluation mode, raw pixels."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor, nn

from camreid.models.network import ReIDNetwork, ReIDOutput
from camreid.models.pixels import PixelNorm


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


def forward_raw(network: ReIDNetwork, images: Tensor, cameras: Tensor | None = None) -> ReIDOutput:
    """The output for raw pixels, also of a network that was trained on normalised ones.

    Args:
        network: in evaluation mode.
        images: (B, 3, H, W) uint8 or float in 0..255, RGB.
        cameras: (B,) int64, 1-based; None for unknown ones.
    """
    for part in network.modules():
        if isinstance(part, PixelNorm) and part.pixels == "imagenet":
            images = part.normalize(images)
    output: ReIDOutput = network(images, cameras=cameras)
    return output
