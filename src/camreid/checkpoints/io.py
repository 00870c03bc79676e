"""Read and write camreid checkpoints."""

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor

from camreid.errors import InputError
from camreid.evaluation.verification import Calibration
from camreid.files import read_plain, write_whole
from camreid.labels import LabelMap
from camreid.models.config import ModelConfig
from camreid.models.network import NETWORKS, build_network
from camreid.models.pixels import Pixels
from camreid.models.reading import require_finite
from camreid.provenance import BROKEN, Provenance, versions
from camreid.runs.folder import RunFolder
from camreid.training.checkpoint_io import read_file
from camreid.training.module import ReIDModule
from camreid.training.resuming import position

_NETWORK = "model."


@dataclass(frozen=True)
class Checkpoint:
    """A camreid checkpoint as read from its file."""

    path: str
    config: ModelConfig
    state: dict[str, Tensor]  # of the network, with the names and shapes that the config gives
    labels: LabelMap  # the identities of its heads: in row order, or camera by camera
    camera_labels: dict[int, LabelMap]  # of each camera's head; empty for heads of all cameras
    provenance: Provenance
    epochs: int  # finished
    batches: int  # of the next epoch, finished
    calibration: Calibration | None  # of the validation of these weights
    notes: dict[str, Any]  # config as text, command, versions, and what else was kept

    def module(self) -> ReIDModule:
        """The model, in evaluation mode on the CPU; InputError if its losses can't be built."""
        try:
            module = ReIDModule(self.config, self.camera_labels or self.labels)
        except Exception as error:
            raise InputError(f"the config of {self.path} builds no model: {error}") from error
        module.model.load_state_dict(self.state)
        module.provenance = replace(self.provenance, inherited=None)  # every row is its own now
        module.calibration = self.calibration
        return module.eval()


def read_checkpoint(path: str | Path, trusted: Iterable[str] = ()) -> Checkpoint:
    """Read a file that a run saved; no code of it is run, and no class that it names is imported.

    Networks are camreid's, or one that `trusted` has by its dotted name. InputError for another
    file, a network that is not trusted, or tensors that are not those of the network.
    """
    content = read_file(path)
    notes = dict(content.get("camreid", {}))
    if "provenance" not in notes:
        raise InputError(f"{path} was written by camreid 0.1; train or import it again.")
    config = _read_config(path, content["hyper_parameters"].get("config"), trusted)
    tensors = content["state_dict"].items()
    state = {k.removeprefix(_NETWORK): v for k, v in tensors if k.startswith(_NETWORK)}
    try:
        provenance = Provenance.from_json(notes.pop("provenance"))
        own, maps = notes.pop("calibration", None), _label_maps(state)
        calibration = Calibration.from_json(own) if own else None
        done = position(content)
        json.dumps(notes, allow_nan=False)
        read_plain(str(notes.get("config")), yaml.safe_load)
    except BROKEN as error:
        raise InputError(f"{path} is no checkpoint that a run wrote: {error}") from error
    cameras = {int(n[1:]): m for n, m in maps.items() if re.fullmatch(r"c\d{1,9}", n)}
    kept = (LabelMap.union(maps.values()), cameras, provenance, *done, calibration, notes)
    checkpoint = Checkpoint(str(path), config, state, *kept)
    if wrong := differing_tensors(state, _network_state(checkpoint)):
        raise InputError(f"{path}: {len(wrong)} tensors do not fit its network: {wrong[:3]}.")
    require_finite(path, state)
    return checkpoint


def decision_notes(checkpoint: Checkpoint) -> dict[str, str]:
    """As JSON: the `calibration`, and the `thresholds` of a run that tests after the neck."""
    file = Path(checkpoint.path).resolve()
    metrics, calibration = RunFolder(file.parent.parent).metrics, checkpoint.calibration
    notes = {"calibration": calibration.to_json()} if calibration else {}
    tested = metrics and (metrics.evaluation.get("neck", "after"), Path(metrics.weights or "").name)
    if metrics and metrics.verification and tested == ("after", file.name):
        notes["thresholds"] = metrics.verification
    return {name: json.dumps(value) for name, value in notes.items()}


def _read_config(path: str | Path, given: Any, trusted: Iterable[str]) -> ModelConfig:
    """The model's config of a file; refuses a network before anything is imported."""
    parts = given if isinstance(given, Mapping) else {}
    named = [parts.get(name) for name in ("network", "loss", "optimizer", "schedule")]
    if not all(isinstance(part, Mapping) for part in named) or "${" in repr(given):
        raise InputError(f"{path} is not a camreid checkpoint: it has no model config.")
    target = given["network"].get("_target_", NETWORKS[0])
    if not isinstance(target, str) or not re.fullmatch(r"[\w.:]+", target):
        raise InputError(f"{path} has a _target_ that names no network.")
    if target not in (*NETWORKS, *trusted):
        found = f"{path} names the network {target}, which is not camreid's"
        raise InputError(f"{found}: it is not imported unless you trust it.", trusted=[target])
    read = ModelConfig.read(given).without_weights()
    # a loss that a file names is not imported either
    return replace(read, loss={k: v for k, v in read.loss.items() if k != "extra"})


def _label_maps(state: Mapping[str, Tensor]) -> dict[str, LabelMap]:
    """The label map of each head; ValueError for pids that are none."""
    pids = {m[1]: v for k, v in state.items() if (m := re.fullmatch(r"heads\.(\w+)\.pids", k))}
    for name, own in pids.items():
        if own.ndim != 1 or own.dtype != torch.int64:
            raise ValueError(f"the pids of its head {name} are not a vector of integers.")
    return {name: LabelMap(tuple(own.tolist())) for name, own in pids.items()}


def _network_state(checkpoint: Checkpoint) -> dict[str, Tensor]:
    """The tensors of the network that the config of a file builds, if possible without memory."""
    config, labels = checkpoint.config, checkpoint.camera_labels or checkpoint.labels
    parts = (config.network, labels, config.image_size, config.pixels)
    for device in ("meta", "cpu"):  # some networks read values of their tensors
        try:
            with torch.device(device):
                return build_network(*parts).state_dict()
        except Exception as error:
            reason = error
    raise InputError(f"the config of {checkpoint.path} builds no network: {reason}") from reason


def differing_tensors(first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> list[str]:
    """Names of tensors that only one of two networks has, or in another shape or kind."""
    kinds = [{(k, t.shape, t.is_floating_point()) for k, t in s.items()} for s in (first, second)]
    return sorted({name for name, *_ in kinds[0] ^ kinds[1]})


def load(path: str | Path, trusted: Iterable[str] = (), pixels: Pixels | None = None) -> ReIDModule:
    """The model of a checkpoint, in evaluation mode on the CPU; see `read_checkpoint`.

    `pixels` declares what the model will be given, `raw` or `imagenet` (already normalised);
    None means the `model.pixels` of its training.
    """
    read = read_checkpoint(path, trusted)
    return replace(read, config=replace(read.config, pixels=pixels or read.config.pixels)).module()


def save(module: ReIDModule, path: str | Path, notes: Mapping[str, Any] | None = None) -> None:
    """Write a module as a checkpoint that `load` reads, with primitives as notes on its origin."""
    content: dict[str, Any] = {
        "state_dict": module.state_dict(),
        "hyper_parameters": dict(module.hparams),
        "pytorch-lightning_version": versions()["pytorch-lightning"],
    }
    module.on_save_checkpoint(content)
    content["camreid"].update(notes or {})
    write_whole(path, lambda draft: torch.save(content, draft))
