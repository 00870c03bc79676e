"""A checkpoint file is data: its schema, and the parts of it that reach the trainer."""

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
from camreid.files import parts, write_whole
from camreid.models.reading import is_dense, read_content
from camreid.provenance import versions

_TYPES: dict[str, type] = {
    "epoch": int,
    "global_step": int,
    "state_dict": Mapping,
    "hyper_parameters": Mapping,
    "loops": Mapping,
    "callbacks": Mapping,
    "optimizer_states": list,
    "lr_schedulers": list,
    "MixedPrecision": Mapping,  # the gradient scaler
    "current_model_state": Mapping,  # where `state_dict` is an average
    "averaging_state": Mapping,
    "camreid": Mapping,
}
_EXPECTED = "Expected a file of a run folder, such as runs/RUN/checkpoints/best.ckpt."
_LOOPS = ("fit_loop", "validate_loop", "test_loop", "predict_loop")
# how a step is computed: the file may be of another device
_OWN = {"params", "foreach", "fused", "capturable", "differentiable"}


def read_file(path: str | Path) -> dict[str, Any]:
    """The known keys of a local file on the CPU; InputError if it is no camreid checkpoint."""
    path = Path(path)
    if not path.is_file():
        near = sorted(p.name for p in path.parent.glob("*.ckpt"))
        hint = f" In that folder: {', '.join(near[:5])}." if near else ""
        raise InputError(f"no checkpoint at {path}. {_EXPECTED}{hint}")
    content = read_content(path)
    if not isinstance(content, Mapping):
        raise InputError(f"{path} holds a {type(content).__name__}, not a checkpoint. {_EXPECTED}")
    if not content.keys() >= {"state_dict", "hyper_parameters"}:
        keys = ", ".join(map(str, list(content)[:5]))
        raise InputError(
            f"{path} is no camreid checkpoint: it holds {keys}. {_EXPECTED} For weights of "
            "other programs: import them first."
        )
    return check_content(path, content)


def check_content(path: str | Path, content: Mapping[Any, Any]) -> dict[str, Any]:
    """The known keys of a file; InputError names one with another type or a part that is not plain.

    Plain are text, numbers, None, dense tensors, and lists, tuples and mappings of plain values.
    """
    known = {key: content[key] for key in _TYPES if key in content}
    for key, value in known.items():
        is_kind = isinstance(value, _TYPES[key]) and not isinstance(value, bool)
        if found := _unexpected(value) if is_kind else f"a {type(value).__name__}":
            raise _fault(path, key, found)
    state = known.get("state_dict", {}).items()
    if not all(isinstance(k, str) and isinstance(v, Tensor) for k, v in state):
        raise _fault(path, "state_dict", "more than tensors by name")
    return known


def _fault(path: str | Path, key: str, found: str) -> InputError:
    return InputError(f"{path} is not a checkpoint of camreid: its {key} holds {found}.")


def _unexpected(value: object) -> str:
    """The first part of a value that is not plain; empty if there is none."""
    try:
        for part in parts(value):
            if isinstance(part, Mapping) and not all(isinstance(key, str | int) for key in part):
                return "a key that is neither text nor a number"
            if isinstance(part, Tensor) and not is_dense(part):
                return "a tensor that is not dense"
            if not isinstance(part, str | int | float | Tensor | Mapping | list | tuple | None):
                return f"a value of type {type(part).__name__}"
    except ValueError as error:
        return str(error)
    return ""


def conform(where: str, own: Any, value: Any) -> Any:
    """A value of a file in the form of this run's own value; ValueError if it has another form.

    A mapping has the own keys, with the file's values where it has them; a list has the own
    length, a tensor the own shape and layout. Text, and how a step is computed, is the own.
    """
    if isinstance(own, str) or (own is None and isinstance(value, str)):
        return own
    if isinstance(own, Mapping) and isinstance(value, Mapping):
        given = value.keys() - _OWN
        return {
            key: conform(f"{where}.{key}", mine, value[key]) if key in given else mine
            for key, mine in own.items()
        }
    if isinstance(own, list | tuple) and isinstance(value, list | tuple) and len(own) == len(value):
        return type(own)(conform(where, *pair) for pair in zip(own, value, strict=True))
    if _form(own) != _form(value) or isinstance(own, Mapping | list | tuple):
        raise ValueError(f"{where} is {_form(value)}")
    return torch.empty_like(own).copy_(value) if isinstance(own, Tensor) else value


