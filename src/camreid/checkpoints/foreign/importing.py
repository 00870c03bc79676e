"""Import of other programs' files; every key of a file is reported."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from camreid.checkpoints.foreign.names import fastreid_names, torchreid_names, transreid_names
from camreid.errors import HeadMismatch, InputError, require_choice
from camreid.labels import LabelMap
from camreid.models.backbone import IMAGENET_MEAN, IMAGENET_STD
from camreid.models.presets import read_model
from camreid.models.reading import fits, read_states, require_finite
from camreid.models.weights import fit_trunk, unmatched
from camreid.training.module import ReIDModule, create_model

Source = Literal["fastreid", "torchreid", "timm", "transreid"]
State = Mapping[str, Tensor]
Names = dict[str, str]
Labels = LabelMap | None
Options = Mapping[str, Any]
_TRUNK = "backbone.trunk."
_TABLE = f"{_TRUNK}norm_pre.table"  # of the camera embedding


@dataclass(frozen=True)
class Import:
    """A model, and what became of the file's keys."""

    module: ReIDModule
    generation: str  # the release that names its tensors as the file does
    loaded: Names  # names in the model, by name in the file
    needless: Names  # why the model does not need a tensor, by name in the file
    left_over: tuple[str, ...]  # names in the file that were not taken
    missing: tuple[str, ...]  # names in the model that the file does not have
    notes: tuple[str, ...] = ()  # where in the file the tensors are, and what was not used
    resized: str = ""  # positions that make another model of the file's


def import_weights(
    path: str | Path,
    source: Source = "fastreid",
    model: str = "mgn_r50_ibn",
    labels: LabelMap | None = None,
    **options: Any,
) -> ReIDModule:
    """The model of another program's file, in evaluation mode on the CPU.

    Args:
        path: the file; pickled code in it is not run.
        source: the program that wrote it: `transreid` also for BoT, PersonViT, SOLIDER-REID and
            CLIP-ReID; `timm` for a trunk alone, which gives a model without rows.
        model: the name of its architecture, a file of `conf/model/`.
        labels: the identities in row order; without them the head is anonymous. HeadMismatch for
            another number of rows.
        options: of `camreid.create_model`; `stem_padding` of the max-pool (1, or 0 and rounding up
            as FastReID since November 2020), by default from the names; `allow_partial` imports
            although keys do not fit or positions are resized, else an InputError.
    """
    return import_file(path, source, model, labels, **options).module


def import_file(
    path: str | Path, source: Source, model: str, labels: Labels = None, **options: Any
) -> Import:
    """The model and the account of the keys; see `import_weights`."""
    require_choice("source", source, Source)
    allow_partial, padding = options.pop("allow_partial", False), options.pop("stem_padding", None)
    options |= {} if padding is None else {"network__stem_padding": padding}
    states = read_states(path)
    if source == "timm":
        result = _import_trunk(states, model, options)
    else:
        # of containers with as many tensors, the first is preferred
        container = max(states, key=lambda name: len(states[name]))
        how = _import_transreid if source == "transreid" else _import_model
        result = how(states[container], source, model, labels, options)
        same = [k for k, v in states.items() if k != container and v.keys() & states[container]]
        notes = [f"taken from {container}"] if container else []
        notes += [f"{', '.join(same)} has the same names"] if same else []
        result = replace(result, notes=tuple(notes))
    require_finite(path, result.module.model.state_dict())
    missing = [k for k in result.missing if not k.startswith("heads.")]
    if not allow_partial and (missing or result.left_over or result.resized):
        found = f"{path} ({result.generation} names) is not a {model} of source={source}"
        fit = f"{len(result.loaded)} fit{', ' * bool(result.resized)}{result.resized}"
        remedy = "Give its model, image_size and source; allow_partial imports what fits."
        unfit = unmatched(missing, result.left_over)
        raise InputError(f"{found}: {unfit}; {fit}. {remedy}")
    if labels is not None and (source == "timm" or len(missing) < len(result.missing)):
        raise HeadMismatch(f"{path} has no class rows that fit {model}. Leave out its labels.")
    result.module.add_identities(() if labels is None else labels.pids)
    return result


def _import_model(file: State, source: Source, model: str, labels: Labels, own: Options) -> Import:
    is_torchreid = source == "torchreid"
    names, needless = (torchreid_names(file), {}) if is_torchreid else fastreid_names(file, model)
    state = {own: file[name] for name, own in names.items()}
    releases = {"bnneck": "v0.1.1", ".classifier.weight": "v1.0"}  # by part of a name
    found = (own for part, own in releases.items() if any(part in name for name in file))
    generation = "torchreid" if is_torchreid else f"FastReID {next(found, 'v1.3')}"
    rows = _label_map(state, labels)
    module = create_model(model, rows, **{**_options(model, generation, state), **own})
    return _load(module, generation, names, state, needless)


def _load(module: ReIDModule, generation: str, names: Names, state: State, why: Names) -> Import:
    """Load tensors by camreid's names; `names` has camreid's name by the file's."""
    own = module.model.state_dict()
    fitting = {k: v for k, v in state.items() if k in own and fits(v, own[k])}
    module.model.load_state_dict({**own, **fitting})
    # not in every file, from the labels, of the backbone
    optional = ("num_batches_tracked", ".pids", "pixel_norm.mean", "pixel_norm.std")
    missing = tuple(k for k in own if k not in fitting and not k.endswith(optional))
    loaded = {name: k for name, k in names.items() if k in fitting}
    left_over = tuple(name for name in names if name not in loaded)
    return Import(module.eval(), generation, loaded, why, left_over, missing)


