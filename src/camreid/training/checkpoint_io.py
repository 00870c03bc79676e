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
from camreid.evaluation.features import digest_of
from camreid.files import parts, write_whole
from camreid.models.reading import is_dense, read_content
from camreid.provenance import versions

_TYPES: dict[str, type] = {
    **dict.fromkeys(("epoch", "global_step"), int),
    **dict.fromkeys(("state_dict", "hyper_parameters", "loops", "callbacks", "camreid"), Mapping),
    **dict.fromkeys(("current_model_state", "averaging_state", "MixedPrecision"), Mapping),
    **dict.fromkeys(("optimizer_states", "lr_schedulers"), list),
}
_EXPECTED = "Expected a file of a run folder, such as runs/RUN/checkpoints/best.ckpt."
_LOOPS = ("fit_loop", "validate_loop", "test_loop", "predict_loop")
_OWN = {"params", "foreach", "fused", "capturable", "differentiable"}  # set for the device


def read_file(path: str | Path) -> dict[str, Any]:
    """The known keys of a local file on the CPU; InputError if it is no camreid checkpoint."""
    if not Path(path).is_file():
        raise InputError(f"no checkpoint at {path}. {_EXPECTED}")
    content = read_content(path)
    keys = [*content] if isinstance(content, Mapping) else [f"a {type(content).__name__}"]
    if not {"state_dict", "hyper_parameters"}.issubset(keys):
        found = f"{path} is no camreid checkpoint: it holds {', '.join(map(str, keys[:5]))}"
        raise InputError(f"{found}. {_EXPECTED} Weights of other programs: import them first.")
    return check_content(path, content)


def check_content(path: str | Path, content: Mapping[Any, Any]) -> dict[str, Any]:
    """The known keys of a file; InputError for another type, or what is no plain value."""
    known = {key: content[key] for key in _TYPES if key in content}
    for key, value in known.items():
        is_kind = isinstance(value, _TYPES[key]) and not isinstance(value, bool)
        found = _unexpected(value) if is_kind else f"a {type(value).__name__}"
        if not found and key == "state_dict":
            named = all(isinstance(k, str) and isinstance(v, Tensor) for k, v in value.items())
            found = "" if named else "more than tensors by name"
        if found:
            raise InputError(f"{path} is not a checkpoint of camreid: its {key} holds {found}.")
    return known


def _unexpected(value: object) -> str:
    """The first part of a value that is not plain; empty if there is none."""
    try:
        for part in parts(value):
            if isinstance(part, Tensor) and not is_dense(part):
                return "a tensor that is not dense"
            if not isinstance(part, str | int | float | Tensor | Mapping | list | tuple | None):
                return f"a value of type {type(part).__name__}"
    except ValueError as error:
        return str(error)
    return ""


def checksum(content: Mapping[str, Any]) -> str:
    """Hash of what a run resumes from, the same before it is saved and after."""
    loops = {name: loop for name, loop in content["loops"].items() if name != "digest"}
    found = [*parts({key: content[key] for key in _TYPES if key in content} | {"loops": loops})]
    sizes = {str(i): len(v) for i, v in enumerate(found) if isinstance(v, Mapping | list | tuple)}
    tensors = {str(i): v for i, v in enumerate(found) if isinstance(v, Tensor)}
    plain = {str(i): repr(v) for i, v in enumerate(found) if str(i) not in {**sizes, **tensors}}
    return digest_of(tensors, plain | {i: f"{n} parts" for i, n in sizes.items()})


def conform(where: str, own: Any, value: Any) -> Any:
    """A value of a file in the form of this run's own value; InputError if it has another form.

    A mapping has the own keys, with the file's values where it has them; a list has the own
    length, a tensor the own shape and layout. Text, and how a step is computed, is the own.
    """
    if isinstance(own, str) or (own is None and isinstance(value, str)):
        return own
    if isinstance(own, Mapping) and isinstance(value, Mapping):
        given = [key for key in own if key in value and key not in _OWN]
        return {**own, **{key: conform(f"{where}.{key}", own[key], value[key]) for key in given}}
    if isinstance(own, list | tuple) and isinstance(value, list | tuple) and len(own) == len(value):
        return type(own)(conform(where, *pair) for pair in zip(own, value, strict=True))
    if _form(own) != _form(value) or isinstance(own, Mapping | list | tuple):
        found = f"{where} is {_form(value)}, and {_form(own)} in this run"
        raise InputError(f"{found}. Type init= in place of resume= for the weights alone.")
    return torch.empty_like(own).copy_(value) if isinstance(own, Tensor) else value


