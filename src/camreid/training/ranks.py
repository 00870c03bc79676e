"""Losses of a batch that several processes share, as of one process with the whole batch."""

import torch
from torch import Tensor, distributed


def world_size() -> int:
    """Number of training processes."""
    return distributed.get_world_size() if distributed.is_initialized() else 1


def gather(tensor: Tensor) -> Tensor:
    """(W*B, ...): the (B, ...) tensors of W processes, of equal shapes, in the order of ranks.

    Every process must compute the same loss of them: the gradient of its own part is W times as
    large as that of the loss, so that DDP's mean over processes is the gradient of the loss.
    """
    count = world_size()
    if count == 1:
        return tensor
    own = tensor.detach().contiguous()
    parts = [torch.empty_like(own) for _ in range(count)]
    distributed.all_gather(parts, own)
    if tensor.requires_grad:
        parts[distributed.get_rank()] = tensor + (count - 1) * (tensor - own)
    return torch.cat(parts)


def share(count: Tensor) -> Tensor:
    """() weight of a mean over `count` () items; the mean over processes is that of all items."""
    total = count.clone()
    if world_size() > 1:
        distributed.all_reduce(total)
    return world_size() * count / total.clamp(min=1)
