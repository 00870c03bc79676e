"""What ReID does to timm's ResNets: last stride, instance-batch norm, non-local."""

import torch
from timm.models import ByobNet
from torch import Tensor, nn


class IBN(nn.Module):
    """IBN-a (Pan et al. 2018): instance norm of half of the channels, batch norm of the others."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        first = channels // 2
        self.IN = nn.InstanceNorm2d(first, affine=True)
        self.BN = nn.BatchNorm2d(channels - first)

    def forward(self, features: Tensor) -> Tensor:
        """(B, C, h, w), normalised."""
        first = self.IN.num_features
        return torch.cat((self.IN(features[:, :first]), self.BN(features[:, first:])), dim=1)


class NonLocal(nn.Module):
    """Non-local block of one inner channel, as FastReID's AGW has it (Ye et al. 2021).

    z = x + BN(W y), y_i = theta_i * mean_j(phi_j g_j): without a softmax of the pairwise products,
    y needs no (N, N) matrix. The batch norm starts at 0, so the new block is an identity.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.g, self.theta, self.phi = (nn.Conv2d(channels, 1, 1) for _ in range(3))
        norm = nn.BatchNorm2d(channels)
        nn.init.zeros_(norm.weight)
        self.W = nn.Sequential(nn.Conv2d(1, channels, 1), norm)

    def forward(self, features: Tensor) -> Tensor:
        """(B, C, h, w) plus a mean over its positions."""
        products = (self.phi(features) * self.g(features)).mean((2, 3), keepdim=True)
        weighted: Tensor = self.W(self.theta(features) * products)
        return features + weighted

    def behind(self, block: nn.Module, inputs: object, features: Tensor) -> Tensor:
        """As a forward hook of a block."""
        return self.forward(features)


def use_ibn(trunk: nn.Module) -> None:
    """Replace the first norm of every block of stages 1 to 3 by instance-batch norm, in place."""
    for stage in ("layer1", "layer2", "layer3"):
        for block in getattr(trunk, stage):
            block.bn1 = IBN(block.bn1.num_features)


def use_non_local(trunk: nn.Module) -> None:
    """Put non-local blocks behind the last blocks of stages 2 and 3, in place, as FastReID does."""
    for stage in (2, 3):
        blocks = list(getattr(trunk, f"layer{stage}"))
        last = blocks[-2:] if stage == 2 else blocks[-3 if len(blocks) < 23 else -9 :]
        width = getattr(blocks[0], "conv3", blocks[0].conv2).out_channels  # or a basic block
        parts = nn.ModuleList(NonLocal(width) for _ in last)
        trunk.add_module(f"NL_{stage}", parts)
        for block, part in zip(last, parts, strict=True):
            block.register_forward_hook(part.behind)  # a bound method is copied with its model


def remove_last_stride(trunk: nn.Module) -> None:
    """Let the last stage of a ResNet keep the size of its input, in place."""
    last = f"stages.{len(trunk.stages) - 1}" if isinstance(trunk, ByobNet) else "layer4"
    for parent in list(trunk.get_submodule(last).modules()):
        for key, child in list(parent.named_children()):
            if isinstance(child, nn.Conv2d):
                child.stride = (1, 1)
            elif isinstance(child, nn.AvgPool2d):
                setattr(parent, key, nn.Identity())
