"""Read and write camreid checkpoints."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from camreid.errors import InputError
from camreid.files import write_whole
from camreid.labels import LabelMap
from camreid.models.config import ModelConfig
from camreid.models.network import NETWORKS
from camreid.models.weights import unreadable
from camreid.provenance import Provenance
from camreid.training.checkpoint_io import check_content
from camreid.training.module import ReIDModule
from camreid.versions import versions

_NETWORK = "model."


@dataclass(frozen=True)
class Checkpoint:
    """A camreid checkpoint as read from its file.

    Attributes:
        path: the file.
        config: the model it was made with.
        state: the network's tensors by name.
        labels: the identities of its heads: in row order, or camera by camera.
        camera_labels: the label map of each camera's head; empty where heads are for all cameras.
        provenance: what the weights were trained on.
        epochs: number of finished epochs.
        notes: config as text, command, versions, and what else was kept.
    """

    path: str
    config: ModelConfig
    state: dict[str, Tensor]
    labels: LabelMap
    camera_labels: dict[int, LabelMap]
    provenance: Provenance
    epochs: int
    notes: dict[str, Any]

    def module(self) -> ReIDModule:
        """The model, in evaluation mode on the CPU.

        Raises:
            InputError: the config and the tensors do not fit together.
        """
        try:
            module = ReIDModule(self.config, self.camera_labels or self.labels)
        except (TypeError, ValueError, AttributeError, RuntimeError) as error:
            raise InputError(f"the config of {self.path} builds no network: {error}") from error
        require_tensors(module, self)
        module.model.load_state_dict(self.state)
        module.provenance = replace(self.provenance, inherited=None)  # every row is its own now
        return module.eval()


def read_checkpoint(path: str | Path, trusted: Collection[str] = ()) -> Checkpoint:
    """Read a file that a run saved; no code of it is run, and no class that it names is imported.

    Args:
        path: of the file.
        trusted: dotted names of networks that the file may have, besides those of camreid.

    Raises:
        InputError: no file, no camreid checkpoint, or a network that is not trusted.
    """
    content = _read_file(Path(path))
    _refuse_foreign(path, content)
    state, parameters = content.get("state_dict"), content.get("hyper_parameters")
    if not isinstance(state, Mapping) or not isinstance(parameters, Mapping):
        raise InputError(
            f"{path} is no camreid checkpoint: it holds {', '.join(map(str, list(content)[:5]))}. "
            "Type a file of a run folder, such as runs/RUN/checkpoints/best.ckpt."
        )
    if "config" not in parameters or "labels" not in parameters:
        raise InputError(
            f"{path} is a Lightning checkpoint, but not of a camreid model. Type a file of a run "
            "folder, such as runs/RUN/checkpoints/best.ckpt."
        )
    content = check_content(path, content)
    state, parameters = content["state_dict"], content["hyper_parameters"]
    config = _read_config(path, parameters, trusted)
    notes = dict(content.get("camreid", {}))
    tensors = {k.removeprefix(_NETWORK): v for k, v in state.items() if k.startswith(_NETWORK)}
    heads = {k.split(".")[1]: v for k, v in tensors.items() if k.endswith(".pids")}
    if any(pids.ndim != 1 or pids.dtype != torch.int64 for pids in heads.values()):
        raise InputError(f"{path} is no checkpoint that a run wrote: its pids are no identities.")
    maps = {name: LabelMap(tuple(pids.tolist())) for name, pids in heads.items()}
    cameras = config.network.get("cameras") if config.network.get("camera_heads") else ()
    camera_labels = {c: maps[f"c{c}"] for c in cameras or () if f"c{c}" in maps}
    labels = LabelMap(tuple(dict.fromkeys(pid for own in maps.values() for pid in own.pids)))
    if "provenance" not in notes:
        raise InputError(f"{path} was written by camreid 0.1; train or import it again.")
    try:
        provenance = Provenance.from_json(notes.pop("provenance"))
    except (InputError, TypeError) as error:
        raise InputError(f"{path} is no checkpoint that a run wrote: {error}") from error
    return Checkpoint(
        path=str(path),
        config=config,
        state=tensors,
        labels=labels,
        camera_labels=camera_labels,
        provenance=provenance,
        epochs=int(content.get("epoch", -1)) + 1,
        notes=notes,
    )


def _read_config(
    path: str | Path, parameters: Mapping[str, Any], trusted: Collection[str]
) -> ModelConfig:
    """The model's config of a file; refuses a network before anything is imported."""
    given, labels = parameters["config"], parameters["labels"]
    lists = list(labels.values()) if isinstance(labels, Mapping) else [labels]
    are_lists = all(isinstance(own, list | tuple) for own in lists)
    if not are_lists or not all(type(p) is int and abs(p) < 2**63 for own in lists for p in own):
        raise InputError(f"{path} is no checkpoint that a run wrote: its labels are no identities.")
    network = given.get("network") if isinstance(given, Mapping) else None
    if not isinstance(network, Mapping) or "${" in repr(given):
        raise InputError(f"{path} is no checkpoint that a run wrote: its config is no model's.")
    target = network.get("_target_", NETWORKS[0])
    if target not in (*NETWORKS, *trusted):
        raise InputError(
            f"{path} names the network {target}, which is not camreid's and is not imported for a "
            f"file. If you trust its code, type ++model.network._target_={target}, or in Python "
            f"trusted=['{target}']."
        )
    try:
        return ModelConfig.read(given).without_weights()
    except (TypeError, AttributeError) as error:
        raise InputError(f"the config of {path} is no model's: {error}.") from error


