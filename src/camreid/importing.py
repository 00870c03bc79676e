"""FastReID and torchreid files as camreid models, every key accounted for."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from camreid.errors import HeadMismatch, InputError
from camreid.foreign import fastreid_names, from_fastreid, from_torchreid
from camreid.labels import LabelMap
from camreid.model.module import ReIDModule

Source = Literal["fastreid", "torchreid"]

# what a file may hold that no model needs: pixel constants, and what old releases left behind
_NEEDLESS = ("pixel_mean", "pixel_std", "heads.bnneck.num_batches_tracked")


@dataclass(frozen=True)
class Import:
    """A model read from a foreign file, and what became of the file's keys.

    Attributes:
        module: the model, in evaluation mode on the CPU.
        generation: the release whose names the file has.
        stem_padding: of the max-pool, which no file says; by generation unless it was given.
        loaded: names in the file that were taken, and what they are called here.
        left_over: names in the file that were not.
        missing: names of the model that the file does not have.
        anonymous: whether nobody knows whose the rows are.
    """

    module: ReIDModule
    generation: str
    stem_padding: int
    loaded: dict[str, str] = field(repr=False)
    left_over: tuple[str, ...]
    missing: tuple[str, ...]
    anonymous: bool


def import_weights(
    path: str | Path,
    source: Source = "fastreid",
    model: str = "mgn_r50_ibn",
    labels: LabelMap | None = None,
    **options: Any,
) -> ReIDModule:
    """The model of a FastReID or torchreid file, in evaluation mode on the CPU.

    Args:
        path: a file of either; pickled code in it is not run.
        source: whose file it is.
        model: the file of `conf/model/` that it is a model of.
        labels: whose the rows are; without, the head is anonymous and can only give features.
        options: see `import_file`.

    Raises:
        InputError: no such file, or keys that do not fit the model.
        HeadMismatch: rows and people are not as many.
    """
    return import_file(path, source, model, labels, **options).module


def import_file(
    path: str | Path,
    source: Source = "fastreid",
    model: str = "mgn_r50_ibn",
    labels: LabelMap | None = None,
    *,
    stem_padding: int | None = None,
    allow_partial: bool = False,
    **options: Any,
) -> Import:
    """`import_weights`, with the account of the keys.

    Args:
        path: a file of either; pickled code in it is not run.
        source: whose file it is.
        model: the file of `conf/model/` that it is a model of.
        labels: whose the rows are, in row order.
        stem_padding: of the max-pool: 1, or 0 and rounding up, which FastReID has had since
            November 2020. By default 1 for files with v0.1.1 names and for torchreid's, else 0.
        allow_partial: import although keys are missing or left over.
        options: what differs from the config; see `camreid.create_model`.

    Raises:
        InputError: no such file, or keys other than class rows that do not fit the model.
        HeadMismatch: rows and people are not as many.
    """
    from camreid.cli.compose import create_model  # names of models are those of their configs

    if source not in ("fastreid", "torchreid"):
        raise InputError(f"source={source}: expected fastreid or torchreid.")
    theirs = read_state(path)
    generation = "torchreid" if source == "torchreid" else _generation(theirs)
    renamed = _renamed(theirs, source)
    names = dict(zip(renamed, _original_names(theirs, source), strict=True))
    rows = {len(v) for k, v in renamed.items() if k.startswith("heads.") and k.endswith(".weight")}
    known = _label_map(path, rows, labels)
    if generation == "FastReID v0.1.1" and model.startswith("bot"):
        renamed.pop("backbone.pool.p", None)  # zoo files have one that BoT's mean does not use
    padding = _padding(generation) if stem_padding is None else stem_padding
    options = {**_options(model, renamed, padding), **options}
    module = create_model(model, known, **options)
    account = _load(module, renamed)
    result = Import(
        module.eval(),
        generation,
        padding,
        {names[k]: k for k in account.loaded},
        tuple(names[k] for k in account.left_over),
        account.missing,
        anonymous=labels is None,
    )
    if not allow_partial:
        _require_whole(path, model, result)
    module.seen = frozenset(() if labels is None else labels.pids)
    return result


def read_state(path: str | Path) -> dict[str, Tensor]:
    """The tensors of a foreign file by name, bare or under `model` or `state_dict`.

    Raises:
        InputError: no such file, a broken one, or one with pickled code.
    """
    if not Path(path).is_file():
        raise InputError(f"no file at {path}; type path=FILE, such as path=model_final.pth.")
    scalar: Any = np.float64(0).__reduce__()[0]
    kinds: list[Any] = [scalar, (scalar, "numpy.core.multiarray.scalar"), np.dtype]
    kinds += [type(np.dtype(kind)) for kind in (np.float64, np.float32, np.int64)]
    try:
        with torch.serialization.safe_globals(kinds):  # torchreid keeps rank1 as a NumPy scalar
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise InputError(
            f"{path} ({Path(path).stat().st_size} bytes) can't be read ({type(error).__name__}): "
            "it is no file of torch.save, it is cut short, or it holds pickled code, which is "
            "not run. Copy the file again, or save its state dict alone."
        ) from error
    for key in ("model", "state_dict"):
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    tensors = {k: v for k, v in dict(content).items() if isinstance(v, Tensor)}
    if not tensors:
        raise InputError(f"{path} holds no tensors by name; expected a state dict.")
    if all(k.startswith("module.") for k in tensors):
        return {k.removeprefix("module."): v for k, v in tensors.items()}
    return tensors


def _generation(state: Mapping[str, Tensor]) -> str:
    if any("bnneck" in name for name in state):
        return "FastReID v0.1.1"
    if any(".classifier.weight" in name for name in state):
        return "FastReID v1.0"
    return "FastReID v1.3"


def _padding(generation: str) -> int:
    return 1 if generation in ("FastReID v0.1.1", "torchreid") else 0


def _renamed(state: Mapping[str, Tensor], source: Source) -> dict[str, Tensor]:
    kept = {k: v for k, v in state.items() if k not in _NEEDLESS}
    return from_torchreid(kept) if source == "torchreid" else from_fastreid(fastreid_names(kept))


def _original_names(state: Mapping[str, Tensor], source: Source) -> list[str]:
    """The file's names in the order of the renamed state."""
    kept = [k for k in state if k not in _NEEDLESS]
    if source == "torchreid":
        return kept
    by_new = fastreid_names({k: k for k in kept})  # type: ignore[misc]
    return list(by_new.values())  # type: ignore[arg-type]


