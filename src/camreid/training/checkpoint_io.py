"""A checkpoint file is data: its schema, and the part of it that reaches the trainer."""

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from lightning_fabric.plugins.io import TorchCheckpointIO
from pytorch_lightning.callbacks import Callback, ModelCheckpoint
from pytorch_lightning.trainer.states import TrainerFn
from torch import Tensor

from camreid.errors import InputError
from camreid.models.weights import unreadable

_TYPES: dict[str, tuple[type, ...]] = {
    "epoch": (int,),
    "global_step": (int,),
    "pytorch-lightning_version": (str,),
    "state_dict": (Mapping,),
    "hparams_name": (str, type(None)),
    "hyper_parameters": (Mapping,),
    "loops": (Mapping,),
    "callbacks": (Mapping,),
    "optimizer_states": (list,),
    "lr_schedulers": (list,),
    "MixedPrecision": (Mapping,),  # the gradient scaler
    "camreid": (Mapping,),
}
_WITH_TEXT = (
    "hyper_parameters",
    "callbacks",
    "camreid",
    "hparams_name",
    "pytorch-lightning_version",
)
_DEPTH = 32  # of nested containers


def check_content(path: str | Path, content: Mapping[Any, Any]) -> dict[str, Any]:
    """The known keys of a checkpoint file; every value has its type and is plain.

    Plain are numbers, None, tensors, and lists, tuples and mappings of plain values; text is plain
    in the hyperparameters, the callback states and camreid's own record only.

    Args:
        path: of the file, for the message.
        content: as read with `weights_only=True`.

    Raises:
        InputError: names the key.
    """
    known = {key: content[key] for key in _TYPES if key in content}
    for key, value in known.items():
        if not isinstance(value, _TYPES[key]) or isinstance(value, bool):
            raise _fault(path, key, f"a value of type {type(value).__name__}")
        unexpected = _unexpected(value, key in _WITH_TEXT, _DEPTH, set())
        if unexpected:
            raise _fault(path, key, unexpected)
    state = known.get("state_dict", {})
    if not all(isinstance(k, str) and isinstance(v, Tensor) for k, v in state.items()):
        raise _fault(path, "state_dict", "more than tensors by name")
    if not re.match(r"\d+(\.\d+)+", known.get("pytorch-lightning_version", "2.0")):
        raise _fault(path, "pytorch-lightning_version", "no version")
    for key in ("optimizer_states", "lr_schedulers"):
        if not all(isinstance(state, Mapping) for state in known.get(key, ())):
            raise _fault(path, key, "a state that is not a mapping")
    if not isinstance(known.get("camreid", {}).get("teachers", []), list):
        raise _fault(path, "camreid.teachers", "something else than a list")
    return known


def _fault(path: str | Path, key: str, found: str) -> InputError:
    return InputError(f"{path} is not a checkpoint of camreid: its {key} holds {found}.")


def _unexpected(value: object, text: bool, depth: int, visited: set[int]) -> str:
    """The first part of a value that is not plain; empty if there is none."""
    if value is None or isinstance(value, int | float) or (text and isinstance(value, str)):
        return ""
    if isinstance(value, Tensor):
        is_plain = value.layout == torch.strided and not value.is_quantized and not value.is_meta
        return "" if is_plain else "a tensor that is not dense"
    if not isinstance(value, Mapping | list | tuple):
        return f"a value of type {type(value).__name__}"
    if id(value) in visited:
        return ""
    if not depth:
        return f"containers nested deeper than {_DEPTH}"
    if isinstance(value, Mapping) and not all(isinstance(key, str | int) for key in value):
        return "a key that is neither text nor a number"
    items = value.values() if isinstance(value, Mapping) else value
    found = next(filter(None, (_unexpected(v, text, depth - 1, visited) for v in items)), "")
    visited.add(id(value))
    return found


