"""Which cameras a network tells apart, the camera of each image, and a learnt vector of it."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from camreid.errors import InputError, require_number, require_whole
from camreid.labels import rows_of

# options of a network that need the camera of each image, off by default
OPTIONS = ("camera_norm", "camera_embedding", "camera_heads")


def used_cameras(network: Mapping[str, Any]) -> tuple[int, ...]:
    """The cameras that a network's config tells apart; empty without a camera option.

    >>> used_cameras({"cameras": [1, 3], "camera_norm": True}), used_cameras({"cameras": [1, 3]})
    ((1, 3), ())
    """
    return tuple(network.get("cameras") or ()) if any(map(network.get, OPTIONS)) else ()


@dataclass(frozen=True, kw_only=True)
class CameraOptions:
    """The parts of a network that depend on the camera of an image; off by default.

    Cameras are part of the architecture: an image of another one counts as of an unknown one.
    """

    cameras: Sequence[int] | None = None  # 1-based, in the order of statistics, vectors and heads
    camera_norm: bool = False
    camera_embedding: float = 0.0  # factor of the vectors
    # over the identities of each camera: intra-camera supervision (Zhu et al. 2019)
    camera_heads: bool = False

    def __post_init__(self) -> None:
        require_number("camera_embedding", self.camera_embedding, least=0)
        on, cameras = [name for name in OPTIONS if getattr(self, name)], self.cameras or ()
        if on and not cameras:
            raise InputError(f"{on[0]} needs the cameras of the network.", cameras=[1, 2, 3])
        for camera in cameras:
            require_whole("cameras: a number", camera, least=1)
        if len(set(cameras)) != len(cameras):
            raise InputError(f"cameras={list(cameras)} has a camera twice.")


class CameraIndex:
    """The camera of each image in a forward pass; all parts of a network share one.

    A camera needs `least` images in a batch for statistics of their own. Of two vectors, batch norm
    makes exact opposites, and gradients of groups of 2, 3 and 4 are about 14, 3 and 1.3 times as
    large as those of a whole batch.
    """

    def __init__(self, numbers: Sequence[int], least: int = 4) -> None:
        self.numbers, self.least = tuple(numbers), least
        # (B,) int64 place of each image's camera in `numbers`, -1 for an unknown one
        self.places: Tensor | None = None

    @contextmanager
    def of(self, cameras: Tensor | None) -> Iterator[None]:
        """Set (B,) 1-based cameras, None for unknown ones, for one forward pass."""
        try:
            if cameras is not None and self.numbers:
                self.places = rows_of(torch.tensor(self.numbers), cameras)
            yield
        finally:
            self.places = None

    def groups(self, images: int, device: torch.device) -> tuple[Tensor, Tensor]:
        """(B,) int64 group of each image, and (1 + C, B) bool members of groups with enough.

        Group 0 is the whole batch, the others are cameras.
        """
        places = torch.full((images,), -1, device=device) if self.places is None else self.places
        members = places == torch.arange(-1, len(self.numbers), device=device)[:, None]
        members &= members.sum(1, keepdim=True) >= self.least
        members[0] = False
        groups = members.int().argmax(0)
        members[0] = True
        return groups, members


class CameraEmbedding(nn.Module):
    """Adds a learnt vector of the image's camera to all tokens: SIE of TransReID (He et al. 2021).

    An image of an unknown camera gets the mean of the vectors. It replaces `norm_pre` of timm's
    transformers, which is behind the position embedding and before the blocks.
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
    """Give a timm transformer a camera embedding, in place, after its weights were loaded."""
    if not isinstance(trunk, VisionTransformer):
        found = f"camera_embedding={factor:g} is for timm's vision transformers"
        raise InputError(f"{found}.", backbone="vit_base_patch16_224.augreg_in21k_ft_in1k")
    trunk.norm_pre = CameraEmbedding(trunk.embed_dim, factor, cameras, trunk.norm_pre)
