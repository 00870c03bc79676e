"""Batch norm by camera: each image is normalised by the statistics of its own camera."""

import torch
import torch.nn.functional as F
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
    or by those of all images where its camera is unknown or untrained. With one camera, or without
    camera numbers, this is plain BatchNorm.

    It is no subclass of torch's BatchNorm, so `trainer.sync_batchnorm` leaves it alone: under DDP,
    each process normalises by its own images, and rank 0's running statistics are kept.

    Args:
        norm: the BatchNorm to replace; its parameters, running statistics and names stay. The
            running statistics of every camera start from them.
        cameras: the camera of each image.

    Attributes:
        camera_mean: (C, dim) running means of the cameras.
        camera_var: (C, dim) running variances, unbiased.
        camera_batches: (C,) number of batches in these; 0 for untrained cameras.
    """

    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor
    camera_mean: Tensor
    camera_var: Tensor
    camera_batches: Tensor

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
        normalised = self._train(features) if self.training else self._evaluate(features)
        activated: Tensor = self.act(self.drop(normalised))
        return activated

    def reset_running_stats(self) -> None:
        """Forget all statistics."""
        for mean in (self.running_mean, self.camera_mean):
            mean.zero_()
        for var in (self.running_var, self.camera_var):
            var.fill_(1)
        for batches in (self.num_batches_tracked, self.camera_batches):
            batches.zero_()

    def _train(self, features: Tensor) -> Tensor:
        normalised, mean, var = self._normalise(features)
        if len(features):
            self._follow(self.num_batches_tracked, self.running_mean, self.running_var, mean, var)
        for place, images in self.cameras.groups.items():
            part, mean, var = self._normalise(features[images])
            batches, means, variances = self.camera_batches, self.camera_mean, self.camera_var
            self._follow(batches[place], means[place], variances[place], mean, var)
            normalised = normalised.index_copy_(0, images, part)
        return normalised

    def _normalise(self, features: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Features by their own statistics, and those: mean and unbiased variance, both (dim,)."""
        mean, var = torch.zeros_like(self.running_mean), torch.zeros_like(self.running_var)
        # with a momentum of 1 the running statistics become those of these features
        out = F.batch_norm(features, mean, var, self.weight, self.bias, True, 1.0, self.eps)
        return out, mean, var

    @torch.no_grad()
    def _follow(
        self, batches: Tensor, running_mean: Tensor, running_var: Tensor, mean: Tensor, var: Tensor
    ) -> None:
        batches += 1
        step = 1 / batches.to(mean) if self.momentum is None else self.momentum
        running_mean.lerp_(mean, step)
        running_var.lerp_(var, step)

    def _evaluate(self, features: Tensor) -> Tensor:
        places, mean, var = self.cameras.places, self.running_mean, self.running_var
        if places is None:
            return F.batch_norm(features, mean, var, self.weight, self.bias, False, 0.0, self.eps)
        trained = ((places >= 0) & (self.camera_batches[places] > 0))[:, None]
        mean = torch.where(trained, self.camera_mean[places], mean)  # (B, dim)
        var = torch.where(trained, self.camera_var[places], var)
        scale = (var + self.eps).rsqrt()
        scale = scale if self.weight is None else scale * self.weight
        shift = -mean * scale if self.bias is None else self.bias - mean * scale
        shape = (*scale.shape, *[1] * (features.ndim - 2))
        return torch.addcmul(shift.view(shape), features, scale.view(shape)).to(features.dtype)


def use_camera_norm(network: nn.Module, cameras: CameraIndex) -> None:
    """Replace every BatchNorm of a network in place, that of the neck included.

    Features after the neck are compared across cameras, and there a camera's offset and spread do
    the most harm. Instance norms stay.

    Raises:
        InputError: there is none.
    """
    norms = [
        (parent, name, child)
        for parent in network.modules()
        for name, child in parent.named_children()
        if isinstance(child, _BatchNorm) and child.running_mean is not None
    ]
    if not norms:
        raise InputError("camera_norm=True: the network has no BatchNorm.", neck="bn")
    for parent, name, child in norms:
        setattr(parent, name, CameraNorm(child, cameras))
