"""Import of other programs' files; every key of a file is reported."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from camreid.checkpoints.foreign.building import (
    Import,
    Source,
    import_model,
    import_transreid,
    import_trunk,
)
from camreid.errors import HeadMismatch, InputError, require_choice
from camreid.labels import LabelMap
from camreid.models.reading import read_states
from camreid.training.module import ReIDModule


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
            CLIP-ReID; `timm` for a trunk alone, such as LUPerson's, TransReID-SSL's, SOLIDER's or
            CLIP's. The model of a trunk alone has no rows yet.
        model: the name of its architecture, a file of `conf/model/`.
        labels: the identities in row order; without them the head is anonymous.
        options: what differs from the config, see `camreid.create_model`. Also `stem_padding` of
            the max-pool: 1, or 0 and rounding up, which FastReID has had since November 2020 (by
            default 0 for files with FastReID's names from v1.0 on, else 1); and `allow_partial`,
            to import although keys are missing or left over. TransReID's camera embedding needs
            `network__camera_embedding` and `network__cameras`.

    Raises:
        InputError: no such file, or keys other than class rows that do not fit the model.
        HeadMismatch: the number of rows is not that of the labels.
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
    """The model and the account of the keys; see `import_weights`."""
    require_choice("source", source, Source)
    if stem_padding is not None:
        options["network__stem_padding"] = stem_padding
    states = read_states(path)
    if source == "timm":
        result = import_trunk(states, model, options)
    else:
        # of containers with as many tensors, the first is preferred
        container = max(states, key=lambda name: len(states[name]))
        how = import_transreid if source == "transreid" else import_model
        result = how(states[container], source, model, labels, options)
        same = [k for k, v in states.items() if k != container and v.keys() & states[container]]
        notes = [f"taken from {container}"] if container else []
        notes += [f"{', '.join(same)} has the same names"] if same else []
        result = replace(result, notes=(*notes, *result.notes))
    missing = [k for k in result.missing if not k.startswith("heads.")]
    if not allow_partial and (missing or result.left_over):
        raise InputError(
            f"{path} ({result.generation} names) is not a {model} of source={source}: "
            f"{len(missing)} of the model's tensors are missing "
            f"({', '.join(missing[:3]) or 'none'}) and {len(result.left_over)} of the file's are "
            f"left over ({', '.join(result.left_over[:3]) or 'none'}); {len(result.loaded)} fit. "
            "Give the model and source of this file; allow_partial imports the tensors that fit."
        )
    if labels is not None and (source == "timm" or len(missing) < len(result.missing)):
        raise HeadMismatch(
            f"{path} has no class rows that fit {model}. Leave out the labels of the "
            f"{len(labels)} identities."
        )
    result.module.add_identities(() if labels is None else labels.pids)
    return result
