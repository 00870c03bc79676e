"""Weights that other programs wrote: read without running code, and fitted to a trunk."""

import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from camreid.errors import InputError
from camreid.models.resnet import NonLocal

State = dict[str, Tensor]

# what a ResNet of another program may have on top of the trunk
_HEADS = ("fc.", "classifier.", "head.", "heads.")


def read_state(path: str | Path, option: str = "path") -> State:
    """The tensors of a file by name, bare or under `model` or `state_dict`, without `module.`.

    `option` is the argument, for messages. A file with pickled code is refused, not run.
    """
    if not Path(path).is_file():
        raise InputError(f"no file at {option}={path}.", **{option: "FILE"})
    content = read_content(path)
    for key in ("model", "state_dict"):
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    content = content if isinstance(content, Mapping) else {}
    tensors = {str(k): v for k, v in content.items() if isinstance(v, Tensor)}
    if not tensors or not all(map(is_dense, tensors.values())):
        raise InputError(f"{option}={path} holds no dense tensors by name, as a state dict does.")
    if all(k.startswith("module.") for k in tensors):
        return {k.removeprefix("module."): v for k, v in tensors.items()}
    return tensors


def read_content(path: str | Path) -> Any:
    """The content of a file of torch.save, on the CPU; InputError for one with pickled code."""
    scalar: Any = np.float64(0).__reduce__()[0]
    modules = ("numpy.core.multiarray", "numpy._core.multiarray")  # before and since NumPy 2
    kinds: list[Any] = [*((scalar, f"{module}.scalar") for module in modules), np.dtype]
    kinds += [type(np.dtype(kind)) for kind in np.typecodes["AllInteger"] + "efd?"]
    try:
        with torch.serialization.safe_globals(kinds):  # torchreid keeps rank1 as a NumPy scalar
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise InputError(f"{path}: {_unreadable(path, error)}") from error


def is_dense(value: Tensor) -> bool:
    """Whether a tensor holds all of its values, so that it is no larger than its file."""
    if value.layout != torch.strided or value.is_nested or value.is_quantized or value.is_meta:
        return False
    return value.nbytes <= value.untyped_storage().nbytes()


def _unreadable(path: str | Path, error: Exception) -> str:
    """Why a file could not be read, and what to do."""
    if isinstance(error, pickle.UnpicklingError) and "GLOBAL" in str(error).upper():
        name = str(error).partition("GLOBAL ")[2].split(" ")[0]
        return (
            f"the file holds pickled code{f' ({name})' if name else ''}, so it was not read. If "
            "you trust the file, load it in your own code and save only its state dict: "
            "torch.save(model.state_dict(), FILE)."
        )
    return (
        f"its {Path(path).stat().st_size} bytes can't be read ({type(error).__name__}): it is cut "
        "short, or no file of torch.save. Copy the file again."
    )


@dataclass(frozen=True)
class TrunkFit:
    """The names of a file's tensors that are a trunk's, and the rest."""

    names: dict[str, str]  # the file's name by the trunk's name
    heads: tuple[str, ...]  # of a classifier in the file
    left_over: tuple[str, ...]  # beside the trunk's in the file, without a place in the trunk
    outside: tuple[str, ...]  # the file's others, such as those of a second encoder
    missing: tuple[str, ...]  # the trunk's that the file lacks


def fit_trunk(state: Mapping[str, Tensor], trunk: nn.Module) -> TrunkFit:
    """The part of a state dict that is a trunk.

    The file's names may have a prefix, as in LUPerson's and MoCo's files (`encoder_q.`), and lack
    the non-local blocks, which start as an identity.
    """
    expected = trunk.state_dict()
    prefix = _prefix(state, expected)
    blocks = [n.removesuffix(".1") for n, m in trunk.named_modules() if isinstance(m, NonLocal)]
    moved = [(k, block) for k in expected for block in blocks if k.startswith(f"{block}.0.")]
    behind = {k.replace(f"{block}.0.", f"{block}.", 1): k for k, block in moved}
    names: dict[str, str] = {}
    rest: dict[bool, list[str]] = {True: [], False: []}  # whether of a classifier
    for original in (k for k in state if k.startswith(prefix)):
        name = original.removeprefix(prefix)
        own = behind.get(name, name)
        if own in expected and expected[own].shape == state[original].shape:
            names[own] = original
        else:
            rest[own not in expected and name.startswith(_HEADS)].append(original)
    fresh = tuple(f"{block}.1." for block in blocks)
    optional = () if any(k.startswith(fresh) for k in names) else fresh
    missing = (k for k in expected if k not in names and not k.startswith(optional))
    return TrunkFit(
        names,
        heads=tuple(rest[True]),
        left_over=tuple(rest[False]),
        outside=tuple(k for k in state if not k.startswith(prefix)),
        missing=tuple(k for k in missing if not k.endswith("num_batches_tracked")),
    )


def _prefix(state: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> str:
    """The prefix of most of the trunk's names."""
    first = next(iter(expected))
    found = dict.fromkeys(k.removesuffix(first) for k in state if k.endswith(first))
    return max(found or [""], key=lambda prefix: sum(prefix + k in state for k in expected))


def load_trunk(trunk: nn.Module, path: str) -> None:
    """Load a file of backbone weights; a classifier and a second encoder in it are left out."""
    state = read_state(path, "weights")
    fit = fit_trunk(state, trunk)
    if fit.missing or fit.left_over:
        raise InputError(
            f"weights={path} does not fit the backbone: {len(fit.missing)} keys are missing "
            f"({', '.join(fit.missing[:3]) or 'none'}) and {len(fit.left_over)} are left over or "
            f"of another shape ({', '.join(fit.left_over[:3]) or 'none'}). Choose the backbone "
            "they were made for."
        )
    tensors = {own: state[original] for own, original in fit.names.items()}
    trunk.load_state_dict({**trunk.state_dict(), **tensors})
