"""Which cameras a network tells apart, their statistics, and a learnt vector of each."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

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
    camera_heads: bool = False  # intra-camera supervision (Zhu et al. 2019)

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

    A camera needs `least` images in a batch for statistics of their own: gradients of groups of 2,
    3 and 4 are about 14, 3 and 1.3 times as large as those of a whole batch.
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
        """(B,) int64 group of each image, 0 for the whole batch, and (1 + C, B) bool members."""
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
        mean, places = self.table.mean(0, keepdim=True), self.cameras.places
        # place -1, an unknown camera, is the last row
        rows = mean if places is None else torch.cat((self.table, mean))[places]
        normed: Tensor = self.norm(tokens + self.factor * rows[:, None])
        return normed


def use_embedding(trunk: nn.Module, factor: float, cameras: CameraIndex) -> None:
    """Give a timm transformer a camera embedding, in place, after its weights were loaded."""
    if not isinstance(trunk, VisionTransformer):
        found = f"camera_embedding={factor:g} is for timm's vision transformers"
        raise InputError(f"{found}.", backbone="vit_base_patch16_224.augreg_in21k_ft_in1k")
    trunk.norm_pre = CameraEmbedding(trunk.embed_dim, factor, cameras, trunk.norm_pre)


class CameraNorm(nn.Module):
    """Camera-based batch norm (Zhuang et al. 2020): one affine map, statistics of each camera.

    Training normalises by the batch's images of the same camera, evaluation by the running
    statistics of the camera. The statistics are those of all images, as in plain BatchNorm, for an
    unknown or untrained camera, and for one with fewer than `CameraIndex.least` in the batch.

    `trainer.sync_batchnorm` leaves it alone: under DDP, rank 0's running statistics are kept.
    """

    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor
    camera_mean: Tensor  # (C, dim)
    camera_var: Tensor  # (C, dim), unbiased
    camera_batches: Tensor  # (C,), 0 for untrained cameras

    def __init__(self, norm: _BatchNorm, cameras: CameraIndex) -> None:
        super().__init__()
        self.cameras, self.eps, self.momentum = cameras, norm.eps, norm.momentum
        self.weight, self.bias = norm.weight, norm.bias
        count = len(cameras.numbers)
        for name in ("mean", "var"):
            running = norm.get_buffer(f"running_{name}")
            self.register_buffer(f"running_{name}", running)
            self.register_buffer(f"camera_{name}", running.repeat(count, 1))
        batches = norm.get_buffer("num_batches_tracked")
        self.register_buffer("num_batches_tracked", batches)
        self.register_buffer("camera_batches", batches.new_zeros(count))
        self.drop = getattr(norm, "drop", nn.Identity())  # of timm's BatchNormAct2d
        self.act = getattr(norm, "act", nn.Identity())

    def forward(self, features: Tensor) -> Tensor:
        """(B, dim) or (B, dim, h, w), normalised."""
        mean, var = self._of_batch(features) if self.training else self._running()
        scale = (var + self.eps).rsqrt() * self.weight
        shift = self.bias - mean * scale
        shape = (*scale.shape, *[1] * (features.ndim - 2))
        normalised = torch.addcmul(shift.view(shape), features, scale.view(shape))
        activated: Tensor = self.act(self.drop(normalised.to(features.dtype)))
        return activated

    def reset_running_stats(self) -> None:
        """Forget all statistics."""
        for name, statistics in self.named_buffers(recurse=False):
            statistics.fill_(1 if name.endswith("var") else 0)

    def _of_batch(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and variance for each image, both (B, dim); the running statistics follow."""
        groups, members = self.cameras.groups(len(features), features.device)
        pixels = features.to(self.running_mean.dtype)[..., None].flatten(2)  # (B, dim, N)
        var, mean = torch.var_mean(pixels, 2, correction=0)
        counts = members.sum(1, keepdim=True)  # (1 + C, 1)
        share = (members.to(mean.dtype) / counts.clamp(min=1))[..., None]  # (1 + C, B, 1)
        means = (share * mean).sum(1)  # (1 + C, dim)
        variances = (share * (var + (mean - means[:, None]).square())).sum(1)
        self._follow(counts, pixels.shape[2], means, variances)
        return means[groups], variances[groups]

    @torch.no_grad()
    def _follow(self, counts: Tensor, pixels: int, means: Tensor, variances: Tensor) -> None:
        seen = counts > 0
        self.num_batches_tracked += seen[0, 0]
        self.camera_batches += seen[1:, 0]
        batches = torch.cat((self.num_batches_tracked[None], self.camera_batches))[:, None]
        step = seen.to(means) * (self.momentum or 1 / batches.clamp(min=1))
        size = counts.to(means) * pixels
        unbiased = variances * size / (size - 1).clamp(min=1)
        for kind, values in (("mean", means), ("var", unbiased)):
            self.get_buffer(f"running_{kind}").lerp_(values[0], step[0])
            self.get_buffer(f"camera_{kind}").lerp_(values[1:], step[1:])

    def _running(self) -> tuple[Tensor, Tensor]:
        """Mean and variance: (B, dim), or (dim,) where no cameras are known."""
        places = self.cameras.places
        if places is None:
            return self.running_mean, self.running_var
        trained = ((places >= 0) & (self.camera_batches[places] > 0))[:, None]
        mean = torch.where(trained, self.camera_mean[places], self.running_mean)
        return mean, torch.where(trained, self.camera_var[places], self.running_var)


def use_norm(network: nn.Module, cameras: CameraIndex) -> None:
    """Replace every BatchNorm in place, the neck's too: features are compared across cameras."""
    norms = [(name, m) for name, m in network.named_modules() if isinstance(m, _BatchNorm)]
    norms = [(name, norm) for name, norm in norms if norm.running_mean is not None]
    if not norms:
        raise InputError("camera_norm=True: the network has no BatchNorm.", neck="bn")
    for name, norm in norms:
        network.set_submodule(name, CameraNorm(norm, cameras))
