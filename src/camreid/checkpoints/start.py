"""Start a model from the weights of a checkpoint."""

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from camreid.checkpoints.io import Checkpoint
from camreid.errors import InputError
from camreid.labels import LabelMap
from camreid.models.camera_embedding import CameraEmbedding
from camreid.models.camera_norm import CameraNorm
from camreid.models.cameras import CameraOptions
from camreid.models.network import ReIDNetwork
from camreid.training.module import ReIDModule

_HEAD = "heads.identity."


def start_from(module: ReIDModule, checkpoint: Checkpoint) -> None:
    """Start a model from a checkpoint: the trunk as it is, the rows identity by identity.

    With `model.unknown=reinit` the heads stay fresh. Otherwise each identity of both keeps its own
    row, whatever order either side uses; the identities that the checkpoint has no row for are the
    module's `new_identities`. Camera options that the checkpoint lacks start from what it has.

    Raises:
        InputError: the architectures differ.
        HeadMismatch: the checkpoint's rows and identities do not fit together.
    """
    checkpoint = replace(checkpoint, state=_with_cameras(module.model, checkpoint.state))
    heads = module.model.remap_heads()
    own = module.model.state_dict()
    trunk = {k: v for k, v in checkpoint.state.items() if not k.startswith("heads.")}
    _check_trunk(module, checkpoint, trunk, own)
    module.model.load_state_dict({**own, **trunk})
    module.provenance = module.provenance.after("init", {checkpoint.path: checkpoint.provenance})
    if not len(checkpoint.labels) and module.config.unknown != "extend":
        return  # a trunk without rows gets them as a run without init= does
    inherited: dict[str, tuple[int, ...]] = dict.fromkeys(heads, ())
    for name, head in heads.items() if module.config.unknown != "reinit" else ():
        pids = tuple(checkpoint.state[f"heads.{name}.pids"].tolist())
        weight = checkpoint.state[f"heads.{name}.weight"]
        bias = checkpoint.state.get(f"heads.{name}.bias")
        head.take(weight, LabelMap(pids), bias)
        inherited[name] = (head.labels & LabelMap(pids)).pids
    module.provenance = replace(module.provenance, inherited=inherited)


def _with_cameras(network: ReIDNetwork, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state dict with what it lacks for the camera options of a network.

    The statistics of every camera start from the plain ones, embeddings as the network has them,
    and the head of every camera from the one head.
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
    for head in (f"c{camera}" for camera in network.camera_labels):
        if plain and f"heads.{head}.weight" not in state:
            found.update({f"heads.{head}.{key}": value for key, value in plain.items()})
    return found


def _check_trunk(
    module: ReIDModule, checkpoint: Checkpoint, trunk: dict[str, Tensor], own: dict[str, Tensor]
) -> None:
    """Refuse other architectures, heads included by name."""
    cameras, own_cameras = CameraOptions.of(checkpoint.config.network).told, module.model.cameras
    if cameras and list(cameras) != list(own_cameras):
        raise InputError(
            f"init={checkpoint.path} has parameters for the cameras {list(cameras)}, and this run "
            f"builds a model for {list(own_cameras) or 'none'}. Leave model= out to take the "
            f"checkpoint's own, or type model.network.cameras={list(cameras)} with its camera "
            "options; images of other cameras are then treated as of an unknown one."
        )
    theirs = {k: tuple(v.shape) for k, v in trunk.items()}
    ours = {k: tuple(v.shape) for k, v in own.items() if not k.startswith("heads.")}
    heads = {k for k in checkpoint.state if k.startswith("heads.") and k.endswith(".weight")}
    lacking = {f"heads.{name}.weight" for name in module.model.remap_heads()} - heads
    if theirs == ours and not lacking:
        _check_options(module, checkpoint)
        return
    differing = sorted({k for k in theirs.keys() | ours.keys() if theirs.get(k) != ours.get(k)})
    raise InputError(
        f"init={checkpoint.path} is a {checkpoint.config.name} model and this run builds a "
        f"{module.config.name}: {len(differing) + len(lacking)} tensors differ, such as "
        f"{', '.join([*differing, *sorted(lacking)][:3])}. Type model={checkpoint.config.name} "
        "with the same model.network options, or leave model= out to take the checkpoint's own."
    )


# what changes the features but leaves no trace among the tensors
_TRACELESS = {"stem_padding": 1, "last_stride": None, "pool": "avg"}


def _check_options(module: ReIDModule, checkpoint: Checkpoint) -> None:
    theirs, ours = checkpoint.config.network, module.config.network
    cameras = {"camera_embedding": 0.0} if theirs.get("camera_embedding") else {}
    differing = {
        key: theirs.get(key, usual)
        for key, usual in {**_TRACELESS, **cameras}.items()
        if theirs.get(key, usual) != ours.get(key, usual)
    }
    if differing:
        typed = " ".join(
            f"model.network.{key}={'null' if value is None else value}"
            for key, value in differing.items()
        )
        raise InputError(
            f"init={checkpoint.path} was trained with other model options than this run has. Type "
            f"{typed}, or leave model= out to take the checkpoint's own."
        )
