"""Batch norm by camera: each image is normalised by the statistics of its own camera."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from camreid.errors import InputError
from camreid.models.cameras import CameraIndex


class CameraNorm(nn.Module):
    """Camera-based batch norm (Zhuang et al. 2020): one affine map, statistics of each camera.

    In training, the images of each camera are normalised by their own mean and variance, which
    its running statistics follow as those of a BatchNorm would. A few images have no statistics of
    a camera to speak of, so those of a camera that has fewer than `CameraIndex.least` in the batch,
    as those of no known camera, are normalised by those of the whole batch, as plain BatchNorm
    does, and leave their camera's running statistics alone. In evaluation, an image is normalised
    by the running statistics of its camera, or by those of all images where its camera is unknown
    or has not been trained on. With one camera, or without camera numbers, this is plain BatchNorm.

    It is no subclass of torch's BatchNorm, so `trainer.sync_batchnorm` leaves it alone: under DDP,
    each process normalises by its own images, and rank 0's running statistics are kept.

    Args:
        norm: what it takes the place of; weights, running statistics and names are those of it.
            The running statistics of every camera start from them.
        cameras: says which images are of which camera.

    Attributes:
        camera_mean: (C, dim) running means of the cameras.
        camera_var: (C, dim) running variances, unbiased.
        camera_batches: (C,) how many batches these have seen; 0 for cameras not trained on.
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
        mean, var, batches = norm.running_mean, norm.running_var, norm.num_batches_tracked
        assert mean is not None
        assert var is not None
        assert batches is not None
        for name, value in (("mean", mean), ("var", var)):
            self.register_buffer(f"running_{name}", value)
        self.register_buffer("num_batches_tracked", batches)
        count = len(cameras.numbers)
        for name, value in (("mean", mean), ("var", var)):
            self.register_buffer(f"camera_{name}", value.repeat(count, 1))
        self.register_buffer("camera_batches", batches.new_zeros(count))
        # of timm's BatchNormAct2d
        self.drop = getattr(norm, "drop", nn.Identity())
        self.act = getattr(norm, "act", nn.Identity())

    def forward(self, features: Tensor) -> Tensor:
        """(B, dim) or (B, dim, h, w), normalised, in the order of `cameras`."""
        normalised = self._train(features) if self.training else self._evaluate(features)
        activated: Tensor = self.act(self.drop(normalised))
        return activated

    def reset_running_stats(self) -> None:
        """Forget all statistics."""
        for mean, var, batches in (
            (self.running_mean, self.running_var, self.num_batches_tracked),
            (self.camera_mean, self.camera_var, self.camera_batches),
        ):
            mean.zero_()
            var.fill_(1)
            batches.zero_()

    def _train(self, features: Tensor) -> Tensor:
        sizes = self.cameras.sizes
        if not len(features):
            return self._normalise(features)[0]  # nothing to follow
        if sizes is None:
            normalised, *whole = self._normalise(features)
            self._follow(*whole)
            return normalised
        slices = torch.split(features, sizes)
        there = [place for place, size in enumerate(sizes[:-1]) if size]
        found = [self._normalise(slices[place]) for place in there]
        parts = [part for part, _, _ in found]
        if found:
            means, variances = (torch.stack([f[i] for f in found]) for i in (1, 2))
            self._follow_cameras(torch.tensor(there, device=means.device), means, variances)
        if sizes[-1]:
            normalised, *whole = self._normalise(features)
            parts.append(normalised[len(normalised) - sizes[-1] :])
        else:
            counts = [size * features[0, 0].numel() for size in sizes if size]
            whole = list(_pooled(means, variances, torch.tensor(counts).to(means)))
        self._follow(*whole)
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def _normalise(self, features: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Features by their own statistics, and those: mean and unbiased variance, both (dim,)."""
        mean, var = torch.zeros_like(self.running_mean), torch.zeros_like(self.running_var)
        # a momentum of 1 leaves the statistics of these features alone
        out = F.batch_norm(features, mean, var, self.weight, self.bias, True, 1.0, self.eps)
        return out, mean, var

    @torch.no_grad()
    def _follow(self, mean: Tensor, var: Tensor) -> None:
        self.num_batches_tracked += 1
        step = 1 / self.num_batches_tracked.to(mean) if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean, step)
        self.running_var.lerp_(var, step)

    @torch.no_grad()
    def _follow_cameras(self, there: Tensor, means: Tensor, variances: Tensor) -> None:
        self.camera_batches[there] += 1
        step = torch.full_like(means[:, :1], self.momentum or 0.0)
        if self.momentum is None:
            step = 1 / self.camera_batches[there, None].to(means)
        for running, found in ((self.camera_mean, means), (self.camera_var, variances)):
            running[there] = running[there].lerp(found, step)

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


def _pooled(means: Tensor, variances: Tensor, counts: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and unbiased variance, (dim,), of groups put together.

    Args:
        means: (G, dim).
        variances: (G, dim), unbiased.
        counts: (G,) values of each group and channel.
    """
    counts = counts[:, None]
    total = counts.sum()
    mean = (counts * means).sum(0) / total
    squares = (counts - 1) * variances + counts * (means - mean).square()
    return mean, squares.sum(0) / (total - 1)


def use_camera_norm(network: nn.Module, cameras: CameraIndex) -> None:
    """Replace every BatchNorm of a network, in place; instance norms stay.

    The neck's too, though the camera-blind classifier behind it could do with one set of
    statistics: the features after the neck are what is compared across cameras, and there a
    camera's offset and spread do the most harm.

    Raises:
        InputError: there is none.
    """
    count = 0
    for parent in list(network.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, _BatchNorm) and child.running_mean is not None:
                setattr(parent, name, CameraNorm(child, cameras))
                count += 1
    if not count:
        raise InputError(
            "model.network.camera_norm=true: the network has no BatchNorm. Type "
            "model.network.neck=bn, or another model.network.backbone."
        )
