"""Camera embedding of transformers: a learnt vector per camera, added to the tokens."""

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from camreid.errors import InputError
from camreid.models.cameras import CameraIndex


class CameraEmbedding(nn.Module):
    """Adds a learnt vector of the image's camera to all tokens: SIE of TransReID (He et al. 2021).

    An image of an unknown camera gets the mean of the vectors. It replaces `norm_pre` of timm's
    transformers, which is behind the position embedding and before the blocks.

    Args:
        dim: width of the tokens.
        factor: lambda, of the vectors.
        cameras: the camera of each image.
        norm: the trunk's `norm_pre`, applied to the sum.

    Attributes:
        table: (C, dim), started from a truncated normal distribution of standard deviation 0.02.
    """

    def __init__(self, dim: int, factor: float, cameras: CameraIndex, norm: nn.Module) -> None:
        super().__init__()
        self.cameras, self.factor, self.norm = cameras, factor, norm
        self.table = nn.Parameter(torch.empty(len(cameras.numbers), dim))
        nn.init.trunc_normal_(self.table, std=0.02)

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, N, dim) of (B, N, dim) tokens."""
        mean = self.table.mean(0, keepdim=True)
        places = self.cameras.places
        # place -1, an unknown camera, is the last row
        rows = mean if places is None else torch.cat((self.table, mean))[places]
        normed: Tensor = self.norm(tokens + self.factor * rows[:, None])
        return normed


def use_camera_embedding(trunk: nn.Module, factor: float, cameras: CameraIndex) -> None:
    """Give a timm transformer a camera embedding, in place, after its weights were loaded.

    Raises:
        InputError: the trunk is no timm VisionTransformer.
    """
    if not isinstance(trunk, VisionTransformer):
        raise InputError(
            f"camera_embedding={factor:g} is for timm's vision transformers, and this backbone is "
            f"a {type(trunk).__name__}.",
            backbone="vit_base_patch16_224.augreg_in21k_ft_in1k",
        )
    trunk.norm_pre = CameraEmbedding(trunk.embed_dim, factor, cameras, trunk.norm_pre)