def _import_transreid(file: State, _: Source, model: str, labels: Labels, own: Options) -> Import:
    names, needless = transreid_names(file)
    files = {own: name for name, own in names.items()}
    state = {own: file[name] for own, name in files.items()}
    found: dict[str, Any] = {"network__bias": True} if "heads.identity.bias" in state else {}
    is_resnet = f"{_TRUNK}layer1.0.conv1.weight" in state
    if f"{_TRUNK}class_embedding" in state:  # of CLIP-ReID, as the next
        found["network__backbone"] = "vit_base_patch16_clip_quickgelu_224"
    elif f"{_TRUNK}conv3.weight" in state:
        found |= {"network__backbone": "resnet50_clip_gap", "network__last_stride": 1}
    elif is_resnet:  # of reid-strong-baseline, where a ResNet without IBN has no ReLU in the stem
        found["network__stem_relu"] = f"{_TRUNK}layer1.0.bn1.IN.weight" in state
        found["interpolation"] = "bilinear"
    module = create_model(model, _label_map(state, labels), **{**found, **own})
    trunk = _trunk_of(module, "transreid", model)
    # their pixels, whatever those of timm's weights are
    pixels = (IMAGENET_MEAN, IMAGENET_STD) if is_resnet else ((0.5,) * 3,) * 2
    statistics = module.model.get_submodule("pixel_norm").buffers()
    for statistic, value in zip(statistics, pixels, strict=True):
        statistic.copy_(255 * torch.tensor(value).view_as(statistic))
    if "norm_pre.table" in trunk.state_dict() and _TABLE in state:
        state[_TABLE] = state[_TABLE].flatten(1)
    elif _TABLE in state:
        needless[files[_TABLE]] = "a camera embedding; camera_embedding=3 and cameras= take it"
        del state[_TABLE]
    fit = fit_trunk({"": {k: v for k, v in state.items() if k.startswith(_TRUNK)}}, trunk)
    needless |= {files[k]: reason for k, reason in fit.needless.items()}
    rest = {k: v for k, v in state.items() if not k.startswith(_TRUNK)}
    used = {files[k]: k for k in (*rest, *fit.left_over)}
    used |= {files[k]: _TRUNK + own for own, k in fit.names.items()}
    tensors = rest | {_TRUNK + own: value for own, value in fit.tensors.items()}
    result = _load(module, "TransReID", used, tensors, needless)
    return replace(result, resized=fit.note)


def _import_trunk(states: Mapping[str, State], model: str, options: Options) -> Import:
    module = create_model(model, LabelMap(()), **options)
    trunk = _trunk_of(module, "timm", model)
    fit = fit_trunk({k: dict(v) for k, v in states.items()}, trunk)
    trunk.load_state_dict({**trunk.state_dict(), **fit.tensors})
    loaded = {name: f"{_TRUNK}{own}" for own, name in fit.names.items()}
    left_over, missing = (*fit.left_over, *fit.outside), tuple(_TRUNK + k for k in fit.missing)
    account = (loaded, fit.needless, left_over, missing, (fit.describe(),))
    return Import(module.eval(), "timm", *account)


def _trunk_of(module: ReIDModule, source: Source, model: str) -> nn.Module:
    trunk = getattr(getattr(module.model, "backbone", None), "trunk", None)
    if not isinstance(trunk, nn.Module):
        raise InputError(f"source={source} needs a model with one trunk; model={model} has none.")
    return trunk


def _options(model: str, generation: str, state: State) -> dict[str, Any]:
    """What the file's release and tensors (camreid's names) show of the architecture."""
    found: dict[str, Any] = {}
    is_torchreid = generation == "torchreid"
    if is_torchreid:
        found = {"neck": "none", "bias": "heads.identity.bias" in state}
        if "backbone.trunk.layer4.0.conv1.weight" in state:
            reduced = state.get("projection.0.weight")
            found["projection"] = None if reduced is None else reduced.shape[:1].numel()
            found["last_stride"] = None if reduced is None else 1
    if any(".layer1." in name for name in state) or "trunk.0.weight" in state:
        found["stem_padding"] = int(generation in ("FastReID v0.1.1", "torchreid"))
    if any(name.startswith("norms.") for name in state):
        found["extra_norm"] = True  # MGN of v0.1.1
    if model.startswith("agw") and "backbone.pool.p" in state:
        found["pool"] = "gem_learned"  # AGW of v0.1.1
    takes = read_model(model).network
    network = {f"network__{key}": value for key, value in found.items() if key in takes}
    return {**network, "interpolation": "bilinear" if is_torchreid else "bicubic"}


def _label_map(state: State, labels: Labels) -> LabelMap:
    """The label map of the heads in a state dict; anonymous without labels."""
    heads = (v for k, v in state.items() if re.fullmatch(r"heads\.\w+\.weight", k))
    rows = {weight.shape[:1].numel() for weight in heads} or {0}
    if len(rows) > 1 or (labels is not None and rows != {len(labels)}):
        found = f"the head in the file has {', '.join(map(str, sorted(rows)))} rows, and the label"
        remedy = "Give the label map of its training split and camera, or no labels"
        error = HeadMismatch(f"{found} map {len(labels or ())} identities. {remedy}.")
        error.rows = rows.pop() if len(rows) == 1 else None
        raise error
    return LabelMap.anonymous(rows.pop()) if labels is None else labels
