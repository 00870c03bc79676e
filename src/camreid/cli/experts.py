"""The experts of a matrix: which files, of which camera, by which name."""

import hashlib
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf

from camreid.checkpoints.io import Checkpoint
from camreid.cli.checkpoints import matching, read_checkpoint
from camreid.data import Split
from camreid.errors import InputError
from camreid.labels import LabelMap
from camreid.provenance import Provenance

_TYPE_SOME = (
    "type experts=[runs/experts/0/checkpoints/best.ckpt,...], or a pattern such as "
    "experts='runs/experts/c*/checkpoints/best.ckpt'."
)


@dataclass(frozen=True)
class Expert:
    """A checkpoint as a row of the matrix, without its weights.

    Attributes:
        name: of the row: `c3` for an expert of camera 3, else that of its run folder or file.
        path: the file.
        camera: that it was trained on, 1-based; None for several, or if it is not known.
        labels: the identities of its head; None if they are not known.
        rows: of its head.
        provenance: what it was trained on.
        weights: hash of them.
    """

    name: str
    path: str
    camera: int | None
    labels: LabelMap | None
    rows: int
    provenance: Provenance
    weights: str

    def coverage(self, split: Split) -> float | None:
        """Share of the split's train identities that have a row; None if it is not known."""
        if self.labels is None or not len(split.labels):
            return None
        return len(split.labels & self.labels) / len(split.labels)


def expert_paths(config: DictConfig) -> tuple[list[str], list[str]]:
    """The files that `experts=` and `controls=` name, patterns resolved.

    Raises:
        InputError: no experts, or a file twice.
    """
    if OmegaConf.is_missing(config, "experts") or not config.experts:
        raise InputError(f"no experts were given; {_TYPE_SOME}")
    experts = paths_of("experts", config.experts)
    controls = paths_of("controls", config.controls or ())
    taken = {Path(path).resolve() for path in experts}
    both = [path for path in controls if Path(path).resolve() in taken]
    if both:
        rest = ",".join(path for path in controls if path not in both)
        raise InputError(
            f"{both[0]} is named by experts= and by controls=, and is one row. Type "
            f"controls=[{rest}]."
        )
    return experts, controls


def paths_of(option: str, given: Any) -> list[str]:
    """The files that an option names, patterns resolved.

    Args:
        option: what a user types.
        given: a path or pattern, or several.

    Raises:
        InputError: a pattern that matches none, or the same file twice.
    """
    names = [given] if isinstance(given, str) else [str(name) for name in given]
    paths = [path for name in names for path in matching(option, name)]
    times = Counter(str(Path(path).resolve()) for path in paths)
    twice = [path for path, count in times.items() if count > 1]
    if twice:
        raise InputError(
            f"{option}= names {twice[0]} {times[twice[0]]} times. It would count twice: type "
            f"{option}=[{','.join(times)}]."
        )
    return paths


def read_experts(
    experts: Sequence[str], controls: Sequence[str] = (), reserved: Collection[str] = ()
) -> tuple[list[Expert], list[Expert]]:
    """Who the experts are, and the models to be shown beside them.

    Args:
        experts: checkpoints.
        controls: more of them, named by their run folder or file whatever their cameras are.
        reserved: names that other rows have.

    Raises:
        InputError: a file that is no checkpoint, or two with the same weights.
    """
    rows = [_read(path, experts) for path in experts]
    rows += [replace(_read(path, controls), name=_name(Path(path))) for path in controls]
    _refuse_twins(rows)
    names = _distinct([row.name for row in rows], reserved)
    rows = [replace(row, name=name) for row, name in zip(rows, names, strict=True)]
    return rows[: len(experts)], rows[len(experts) :]


def _refuse_twins(rows: Sequence[Expert]) -> None:
    """Refuse the same weights under two paths."""
    first: dict[str, Expert] = {}
    for row in rows:
        other = first.setdefault(row.weights, row)
        if other is not row:
            raise InputError(
                f"{other.path} and {row.path} hold the same weights, which would count twice. "
                "Leave the second out."
            )


def _read(path: str, paths: Sequence[str]) -> Expert:
    try:
        checkpoint = read_checkpoint(path)
    except InputError as error:
        others = ",".join(other for other in paths if other != path)
        rest = f" The others, without it: [{others}]." if others else ""
        raise InputError(f"{error}{rest}") from error
    known = len(checkpoint.labels) > 0 and not checkpoint.labels.is_anonymous
    split = checkpoint.provenance.split
    camera = None if split is None else split.camera
    return Expert(
        name=f"c{camera}" if camera else _name(Path(path)),
        path=path,
        camera=camera,
        labels=checkpoint.labels if known else None,
        rows=len(checkpoint.labels),
        provenance=checkpoint.provenance,
        weights=_hash(checkpoint),
    )


def _name(path: Path) -> str:
    path = path.resolve()
    return path.parents[1].name if path.parent.name == "checkpoints" else path.stem


def _distinct(names: Sequence[str], reserved: Collection[str]) -> list[str]:
    """The names, numbered where they are not their only bearer's.

    >>> _distinct(["c3", "run", "run", "mean"], ["mean"])
    ['c3', 'run-1', 'run-2', 'mean-1']
    """
    taken = {*reserved, *(name for name, count in Counter(names).items() if count > 1)}
    found: list[str] = []
    for name in names:
        numbered = (f"{name}-{number}" for number in range(1, len(names) + len(taken) + 2))
        free = name not in taken and name not in found
        found.append(name if free else next(n for n in numbered if n not in {*taken, *found}))
    return found


def _hash(checkpoint: Checkpoint) -> str:
    """Of what makes the features: the trunk and the model's config."""
    digest = hashlib.sha256(repr(checkpoint.config.network).encode())
    digest.update(repr(checkpoint.config.image_size).encode())
    for name, tensor in sorted(checkpoint.state.items()):
        if not name.startswith("heads."):
            digest.update(name.encode())
            digest.update(tensor.contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
