"""Batch norm by camera: each image is normalised by the statistics of its own camera."""

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from camreid.errors import InputError
from camreid.models.cameras import CameraIndex


class CameraNorm(nn.Module):
    """Camera-based batch norm (Zhuang et al. 2020): one affine map, statistics of each camera.

    In training, the images of each camera are normalised by their own mean and variance, and the
    running statistics of the camera follow these. Images of an unknown camera, and of one with
    fewer than `CameraIndex.least` images in the batch, are normalised by the whole batch, as in
    plain BatchNorm. In evaluation, an image is normalised by the running statistics of its camera,
    or by those of all images where its camera is unknown or untrained.

    It is no subclass of torch's BatchNorm, so `trainer.sync_batchnorm` leaves it alone: under DDP,
    each process normalises by its own images, and rank 0's running statistics are kept.
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
        # of timm's BatchNormAct2d
        self.drop = getattr(norm, "drop", nn.Identity())
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


def use_camera_norm(network: nn.Module, cameras: CameraIndex) -> None:
    """Replace every BatchNorm of a network in place, that of the neck included.

    Features after the neck are compared across cameras, and there a camera's offset and spread do
    the most harm. Instance norms stay.
    """
    norms = [(name, m) for name, m in network.named_modules() if isinstance(m, _BatchNorm)]
    norms = [(name, norm) for name, norm in norms if norm.running_mean is not None]
    if not norms:
        raise InputError("camera_norm=True: the network has no BatchNorm.", neck="bn")
    for name, norm in norms:
        network.set_submodule(name, CameraNorm(norm, cameras))