class RunCheckpoints(TorchCheckpointIO):
    """Reads and removes checkpoint files for the trainer of one run.

    Of the callback states in a file, those of this run's callbacks are kept. Paths in them are
    replaced by files of the same name in this run's own folder, or by nothing.

    Args:
        trainer: of the run.
    """

    def __init__(self, trainer: pl.Trainer) -> None:
        self.trainer = trainer

    def load_checkpoint(
        self, path: Any, map_location: Any = "cpu", weights_only: bool | None = None
    ) -> dict[str, Any]:
        """The known keys of a local file; pickled code in it is not run.

        Raises:
            InputError: no file, or not a checkpoint of camreid.
        """
        if not Path(path).is_file():
            raise InputError(f"no checkpoint at {path}.")
        try:
            content = torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:
            raise InputError(f"{path}: {unreadable(path, error)}") from error
        known = check_content(path, content if isinstance(content, Mapping) else {})
        if self.trainer.state.fn == TrainerFn.FITTING:
            for key in ("optimizer_states", "lr_schedulers"):
                if len(known.get(key, ())) != 1:
                    raise _fault(path, key, "not the one state that resuming needs")
        states, callbacks = known.get("callbacks", {}), self.trainer.callbacks  # type: ignore[attr-defined]
        known["callbacks"] = {
            callback.state_key: _restored(path, callback, states[callback.state_key])
            for callback in callbacks
            if callback.state_key in states
        }
        return known

    def remove_checkpoint(self, path: Any) -> None:
        """Remove a file of this run.

        Raises:
            InputError: the path is outside the run's checkpoint folders.
        """
        saving = [c for c in self.trainer.checkpoint_callbacks if isinstance(c, ModelCheckpoint)]
        folders = [Path(c.dirpath).resolve() for c in saving if c.dirpath]
        if Path(path).resolve().parent not in folders:
            raise InputError(f"{path} is not removed: it is not a checkpoint of this run.")
        super().remove_checkpoint(path)


def _restored(path: Any, callback: Callback, state: object) -> dict[str, Any]:
    """A callback's state with paths of this run only."""
    if not isinstance(state, Mapping):
        raise _fault(path, "callbacks", f"no state of {type(callback).__name__}")
    if not isinstance(callback, ModelCheckpoint):
        return {key: _without_paths(value) for key, value in state.items()}
    scores = state.get("best_k_models")
    scores = scores if isinstance(scores, Mapping) else {}
    if not all(isinstance(s, Tensor) and s.numel() == 1 for s in scores.values()):
        raise _fault(path, "callbacks", "a score of ModelCheckpoint that is not a number")
    kept = {own: s for name, s in scores.items() if (own := _own_file(callback, name))}
    restored = {
        **callback.state_dict(),
        "best_model_path": _own_file(callback, state.get("best_model_path")),
        "last_model_path": _own_file(callback, state.get("last_model_path")),
    }
    if kept:
        ordered = sorted(kept, key=lambda own: kept[own].item(), reverse=callback.mode == "max")
        first, last = ordered[0], ordered[-1]
        restored.update(
            best_k_models=kept, best_model_path=first, best_model_score=kept[first],
            kth_best_model_path=last, kth_value=kept[last],
        )  # fmt: skip
    return restored


def _own_file(callback: ModelCheckpoint, path: object) -> str:
    """The file of the same name in the callback's folder; empty if there is none."""
    if not callback.dirpath or not isinstance(path, str) or not Path(path).name:
        return ""
    own = Path(callback.dirpath) / Path(path).name
    is_own = own.is_file() and own.resolve().parent == own.parent.resolve()
    return str(own) if is_own else ""


def _without_paths(value: Any) -> Any:
    """A plain value without absolute paths and addresses."""
    if isinstance(value, str):
        return "" if os.path.isabs(value) or "://" in value else value
    if isinstance(value, Mapping):
        return {_without_paths(k): _without_paths(v) for k, v in value.items()}
    return type(value)(map(_without_paths, value)) if type(value) in (list, tuple) else value
