"""Identity and metric losses within each camera."""

from collections.abc import Mapping

from torch import Tensor

from camreid.losses.identity import Smoothing, identity_loss
from camreid.losses.triplet import PairLoss, TripletLoss
from camreid.models.camera_heads import Heads, own_logits


def camera_identity_loss(
    heads: Heads,
    logits: Mapping[str, Tensor],
    rows: Tensor,
    cameras: Tensor,
    smoothing: Smoothing = 0.0,
) -> Tensor:
    """The identity loss among the people of each image's own camera; see `own_logits`.

    It is the mean over the images whose camera has their person; 0 if there are none.
    """
    own, among, rows = own_logits(heads, logits, rows, cameras, "members")
    return identity_loss(own, rows, smoothing, among)


def within_cameras(
    loss: TripletLoss | PairLoss, embeddings: Tensor, pids: Tensor, cameras: Tensor
) -> Tensor:
    """A metric loss that compares images of one camera only.

    Nobody says whether images of two cameras are of one person, so these are neither positives
    nor negatives.

    Args:
        loss: of embeddings and pids.
        embeddings: (B, d).
        pids: (B,).
        cameras: (B,).

    Returns:
        The mean of the cameras' losses, each as often as the images it is the mean of.
    """
    total, count = 0.0 * embeddings.sum(), 0
    for camera in set(cameras.tolist()):
        own = cameras == camera
        terms = loss.terms(pids[own])
        if terms:
            total = total + terms * loss(embeddings[own], pids[own])
            count += terms
    return total / max(1, count)
