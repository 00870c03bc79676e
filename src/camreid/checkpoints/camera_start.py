"""From the weights of a model without camera options to one that has them."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from camreid.errors import InputError
from camreid.models.camera_embedding import CameraEmbedding
from camreid.models.camera_norm import CameraNorm
from camreid.models.network import ReIDNetwork


def with_cameras(network: ReIDNetwork, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state dict with what a plain one lacks for the camera options of a network.

    The statistics of every camera start from the plain ones, embeddings as the network has them,
    and the head of every camera from the one head, its people to be told. What is there is kept.

    Args:
        network: to be loaded.
        state: of this network, or of the same without some of the options.
    """
    found, own = dict(state), network.state_dict()
    for name, part in network.named_modules():
        if isinstance(part, CameraNorm) and f"{name}.running_mean" in state:
            for key in ("mean", "var"):
                start = state[f"{name}.running_{key}"].expand_as(own[f"{name}.camera_{key}"])
                found.setdefault(f"{name}.camera_{key}", start)
            batches = torch.zeros_like(own[f"{name}.camera_batches"])
            found.setdefault(f"{name}.camera_batches", batches)
        if isinstance(part, CameraEmbedding) and f"{name}.table" not in state:
            found[f"{name}.table"] = own[f"{name}.table"]
            for key in part.norm.state_dict():  # under its own name in a plain trunk
                if f"{name}.{key}" in found:
                    found[f"{name}.norm.{key}"] = found.pop(f"{name}.{key}")
    plain = {k.removeprefix(_HEAD): v for k, v in state.items() if k.startswith(_HEAD)}
    for head in (f"c{camera}" for camera in network.camera_heads()):
        if plain and f"heads.{head}.weight" not in state:
            found.update({f"heads.{head}.{key}": value for key, value in plain.items()})
    return found


def require_cameras(path: str, theirs: Sequence[int], ours: Sequence[int]) -> None:
    """Refuse to give one camera what another has learnt.

    Args:
        path: of the starting weights.
        theirs: cameras that these tell apart; none where they are plain.
        ours: those of the model to be started.

    Raises:
        InputError: the cameras or their order differ.
    """
    if theirs and list(theirs) != list(ours):
        raise InputError(
            f"init={path} tells the cameras {list(theirs)} apart, and this run builds a model for "
            f"{list(ours) or 'none'}. Leave model= out to take the checkpoint's own, or type "
            f"model.network.cameras={list(theirs)} with the camera options that it has; images of "
            "other cameras are then treated as of an unknown one."
        )


_HEAD = "heads.identity."
