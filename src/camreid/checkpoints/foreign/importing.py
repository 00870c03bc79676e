"""FastReID, torchreid and timm files as camreid models, every key accounted for."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

from torch import Tensor

from camreid.checkpoints.foreign.architectures import Source, architecture_options, closest, renamed
from camreid.checkpoints.foreign.names import needless
from camreid.errors import HeadMismatch, InputError
from camreid.labels import LabelMap
from camreid.models.weights import fit_trunk, read_state
from camreid.training.module import ReIDModule, create_model


@dataclass(frozen=True)
class Import:
    """A model read from a foreign file, and what became of the file's keys.

    Attributes:
        module: the model, in evaluation mode on the CPU.
        generation: the release whose names the file has.
        stem_padding: of the max-pool, which no file says; None for a model without one.
        loaded: names in the file that were taken, and what they are called here.
        needless: names in the file that no model needs, and why.
        left_over: names in the file that were not taken.
        missing: names of the model that the file does not have.
    """

    module: ReIDModule
    generation: str
    stem_padding: int | None
    loaded: dict[str, str] = field(repr=False)
    needless: dict[str, str]
    left_over: tuple[str, ...]
    missing: tuple[str, ...]

    @property
    def anonymous(self) -> bool:
        """Whether nobody knows whose the rows are."""
        return self.module.labels.is_anonymous


def import_weights(
    path: str | Path,
    source: Source = "fastreid",
    model: str = "mgn_r50_ibn",
    labels: LabelMap | None = None,
    **options: Any,
) -> ReIDModule:
    """The model of a FastReID, torchreid or timm file, in evaluation mode on the CPU.

    Args:
        path: a file of theirs; pickled code in it is not run.
        source: whose file it is; `timm` for a trunk alone under timm's or torchvision's names, as
            LUPerson's: its model has no rows yet.
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
        path: a file of theirs; pickled code in it is not run.
        source: whose file it is.
        model: the file of `conf/model/` that it is a model of.
        labels: whose the rows are, in row order.
        stem_padding: of the max-pool: 1, or 0 and rounding up, which FastReID has had since
            November 2020. By default 0 for files with FastReID's names from v1.0 on, else 1.
        allow_partial: import although keys are missing or left over.
        options: what differs from the config; see `camreid.create_model`.

    Raises:
        InputError: no such file, or keys other than class rows that do not fit the model.
        HeadMismatch: rows and people are not as many.
    """
    if source not in get_args(Source):
        raise InputError(f"source={source}: type one of {', '.join(get_args(Source))}.")
    if stem_padding is not None:
        options["network__stem_padding"] = stem_padding
    theirs = read_state(path)
    if source == "timm":
        result = _import_trunk(path, theirs, model, labels, options)
    else:
        result = _import_model(path, theirs, source, model, labels, options)
    missing = [k for k in result.missing if not k.startswith("heads.")]
    if not allow_partial and (missing or result.left_over):
        raise InputError(_refusal(path, source, model, result, missing, theirs))
    if labels is not None and any(k.startswith("heads.") for k in result.missing):
        raise HeadMismatch(
            f"{path} has no class rows that fit {model}, so the labels of {len(labels)} people "
            "would name rows of noise. Leave the labels out."
        )
    result.module.add_identities(() if labels is None else labels.pids)
    return result


def _import_model(
    path: str | Path,
    theirs: Mapping[str, Tensor],
    source: Source,
    model: str,
    labels: LabelMap | None,
    options: dict[str, Any],
) -> Import:
    unneeded = needless(theirs, model) if source == "fastreid" else {}
    wanted = {k: v for k, v in theirs.items() if k not in unneeded}
    state = renamed(wanted, source)
    names = dict(zip(state, wanted, strict=True))
    generation = "torchreid" if source == "torchreid" else _generation(theirs)
    options = {**architecture_options(model, source, state, _padding(generation)), **options}
    module = create_model(model, _label_map(path, state, labels), **options)
    own = module.model.state_dict()
    fits = {k: v for k, v in state.items() if k in own and own[k].shape == v.shape}
    module.model.load_state_dict({**own, **fits})
    given = ("num_batches_tracked", ".pids")  # not in every file; of the labels
    missing = (k for k in own if k not in fits and not k.endswith(given))
    return Import(
        module.eval(),
        generation,
        module.config.network.get("stem_padding"),
        {names[k]: k for k in fits},
        unneeded,
        tuple(names[k] for k in state if k not in fits),
        tuple(k for k in missing if not k.startswith("pixel_norm.")),
    )


def _import_trunk(
    path: str | Path,
    theirs: Mapping[str, Tensor],
    model: str,
    labels: LabelMap | None,
    options: dict[str, Any],
) -> Import:
    """A model whose trunk is the file's, without rows."""
    if labels is not None:
        raise InputError(
            f"{path} is imported as a trunk (source=timm), which has no rows: leave labels out, "
            "and the rows start with the split that is trained on."
        )
    module = create_model(model, LabelMap(()), **options)
    trunk = getattr(getattr(module.model, "backbone", None), "trunk", None)
    if trunk is None:
        raise InputError(
            f"model={model} has no single trunk; type model.network.weights={path} when it is "
            "trained."
        )
    fit = fit_trunk(theirs, trunk)
    trunk.load_state_dict({**trunk.state_dict(), **fit.tensors})
    return Import(
        module.eval(),
        "timm",
        module.config.network.get("stem_padding"),
        {original: f"backbone.trunk.{own}" for own, original in fit.names.items()},
        dict.fromkeys(fit.heads, "a classifier of other classes"),
        (*fit.left_over, *fit.outside),
        tuple(f"backbone.trunk.{k}" for k in fit.missing),
    )


def _generation(state: Mapping[str, Tensor]) -> str:
    if any("bnneck" in name for name in state):
        return "FastReID v0.1.1"
    if any(".classifier.weight" in name for name in state):
        return "FastReID v1.0"
    return "FastReID v1.3"


def _padding(generation: str) -> int:
    return 1 if generation in ("FastReID v0.1.1", "torchreid") else 0


def _label_map(path: str | Path, state: Mapping[str, Tensor], labels: LabelMap | None) -> LabelMap:
    """Whose the rows of a state dict under camreid's names are."""
    rows = {len(v) for k, v in state.items() if re.fullmatch(r"heads\.\w+\.weight", k)}
    if len(rows) > 1:
        raise HeadMismatch(
            f"the heads of {path} have {sorted(rows)} rows, and one number is meant."
        )
    count = next(iter(rows), 0)
    if labels is None:
        return LabelMap.anonymous(count)
    if len(labels) != count:
        raise HeadMismatch(
            f"the head of {path} has {count} rows, and the label map {len(labels)} people. Give "
            "the label map of the division that it was trained on, such as labels.camera=3 of "
            "the right camera, or none for features alone."
        )
    return labels


def _refusal(
    path: str | Path,
    source: Source,
    model: str,
    result: Import,
    missing: list[str],
    theirs: Mapping[str, Tensor],
) -> str:
    return (
        f"{path} ({result.generation} names) is not a {model}: {len(missing)} of the model's "
        f"tensors are missing ({', '.join(missing[:3]) or 'none'}) and {len(result.left_over)} of "
        f"the file's are left over ({', '.join(result.left_over[:3]) or 'none'}); "
        f"{len(result.loaded)} fit. {closest(theirs, source)} Type the model= and source= that it "
        "was trained as, or allow_partial=true to import what fits."
    )
