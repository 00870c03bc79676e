"""Weights in: reading camreid checkpoints, and starting a model from them, row by person."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from camreid.checkpoints.camera_start import require_cameras, with_cameras
from camreid.checkpoints.foreign.importing import import_weights
from camreid.errors import InputError
from camreid.labels import LabelMap
from camreid.models.camera_heads import CameraHead, known_rows
from camreid.models.cameras import CameraOptions
from camreid.models.config import ModelConfig
from camreid.models.network import NETWORKS
from camreid.models.weights import unreadable
from camreid.training.checkpoint_io import check_content
from camreid.training.module import ReIDModule

__all__ = ["Checkpoint", "import_weights", "load", "read_checkpoint", "save", "start_from"]

_NETWORK = "model."


@dataclass(frozen=True)
class Checkpoint:
    """A camreid checkpoint as read from its file.

    Attributes:
        path: the file.
        config: the model it was made with.
        state: the network's tensors by name.
        labels: the people of its heads, in row order.
        seen: identities that the weights were trained on.
        seen_complete: whether `seen` is everyone; not so after an import without labels.
        images_seen: how many images that were, each as often as it was in a batch; None if that is
            not known, as of imported weights.
        images_trained: how many of them in its own run, without what that started from and without
            teachers; None in files that do not say.
        epochs: how many it has behind it.
        notes: split digest and strategy, config as text, versions, and what else was kept.
    """

    path: str
    config: ModelConfig
    state: dict[str, Tensor]
    labels: LabelMap
    seen: frozenset[int]
    seen_complete: bool
    images_seen: int | None
    images_trained: int | None
    epochs: int
    notes: dict[str, Any]

    def module(self) -> ReIDModule:
        """The model, in evaluation mode on the CPU.

        Raises:
            InputError: the config and the tensors do not fit together.
        """
        try:
            module = ReIDModule(self.config, self.labels)
        except (TypeError, ValueError, AttributeError, RuntimeError) as error:
            raise InputError(f"the config of {self.path} builds no network: {error}") from error
        require_tensors(module, self)
        module.model.load_state_dict(self.state)
        module.seen, module.seen_complete = self.seen, self.seen_complete
        module.images_seen = self.images_seen
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
    people = next((v for k, v in tensors.items() if k.endswith(".pids")), None)
    if people is not None and (people.ndim != 1 or people.dtype != torch.int64):
        raise InputError(f"{path} is no checkpoint that a run wrote: its pids are no identities.")
    labels = LabelMap(tuple(parameters["labels"] if people is None else people.tolist()))
    seen = frozenset(notes.get("seen", labels.pids))
    return Checkpoint(
        path=str(path),
        config=config,
        state=tensors,
        labels=labels,
        seen=seen,
        seen_complete=notes.get("seen_complete", not labels.is_anonymous),
        images_seen=notes.get("images_seen"),
        images_trained=notes.get("images_trained"),
        epochs=int(content.get("epoch", -1)) + 1,
        notes=notes,
    )


def _read_config(
    path: str | Path, parameters: Mapping[str, Any], trusted: Collection[str]
) -> ModelConfig:
    """The model's config of a file; refuses a network before anything is imported."""
    given, labels = parameters["config"], parameters["labels"]
    is_list = isinstance(labels, list | tuple)
    if not is_list or not all(type(pid) is int and abs(pid) < 2**63 for pid in labels):
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
        "pytorch-lightning_version": version("pytorch-lightning"),
    }
    module.on_save_checkpoint(content)
    content["camreid"].update(notes or {})
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f"{path.name}.part")
    torch.save(content, draft)
    draft.replace(path)


def start_from(module: ReIDModule, checkpoint: Checkpoint) -> None:
    """Start a model from a checkpoint: the trunk as it is, the rows person by person.

    With `model.unknown=reinit` the heads stay fresh. Otherwise each person that both know gets
    *their* row, whatever order either side uses. Whoever has no row of the checkpoint's is one of
    the module's `new_people`. Camera options that the checkpoint lacks start from what it has, see
    `with_cameras`; heads per camera keep whom their camera has, until `set_cameras` tells them
    of the new images. Cameras that it has are part of the architecture and stay.

    Raises:
        InputError: the architectures differ.
        HeadMismatch: the checkpoint's rows and people do not fit together.
    """
    checkpoint = replace(checkpoint, state=with_cameras(module.model, checkpoint.state))
    heads = module.model.remap_heads()
    own = module.model.state_dict()
    trunk = {k: v for k, v in checkpoint.state.items() if not k.startswith("heads.")}
    _check_trunk(module, checkpoint, trunk, own)
    module.model.load_state_dict({**own, **trunk})
    module.seen = module.seen | checkpoint.seen
    module.seen_complete = checkpoint.seen_complete
    module.images_seen = checkpoint.images_seen
    module.started_with = checkpoint.labels
    module.started_anonymous = checkpoint.labels.is_anonymous
    module.started_on = str(checkpoint.notes.get("split_overrides", ""))
    if module.config.unknown == "reinit":
        module.new_people = module.labels
    fresh = not len(checkpoint.labels) and module.config.unknown != "extend"
    if module.config.unknown == "reinit" or fresh:
        return  # a trunk without rows gets them as a run without init= does
    for name, head in heads.items():
        pids = tuple(checkpoint.state[f"heads.{name}.pids"].tolist())
        weight = checkpoint.state[f"heads.{name}.weight"]
        bias = checkpoint.state.get(f"heads.{name}.bias")
        module.new_people = head.take(weight, LabelMap(pids), bias)
        if isinstance(head, CameraHead):
            head.take_members(known_rows(checkpoint.state, f"heads.{name}"), LabelMap(pids))


def _refuse_foreign(path: str | Path, content: Mapping[str, Any]) -> None:
    nested = any(isinstance(content.get(key), Mapping) for key in ("model", "state_dict"))
    bare = bool(content) and all(isinstance(value, Tensor) for value in content.values())
    if (nested and "hyper_parameters" not in content) or bare:
        raise InputError(
            f"{path} is no camreid checkpoint but looks like weights of another program. Type "
            f"camreid-import path={path} model=NAME (source=fastreid, torchreid or timm) first, "
            "and give the checkpoint that it writes."
        )


def _check_trunk(
    module: ReIDModule, checkpoint: Checkpoint, trunk: dict[str, Tensor], own: dict[str, Tensor]
) -> None:
    """Refuse other architectures, heads included by name."""
    theirs_told = CameraOptions.of(checkpoint.config.network).told
    require_cameras(checkpoint.path, theirs_told, module.model.cameras)
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
    told = {"camera_embedding": 0.0} if theirs.get("camera_embedding") else {}
    differing = {
        key: theirs.get(key, usual)
        for key, usual in {**_TRACELESS, **told}.items()
        if theirs.get(key, usual) != ours.get(key, usual)
    }
    if differing:
        typed = " ".join(
            f"model.network.{key}={'null' if value is None else value}"
            for key, value in differing.items()
        )
        raise InputError(
            f"init={checkpoint.path} was trained with other features than this run would compute "
            f"from its weights. Type {typed} as it has, or leave model= out to take the "
            "checkpoint's own."
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
