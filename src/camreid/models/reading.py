"""Files of tensors: read without running code, or called by their name."""

import os
import pickle
import re
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from torch import Tensor

from camreid.errors import InputError

State = dict[str, Tensor]

_SAVE = "torch.save(model.state_dict(), FILE)"
_KINDS = (  # first bytes, and what to say of the file
    (rb"version https://git-lfs", "a Git LFS pointer. Fetch the weights there with git lfs pull."),
    (rb"(?i)\s*<(!doctype )?html", "a web page (HTML). Download the file by hand."),
    (rb"\x08[\x01-\x20][\x12\x1a\x3a\x42]", f"an ONNX model. Expected a file of {_SAVE}."),
)


class _Inert:
    """Stands for an object that a file keeps beside its tensors; its content is not kept."""

    def __new__(cls, *_: object) -> "_Inert":
        return super().__new__(cls)

    def __setstate__(self, state: object) -> None:
        pass


def _safe_globals() -> list[Any]:
    """NumPy scalars, and inert stand-ins for options, paths and arrays."""
    scalar: Any = np.float64(0).__reduce__()[0]
    kinds: list[Any] = [np.dtype]
    kinds += [type(np.dtype(kind)) for kind in np.typecodes["AllInteger"] + "efd?OUS"]
    inert = ["argparse.Namespace", "types.SimpleNamespace", "numpy.ndarray"]
    for module in ("numpy.core.multiarray", "numpy._core.multiarray"):  # before and since NumPy 2
        kinds.append((scalar, f"{module}.scalar"))
        inert.append(f"{module}._reconstruct")
    for path in ("Path", "PosixPath", "WindowsPath", "PurePosixPath", "PureWindowsPath"):
        inert += [f"pathlib.{path}", f"pathlib._local.{path}"]  # Python 3.13 has the latter
    return [*kinds, *((_Inert, name) for name in inert)]


def read_content(path: str | Path) -> Any:
    """The content of a file of torch.save or of safetensors, on the CPU.

    Options (`Namespace`), paths and arrays in it become inert stand-ins. InputError for a file with
    pickled code, a wrong checksum, or of another kind, which it names.
    """
    try:
        with Path(path).open("rb") as file:
            head = file.read(10)
        if head[8:] in (b'{"', b"{}"):  # behind the length of its header
            return safetensors.torch.load_file(path)
        if head.startswith(b"PK"):  # PyTorch writes checksums and does not verify them
            with zipfile.ZipFile(path) as archive:
                size = sum(one.file_size for one in archive.infolist())
                if size > 9 * os.stat(path).st_size or archive.testzip():
                    raise zipfile.BadZipFile("damaged, or packed too tightly")
        with torch.serialization.safe_globals(_safe_globals()), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a pickle protocol that it may not know
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise InputError(f"{path}: {_unreadable(Path(path), error)}") from error


def read_states(path: str | Path, option: str = "path") -> dict[str, State]:
    """The state dicts of a file by container, such as `teacher`, averages first; "" for a bare one.

    Names have no `module.` where all have it. `option` is the argument, for messages.
    """
    if not Path(path).exists():
        raise InputError(f"no file at {option}={path}.", **{option: "FILE"})
    content = read_content(path)
    found = dict(_states("", content)) if isinstance(content, Mapping) else {}
    tensors = [v for state in found.values() for v in state.values()]
    if not found or not all(is_dense(v) and not v.is_complex() for v in tensors):
        raise InputError(f"{option}={path} holds no dense real tensors by name, as a state dict.")
    return dict(sorted(found.items(), key=lambda item: preference(item[0])))


def preference(name: str) -> int:
    """0 for the dotted name of an average, 2 for that of a second network, else 1."""
    if re.search(r"(\b|_)(teacher|ema|target|swa|avg|averaged?)(\b|_)", name):
        return 0
    return 2 if re.search(r"\b(student|encoder_k|momentum_encoder)\b", name) else 1


def _states(name: str, content: Mapping[Any, Any], depth: int = 3) -> Iterator[tuple[str, State]]:
    tensors = {k: v for k, v in content.items() if isinstance(k, str) and isinstance(v, Tensor)}
    wrapped = all(k.startswith("module.") for k in tensors)
    if tensors:
        yield name, {k.removeprefix("module.") if wrapped else k: v for k, v in tensors.items()}
    for key, value in content.items():
        if isinstance(value, Mapping) and isinstance(key, str) and depth:
            yield from _states(f"{name}.{key}".lstrip("."), value, depth - 1)


def fits(value: Tensor, own: Tensor) -> bool:
    """Whether a file's tensor has the shape of a network's, and numbers of its kind."""
    return value.shape == own.shape and value.is_floating_point() >= own.is_floating_point()


def require_finite(path: str | Path, state: Mapping[str, Tensor]) -> None:
    """InputError where tensors hold NaN, infinite values, or variances below 0."""
    low = {k for k, v in state.items() if k.endswith("running_var") and v.lt(0).any()}
    if wrong := [k for k, v in state.items() if k in low or not v.float().isfinite().all()]:
        found = f"{len(wrong)} tensors hold NaN, infinity or variances below 0: {wrong[:3]}"
        raise InputError(f"{path}: {found}. Take another file.")


def is_dense(value: Tensor) -> bool:
    """Whether a tensor holds all of its values, so that it is no larger than its file."""
    other = value.layout != torch.strided, value.is_nested, value.is_quantized, value.is_meta
    return not any(other) and value.nbytes <= value.untyped_storage().nbytes()


def _unreadable(path: Path, error: Exception) -> str:
    if path.is_dir() and not (path / "data.pkl").is_file():
        return "it is a folder. Name the file in it."
    folder = (path if path.is_dir() else path.parent).absolute()
    if path.is_dir() or path.name == "data.pkl":
        command = f"cd {folder.parent} && zip -0 -r {folder.name}.pth {folder.name}"
        return f"it is part of an unpacked file of torch.save. Pack it again: {command}"
    if isinstance(error, pickle.UnpicklingError) and "GLOBAL" in str(error).upper():
        name = str(error).partition("GLOBAL ")[2].split(" ")[0]
        found = f"the file holds pickled code{f' ({name})' if name else ''}, so it was not read"
        return f"{found}. If you trust it, load it in your own code and {_SAVE}."
    with path.open("rb") as file:
        head = file.read(512)
    if known := [text for pattern, text in _KINDS if re.match(pattern, head)]:
        return f"it is {known[0]}"
    with suppress(Exception):  # no archive, or a damaged one
        if any("/code/" in name for name in zipfile.ZipFile(path).namelist()):
            save = f"torch.save(torch.jit.load({path.name!r}).state_dict(), FILE)"
            return f"it is a TorchScript archive, which holds code. Save its tensors alone: {save}."
    if head.startswith(b"\x80") and not head.startswith(b"\x80\x02\x8a"):  # torch.save's of old
        return f"it is a plain pickle, not a file of torch.save. Load it, and save with {_SAVE}."
    text = head.decode("utf-8", "replace")
    if text.strip() and all(c.isprintable() or c.isspace() for c in text):
        if named := re.fullmatch(r"\s*(\S+\.(?:pth|pt|ckpt|tar|bin))\s*", text):
            return f"it is a text that names another file. Give {path.parent / named[1]}."
        found = f"it is a text that begins with {text.strip()[:40]!r}"
    else:
        found = f"its {path.stat().st_size} bytes can't be read ({type(error).__name__})"
    return f"{found}: it is cut short or damaged, or no file of torch.save. Copy the file again."