def _form(value: object) -> str:
    if isinstance(value, Tensor):
        return f"a {'float' if value.is_floating_point() else 'whole'} tensor {tuple(value.shape)}"
    return "a number" if type(value) in (int, float) else type(value).__name__


def conform_optimizer(optimizer: torch.optim.Optimizer, content: dict[str, Any]) -> dict[str, Any]:
    """A file's state in the form of the optimizer's: a pre-hook of its `load_state_dict`."""
    is_sgd = isinstance(optimizer, torch.optim.SGD)
    names = ("momentum_buffer",) if is_sgd else ("step", "exp_avg", "exp_avg_sq")
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    own = optimizer.state_dict()
    own["state"] = {
        i: {n: torch.zeros_like(p, device="cpu") if n != "step" else torch.zeros(()) for n in names}
        for i, p in enumerate(parameters)
    }
    return dict(conform("optimizer_states", own, content))


class RunCheckpoints(TorchCheckpointIO):
    """Reads and writes checkpoint files for the trainer of one run, each whole or not at all.

    The states in a file take the form of this run's. Paths in the states of `ModelCheckpoint` are
    replaced by files of the same name in this run's own folder, or by nothing.
    """

    def __init__(self, trainer: pl.Trainer) -> None:
        self.trainer = trainer

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, *_: Any, **__: Any) -> None:
        """Replace a local file; until it is written, the one before stays."""
        write_whole(path, lambda draft: torch.save(checkpoint, draft))

    def load_checkpoint(self, path: Any, *_: Any, **__: Any) -> dict[str, Any]:
        """See `read_file`; InputError also for a file of another run."""
        known = read_file(path)
        if self.trainer.state.fn == TrainerFn.FITTING:
            for key in ("optimizer_states", "lr_schedulers"):
                if len(known.get(key, ())) != 1:
                    raise _fault(path, key, "not the one state that resuming needs")
            if "fit_loop" not in known.get("loops", {}):
                raise _fault(path, "loops", "no state of a training")
        states, callbacks = known.get("callbacks", {}), self.trainer.callbacks  # type: ignore[attr-defined]
        own = {
            "loops": {name: getattr(self.trainer, name).state_dict() for name in _LOOPS},
            "MixedPrecision": self.trainer.precision_plugin.state_dict(),
        }
        try:
            known |= conform("checkpoint", own, known)
            known["callbacks"] = {
                c.state_key: _restored(c, states[c.state_key])
                for c in callbacks
                if c.state_key in states
            }
        except ValueError as error:
            raise InputError(f"{path} does not fit this run: {error}.") from error
        return {**known, "pytorch-lightning_version": versions()["pytorch-lightning"]}


def _restored(callback: Callback, state: Any) -> dict[str, Any]:
    """A callback's state in its own form, with paths of this run."""
    own, name = callback.state_dict(), type(callback).__name__
    if not isinstance(callback, ModelCheckpoint):
        return dict(conform(name, own, state))
    conform(name, {"best_k_models": {}}, state)
    scores = state.get("best_k_models", {})
    scores = conform(name, dict.fromkeys(scores, torch.zeros(())), scores)
    kept = {_own_file(callback, path): scores[path] for path in scores if not scores[path].isnan()}
    kept.pop("", None)
    for key in ("best_model_path", "last_model_path"):
        own[key] = _own_file(callback, state.get(key))
    if kept:
        files = sorted(kept, key=kept.__getitem__, reverse=callback.mode == "max")
        best, worst = files[0], files[-1]
        own.update(
            best_k_models=kept, best_model_path=best, best_model_score=kept[best],
            kth_best_model_path=worst, kth_value=kept[worst],
        )  # fmt: skip
    return own


def _own_file(callback: ModelCheckpoint, path: object) -> str:
    """The file of the same name in the callback's folder; empty if there is none."""
    if not callback.dirpath or not isinstance(path, str) or not Path(path).name:
        return ""
    file = Path(callback.dirpath) / Path(path).name
    is_own = file.is_file() and file.resolve().parent == file.parent.resolve()
    return str(file) if is_own else ""
