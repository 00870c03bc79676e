"""A checkpoint file is data: its schema, and the parts of it that reach the trainer."""

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
from camreid.models.weights import is_dense, read_content

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
_LOOPS = ("fit_loop", "validate_loop", "test_loop", "predict_loop")
_DEPTH = 32  # of nested containers


def check_content(path: str | Path, content: Mapping[Any, Any]) -> dict[str, Any]:
    """The known keys of a checkpoint file; every value has its type and is plain.

    Plain are numbers, None, dense tensors, and lists, tuples and mappings of plain values; text is
    plain in the hyperparameters, the callback states and camreid's own record only.

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
        if unexpected := _unexpected(value, key in _WITH_TEXT, _DEPTH, set()):
            raise _fault(path, key, unexpected)
    state = known.get("state_dict", {})
    if not all(isinstance(k, str) and isinstance(v, Tensor) for k, v in state.items()):
        raise _fault(path, "state_dict", "more than tensors by name")
    if not re.match(r"\d+(\.\d+)+", known.get("pytorch-lightning_version", "2.0")):
        raise _fault(path, "pytorch-lightning_version", "no version")
    for key in ("optimizer_states", "lr_schedulers"):
        if not all(isinstance(state, Mapping) for state in known.get(key, ())):
            raise _fault(path, key, "a state that is not a mapping")
    teachers = known.get("camreid", {}).get("teachers", [])
    if not isinstance(teachers, list) or not all(map(_is_teacher, teachers)):
        raise _fault(path, "camreid.teachers", "something else than paths and hashes")
    return known


def _fault(path: str | Path, key: str, found: str) -> InputError:
    return InputError(f"{path} is not a checkpoint of camreid: its {key} holds {found}.")


def _is_teacher(content: object) -> bool:
    texts = ("path", "weights")
    return isinstance(content, Mapping) and all(isinstance(content.get(k), str) for k in texts)


def _unexpected(value: object, text: bool, depth: int, seen: set[int]) -> str:
    """The first part of a value that is not plain; empty if there is none."""
    if value is None or isinstance(value, int | float) or (text and isinstance(value, str)):
        return ""
    if isinstance(value, Tensor):
        return "" if is_dense(value) else "a tensor that is not dense"
    if not isinstance(value, Mapping | list | tuple):
        return f"a value of type {type(value).__name__}"
    if id(value) in seen:
        return ""
    if not depth:
        return f"containers nested deeper than {_DEPTH}"
    if isinstance(value, Mapping) and not all(isinstance(key, str | int) for key in value):
        return "a key that is neither text nor a number"
    items = value.values() if isinstance(value, Mapping) else value
    found = next(filter(None, (_unexpected(v, text, depth - 1, seen) for v in items)), "")
    seen.add(id(value))
    return found


def conform(where: str, own: Any, value: Any) -> Any:
    """A value of a file in the form of this run's own value.

    A mapping has the own keys, with the file's values where it has them; a list has the own
    length, a tensor the own shape. Text is always the own.

    Args:
        where: the name of the value, for the message.
        own: the value of this run.
        value: of the file.

    Raises:
        ValueError: the value has another form.

    >>> conform("loops", {"done": 0, "path": "a"}, {"done": 3, "path": "b", "more": 1})
    {'done': 3, 'path': 'a'}
    """
    if isinstance(own, str):
        return own
    if isinstance(own, Mapping) and isinstance(value, Mapping):
        return {
            key: conform(f"{where}.{key}", mine, value[key]) if key in value else mine
            for key, mine in own.items()
        }
    if isinstance(own, list | tuple) and isinstance(value, list | tuple) and len(own) == len(value):
        return type(own)(conform(where, *pair) for pair in zip(own, value, strict=True))
    if _form(own) != _form(value) or isinstance(own, Mapping | list | tuple):
        raise ValueError(f"{where} is {_form(value)}")
    return value


def _form(value: object) -> str:
    if isinstance(value, Tensor):
        return f"a {'float' if value.is_floating_point() else 'whole'} tensor {tuple(value.shape)}"
    return "a number" if type(value) in (int, float) else type(value).__name__


def conform_optimizer(optimizer: torch.optim.Optimizer, content: dict[str, Any]) -> dict[str, Any]:
    """A file's state in the form of the optimizer's: a pre-hook of its `load_state_dict`."""
    own = {"state": {}, "param_groups": optimizer.state_dict()["param_groups"]}
    found: dict[str, Any] = conform("optimizer_states", own, content)
    for group, mine in zip(found["param_groups"], own["param_groups"], strict=True):
        group["params"] = mine["params"]
    is_sgd, states = isinstance(optimizer, torch.optim.SGD), content.get("state", {})
    for place, parameter in enumerate(p for g in optimizer.param_groups for p in g["params"]):
        if place in states:
            moments = ("momentum_buffer",) if is_sgd else ("exp_avg", "exp_avg_sq")
            mine = dict.fromkeys(moments, torch.zeros_like(parameter))
            mine |= {} if is_sgd else {"step": torch.zeros(())}
            found["state"][place] = conform(f"optimizer_states.{place}", mine, states[place])
    return found


class RunCheckpoints(TorchCheckpointIO):
    """Reads and removes checkpoint files for the trainer of one run.

    Loop and callback states of a file take the form of this run's. Paths of checkpoints in them
    are replaced by files of the same name in this run's own folder, or by nothing.

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
        content = read_content(path)
        known = check_content(path, content if isinstance(content, Mapping) else {})
        if self.trainer.state.fn == TrainerFn.FITTING:
            for key in ("optimizer_states", "lr_schedulers"):
                if len(known.get(key, ())) != 1:
                    raise _fault(path, key, "not the one state that resuming needs")
            if "fit_loop" not in known.get("loops", {}):
                raise _fault(path, "loops", "no state of a training")
        try:
            return {**known, **self._conform(path, known)}
        except ValueError as error:
            raise InputError(f"{path} does not fit this run: {error}.") from error

    def _conform(self, path: Any, known: Mapping[str, Any]) -> dict[str, Any]:
        loops = {name: getattr(self.trainer, name).state_dict() for name in _LOOPS}
        scaler = self.trainer.precision_plugin.state_dict()
        states, callbacks = known.get("callbacks", {}), self.trainer.callbacks  # type: ignore[attr-defined]
        restored = {
            callback.state_key: self._restored(path, callback, states[callback.state_key])
            for callback in callbacks
            if callback.state_key in states
        }
        return {
            "loops": conform("loops", loops, known.get("loops", {})),
            "MixedPrecision": conform("MixedPrecision", scaler, known.get("MixedPrecision", {})),
            "callbacks": restored,
        }

    def remove_checkpoint(self, path: Any) -> None:
        """Remove a file of this run.

        Raises:
            InputError: the path is outside the run's folders of checkpoints.
        """
        callbacks = self.trainer.checkpoint_callbacks
        given = [c.dirpath for c in callbacks if isinstance(c, ModelCheckpoint) and c.dirpath]
        own = Path(self.trainer.default_root_dir) / "checkpoints"
        if Path(path).resolve().parent not in {Path(folder).resolve() for folder in (own, *given)}:
            raise InputError(f"{path} is not removed: it is not a checkpoint of this run.")
        super().remove_checkpoint(path)

    def _restored(self, path: Any, callback: Callback, state: object) -> dict[str, Any]:
        """A callback's state in its own form, with paths of this run."""
        if not isinstance(state, Mapping):
            raise _fault(path, "callbacks", f"no state of {type(callback).__name__}")
        own = callback.state_dict()
        if not isinstance(callback, ModelCheckpoint):
            return {**_without_paths(state), **conform(type(callback).__name__, own, state)}
        scores = state.get("best_k_models")
        scores = scores if isinstance(scores, Mapping) else {}
        for score in scores.values():
            conform("score of ModelCheckpoint", torch.zeros(()), score)
        kept = {name: s for given, s in scores.items() if (name := _own_file(callback, given))}
        restored = {
            **own,
            "best_model_path": _own_file(callback, state.get("best_model_path")),
            "last_model_path": _own_file(callback, state.get("last_model_path")),
        }
        if kept:
            best, worst = (max, min) if callback.mode == "max" else (min, max)
            first, last = (pick(kept, key=lambda name: kept[name].item()) for pick in (best, worst))
            restored.update(
                best_k_models=kept, best_model_path=first, best_model_score=kept[first],
                kth_best_model_path=last, kth_value=kept[last],
            )  # fmt: skip
        return restored


def _own_file(callback: ModelCheckpoint, path: object) -> str:
    """The file of the same name in the callback's folder; empty if there is none."""
    if not callback.dirpath or not isinstance(path, str) or not Path(path).name:
        return ""
    folder, name = Path(callback.dirpath), Path(path).name
    is_own = (folder / name).is_file() and (folder / name).resolve().parent == folder.resolve()
    return str(folder / name) if is_own else ""


def _without_paths(value: Any) -> Any:
    """A plain value without absolute paths and addresses."""
    if isinstance(value, str):
        return "" if os.path.isabs(value) or "://" in value else value
    if isinstance(value, Mapping):
        return {_without_paths(k): _without_paths(v) for k, v in value.items()}
    return type(value)(map(_without_paths, value)) if type(value) in (list, tuple) else value