def _label_map(path: str | Path, rows: set[int], labels: LabelMap | None) -> LabelMap:
    if len(rows) > 1:
        raise HeadMismatch(
            f"the heads of {path} have {sorted(rows)} rows, and one number is meant."
        )
    count = next(iter(rows), 0 if labels is None else len(labels))
    if labels is None:
        return LabelMap.anonymous(count)
    if len(labels) != count:
        raise HeadMismatch(
            f"the head of {path} has {count} rows, and the label map {len(labels)} people. Give "
            "the label map of the division that it was trained on, such as labels.camera=3 of "
            "the right camera, or none for features alone."
        )
    return labels


def _options(model: str, state: Mapping[str, Tensor], padding: int) -> dict[str, Any]:
    """What the file says of its architecture beyond the config's name."""
    if model.startswith(("vit", "osnet")):
        return {}
    options: dict[str, Any] = {"network__stem_padding": padding}
    if any(name.startswith("norms.") for name in state):
        options["network__extra_norm"] = True  # MGN of v0.1.1
    if model.startswith("agw") and "backbone.pool.p" in state:
        options["network__pool"] = "gem_learned"  # AGW of v0.1.1
    return options


@dataclass(frozen=True)
class _Account:
    loaded: tuple[str, ...]
    left_over: tuple[str, ...]
    missing: tuple[str, ...]


def _load(module: ReIDModule, state: Mapping[str, Tensor]) -> _Account:
    own = module.model.state_dict()
    fits = {k: v for k, v in state.items() if k in own and own[k].shape == v.shape}
    module.model.load_state_dict({**own, **fits})
    constant = ("num_batches_tracked", ".pids")
    missing = [k for k in own if k not in fits and not k.endswith(constant)]
    return _Account(
        tuple(fits),
        tuple(k for k in state if k not in fits),
        tuple(k for k in missing if not k.startswith("pixel_norm.")),
    )


def _require_whole(path: str | Path, model: str, result: Import) -> None:
    missing = [k for k in result.missing if not k.startswith("heads.")]
    if not missing and not result.left_over:
        return
    raise InputError(
        f"{path} ({result.generation} names) is not a {model}: {len(missing)} of the model's "
        f"tensors are missing ({', '.join(missing[:3]) or 'none'}) and {len(result.left_over)} of "
        f"the file's are left over ({', '.join(result.left_over[:3]) or 'none'}); "
        f"{len(result.loaded)} fit. Type the model= that it was trained as, or allow_partial=true "
        "to import what fits."
    )