def require_tensors(module: ReIDModule, checkpoint: Checkpoint) -> None:
    """Refuse tensors whose names, shapes or kinds of number are not those of the network.

    Raises:
        InputError: names one of them.
    """
    theirs, ours = (
        {name: (tuple(t.shape), t.is_floating_point()) for name, t in state.items()}
        for state in (checkpoint.state, module.model.state_dict())
    )
    differing = sorted({k for k in theirs.keys() | ours.keys() if theirs.get(k) != ours.get(k)})
    if differing:
        raise InputError(
            f"{len(differing)} tensors of {checkpoint.path} do not fit its network, such as "
            f"{', '.join(differing[:3])}."
        )


def load(path: str | Path, trusted: Collection[str] = ()) -> ReIDModule:
    """The model of a checkpoint, in evaluation mode on the CPU; see `read_checkpoint`."""
    return read_checkpoint(path, trusted).module()


def save(module: ReIDModule, path: str | Path, notes: Mapping[str, Any] | None = None) -> None:
    """Write a module as a checkpoint that `load`, `init=` and `camreid-evaluate` read.

    Args:
        module: any module, such as an imported one.
        path: the file; written whole or not at all.
        notes: more about its origin, primitives by name.
    """
    content: dict[str, Any] = {
        "state_dict": module.state_dict(),
        "hyper_parameters": dict(module.hparams),
        "pytorch-lightning_version": versions()["pytorch-lightning"],
    }
    module.on_save_checkpoint(content)
    content["camreid"].update(notes or {})
    write_whole(path, lambda draft: torch.save(content, draft))


def _refuse_foreign(path: str | Path, content: Mapping[str, Any]) -> None:
    nested = any(isinstance(content.get(key), Mapping) for key in ("model", "state_dict"))
    bare = bool(content) and all(isinstance(value, Tensor) for value in content.values())
    if (nested and "hyper_parameters" not in content) or bare:
        raise InputError(
            f"{path} is no camreid checkpoint but looks like weights of another program. Type "
            f"camreid-import path={path} model=NAME (source=fastreid, torchreid or timm) first, "
            "and give the checkpoint that it writes."
        )


def _read_file(path: Path) -> dict[str, Any]:
    if path.is_dir():
        raise InputError(
            f"{path} is a folder; type the checkpoint in it, such as "
            f"{path / 'checkpoints' / 'best.ckpt'}."
        )
    if not path.is_file():
        near = sorted(path.parent.glob("*.ckpt")) if path.parent.is_dir() else []
        hint = f" In that folder: {', '.join(p.name for p in near[:5])}." if near else ""
        raise InputError(
            f"no checkpoint at {path}; type the path of a file, such as "
            f"runs/RUN/checkpoints/best.ckpt.{hint}"
        )
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        if "numpy" in str(error) and "scalar" in str(error):
            _refuse_foreign(path, {"model": {}})  # as torchreid's files hold
        raise InputError(
            f"{path} can't be read as a checkpoint: {unreadable(path, error)} A checkpoint is a "
            "file of a run folder, such as runs/RUN/checkpoints/best.ckpt."
        ) from error
    if not isinstance(content, Mapping):
        raise InputError(
            f"{path} holds a {type(content).__name__}, not a checkpoint. Type a file of a run "
            "folder, such as runs/RUN/checkpoints/best.ckpt."
        )
    return dict(content)