def not_finite(weights: Mapping[str, Tensor]) -> str:
    """The name of the first tensor with NaN or infinity; empty if there is none."""
    return next((name for name, own in weights.items() if not own.isfinite().all()), "")


def _form(value: object) -> str:
    if isinstance(value, Tensor):
        return f"a {'float' if value.is_floating_point() else 'whole'} tensor {tuple(value.shape)}"
    return "a number" if type(value) in (int, float) else type(value).__name__


def conform_optimizer(optimizer: torch.optim.Optimizer, content: dict[str, Any]) -> dict[str, Any]:
    """A file's state in the form of the optimizer's: a pre-hook of its `load_state_dict`."""
    is_sgd = isinstance(optimizer, torch.optim.SGD)
    names = ("momentum_buffer",) if is_sgd else ("exp_avg", "exp_avg_sq")
    step = {} if is_sgd else {"step": torch.zeros(())}
    like = [torch.zeros_like(p, device="cpu") for g in optimizer.param_groups for p in g["params"]]
    own = optimizer.state_dict()
    own["state"] = {i: {**step, **dict.fromkeys(names, p)} for i, p in enumerate(like)}
    return dict(conform("optimizer_states", own, content))


class RunCheckpoints(TorchCheckpointIO):
    """Reads and writes whole files for the trainer of a run, with states in the form of its own."""

    def __init__(self, trainer: pl.Trainer) -> None:
        self.trainer = trainer

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, *_: Any, **__: Any) -> None:
        """Replace a local file; until it is written, the one before stays, also before NaN."""
        if broken := not_finite(checkpoint["state_dict"]):
            found = f"weights such as {broken} are NaN or infinite, as a gradient was"
            raise InputError(f"{found}. {path} is not written. Type a lower model.optimizer.lr=.")
        if "loops" in checkpoint:
            checkpoint["loops"]["digest"] = checksum(checkpoint)
        write_whole(path, lambda draft: torch.save(checkpoint, draft))

    def load_checkpoint(self, path: Any, *_: Any, **__: Any) -> dict[str, Any]:
        """See `read_file`; InputError also for a file of another run."""
        known = read_file(path)
        if self.trainer.state.fn == TrainerFn.FITTING:
            states = [[*map(type, known.get(k, ()))] for k in ("optimizer_states", "lr_schedulers")]
            if states != [[dict], [dict]] or "fit_loop" not in known.get("loops", {}):
                raise InputError(f"{path} holds no state to resume. Type init= for its weights.")
            if known["loops"].get("digest") not in (None, checksum(known)):
                found = f"{path} is not as it was written: its checksum is wrong"
                raise InputError(f"{found}. Copy it again, or type init= for its weights.")
        saved, callbacks = known.get("callbacks", {}), self.trainer.callbacks  # type: ignore[attr-defined]
        held = {c.state_key: c for c in callbacks if c.state_key in saved}
        loops = {name: getattr(self.trainer, name).state_dict() for name in _LOOPS}
        own = {"loops": loops, "MixedPrecision": self.trainer.precision_plugin.state_dict()}
        known |= conform(str(path), own, known)
        known["callbacks"] = {key: _restored(c, saved[key]) for key, c in held.items()}
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
        own |= {"best_k_models": kept, "kth_value": kept[files[-1]], "best_model_path": files[0]}
        own |= {"best_model_score": kept[files[0]], "kth_best_model_path": files[-1]}
    return own


def _own_file(callback: ModelCheckpoint, path: object) -> str:
    file = Path(callback.dirpath or "", Path(str(path)).name)
    is_own = file.is_file() and file.resolve().parent == file.parent.resolve()
    return str(file) if is_own else ""
