"""Distillation losses: similarities in a batch, and logits of the same identities."""

import torch
import torch.nn.functional as F
from torch import Tensor


def similarity_loss(student: Tensor, target: Tensor, temperature: float) -> Tensor:
    """(B,) KL divergence of the similarities to the other images of a batch, both (B, B).

    Each row without its diagonal becomes a distribution, its softmax at a temperature:
    probabilistic knowledge transfer (Passalis & Tefas 2018) with the softmax of SEED (Fang 2021).
    """
    others = ~torch.eye(len(student), dtype=torch.bool, device=student.device)
    ours, theirs = (m[others].view(len(m), -1) / temperature for m in (student, target))
    return _divergence(ours, theirs)


def logit_loss(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """(B,) KL divergence, times T^2, of softmaxes at T of (B, P) logits (Hinton et al. 2015)."""
    divergence = _divergence(student.float() / temperature, teacher.float() / temperature)
    return divergence * temperature**2


def cosines(features: Tensor) -> Tensor:
    """(B, B) of (B, D) features, at least at single precision, also under autocast."""
    with torch.autocast(features.device.type, enabled=False):
        unit = F.normalize(features.to(torch.promote_types(features.dtype, torch.float32)))
        return unit @ unit.T


def _divergence(ours: Tensor, theirs: Tensor) -> Tensor:
    """(B,) KL divergence of softmax(theirs) from softmax(ours), both (B, N)."""
    pair = ours.log_softmax(1), theirs.log_softmax(1)
    return F.kl_div(*pair, reduction="none", log_target=True).sum(1)
