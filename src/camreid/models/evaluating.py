"""A network as it is used after training: evaluation mode, raw pixels."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor, nn

from camreid.models.network import ReIDNetwork, ReIDOutput
from camreid.models.pixels import PixelNorm


@contextmanager
def evaluating(network: nn.Module) -> Iterator[None]:
    """Evaluation mode for a while; afterwards every part is in the mode that it was in.

    >>> network = nn.Sequential(nn.Dropout()).train()
    >>> with evaluating(network):
    ...     network.training, network[0].training
    (False, False)
    >>> network.training, network[0].training
    (True, True)
    """
    modes = {module: module.training for module in network.modules()}
    network.eval()
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode


def forward_raw(network: ReIDNetwork, images: Tensor, cameras: Tensor | None = None) -> ReIDOutput:
    """What a network says of raw pixels, also one that was trained on `model.pixels=imagenet`.

    Args:
        network: in evaluation mode.
        images: (B, 3, H, W) uint8 or float in 0..255, RGB.
        cameras: (B,) int64, 1-based; None for unknown ones.
    """
    norm = next((part for part in network.modules() if isinstance(part, PixelNorm)), None)
    if norm is not None and norm.pixels == "imagenet":
        images = norm.normalize(images)
    output: ReIDOutput = network(images, cameras=cameras)
    return output
