"""Start a model from the weights of a checkpoint."""

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from camreid.checkpoints.io import Checkpoint, differing_tensors
from camreid.errors import InputError
from camreid.labels import LabelMap
from camreid.models.backbone import RESNET
from camreid.models.cameras import CameraEmbedding, CameraNorm, used_cameras
from camreid.models.network import ReIDNetwork
from camreid.training.module import ReIDModule

_HEAD = "heads.identity."


def start_from(module: ReIDModule, checkpoint: Checkpoint) -> None:
    """Copy trunk, and rows by identity, from a checkpoint; InputError for another architecture.

    With `unknown=reinit` the heads stay fresh. Otherwise each identity of both keeps its own row,
    whatever order either side uses; the identities that the checkpoint has no row for are the
    module's `new_identities`. Camera options that the checkpoint lacks start from what it has.
    """
    state = _with_cameras(module.model, checkpoint.state)
    _check_network(module, checkpoint, state)
    trunk = {k: v for k, v in state.items() if not k.startswith("heads.")}
    module.model.load_state_dict({**module.model.state_dict(), **trunk})
    module.provenance = module.provenance.after("init", {checkpoint.path: checkpoint.provenance})
    if not len(checkpoint.labels) and module.config.unknown != "extend":
        return  # a trunk without rows gets them as fresh weights do
    heads = module.model.remap_heads()
    inherited: dict[str, tuple[int, ...]] = dict.fromkeys(heads, ())
    for name, head in heads.items() if module.config.unknown != "reinit" else ():
        labels = LabelMap(tuple(state[f"heads.{name}.pids"].tolist()))
        head.take(state[f"heads.{name}.weight"], labels, state.get(f"heads.{name}.bias"))
        inherited[name] = (head.labels & labels).pids
    module.provenance = replace(module.provenance, inherited=inherited)


def _with_cameras(network: ReIDNetwork, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state dict with statistics, embeddings and heads of cameras, from the plain ones."""
    found, own = dict(state), network.state_dict()
    for name, part in network.named_modules():
        if isinstance(part, CameraNorm) and f"{name}.running_mean" in state:
            batches = torch.zeros_like(own[f"{name}.camera_batches"])
            found.setdefault(f"{name}.camera_batches", batches)
            for key in ("mean", "var"):
                start = state[f"{name}.running_{key}"].expand(len(batches), -1)
                found.setdefault(f"{name}.camera_{key}", start)
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


def _check_network(module: ReIDModule, checkpoint: Checkpoint, state: Mapping[str, Tensor]) -> None:
    cameras, own = used_cameras(checkpoint.config.network), module.model.cameras
    if cameras and cameras != own:
        found = f"{checkpoint.path} has parameters for the cameras {list(cameras)}, and this model"
        raise InputError(f"{found} for {list(own) or 'none'}.", cameras=list(cameras))
    differing = differing_tensors(state, module.model.state_dict())
    differing = [name for name in differing if not name.startswith("heads.")]
    needed = {f"heads.{name}.weight" for name in module.model.remap_heads()}
    differing += sorted(needed - state.keys())
    if differing:
        name, path = checkpoint.config.name, checkpoint.path
        found = f"{path} is a {name} model, and this run builds a {module.config.name} model"
        names = f"{len(differing)} tensors differ, such as {', '.join(differing[:3])}"
        raise InputError(f"{found}: {names}. Use its network options.", model=name)
    usual = {"pool": "avg", **RESNET} | ({"camera_embedding": 0.0} if cameras else {})
    networks = (checkpoint.config.network, module.config.network)
    start, run = ({k: network.get(k, v) for k, v in usual.items()} for network in networks)
    if start != run:  # no tensor shows these
        options = {f"network__{k}": v for k, v in start.items() - run.items()}
        raise InputError(f"the network of {checkpoint.path} has other options.", **options)
