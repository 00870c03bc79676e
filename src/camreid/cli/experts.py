"""The experts of a matrix: which files, of which camera, by which name."""

import glob
import hashlib
import re
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf

from camreid.checkpoints import Checkpoint, read_checkpoint
from camreid.data import Split, read_market1501
from camreid.data.records import people
from camreid.errors import InputError, MissingDataset
from camreid.labels import LabelMap

_TYPE_SOME = (
    "type experts=[runs/experts/0/checkpoints/best.ckpt,...], or a pattern such as "
    "experts='runs/experts/*/checkpoints/best.ckpt'."
)


@dataclass(frozen=True)
class Expert:
    """A checkpoint as a row of the matrix, without its weights.

    Attributes:
        name: of the row: `c3` for an expert of camera 3, else that of its run folder or file.
        path: the file.
        camera: that it was trained on, 1-based; None for several, or if it is not known.
        labels: the people of its head; None where nobody knows whose the rows are.
        rows: of its head.
        seen: identities that it was trained on, None if that is not known.
        weights: hash of them.
    """

    name: str
    path: str
    camera: int | None
    labels: LabelMap | None
    rows: int
    seen: frozenset[int] | None
    weights: str

    def coverage(self, split: Split) -> float | None:
        """Share of the split's train identities that have a row; None if it is not known."""
        if self.labels is None or not len(split.labels):
            return None
        return len(split.labels & self.labels) / len(split.labels)


def expert_paths(config: DictConfig) -> list[str]:
    """The files that `experts=` names, patterns resolved.

    Raises:
        InputError: none, or the same one twice.
    """
    given = None if OmegaConf.is_missing(config, "experts") else config.experts
    if not given:
        raise InputError(f"no experts were given; {_TYPE_SOME}")
    return paths_of("experts", given)


def paths_of(option: str, given: Any) -> list[str]:
    """The files that an option names, patterns resolved.

    Args:
        option: what a user types.
        given: a path or pattern, or several.

    Raises:
        InputError: a pattern that matches none, or the same file twice.
    """
    names = [given] if isinstance(given, str) else [str(name) for name in given]
    paths = [path for name in names for path in _matching(option, name)]
    times = Counter(str(Path(path).resolve()) for path in paths)
    twice = [path for path, count in times.items() if count > 1]
    if twice:
        raise InputError(
            f"{option}= names {twice[0]} {times[twice[0]]} times. It would count twice: type "
            f"{option}=[{','.join(times)}]."
        )
    return paths


def _matching(option: str, name: str) -> list[str]:
    if Path(name).exists() or not glob.has_magic(name):
        return [name]
    found = sorted(glob.glob(name))
    if not found:
        raise InputError(
            f"no file matches {option}='{name}'; type {option}=[A.ckpt,B.ckpt], or a pattern such "
            f"as {option}='runs/experts/*/checkpoints/best.ckpt'."
        )
    return found


def read_experts(paths: Sequence[str], reserved: Collection[str]) -> list[Expert]:
    """Who the experts are.

    Args:
        paths: checkpoints.
        reserved: names that other rows have.

    Raises:
        InputError: a file that is no checkpoint, or two with the same weights.
    """
    experts = [_read(path, paths) for path in paths]
    first: dict[str, Expert] = {}
    for expert in experts:
        other = first.setdefault(expert.weights, expert)
        if other is not expert:
            rest = ",".join(path for path in paths if path != expert.path)
            raise InputError(
                f"{other.path} and {expert.path} hold the same weights, which would count twice in "
                f"a combination. Without the second: [{rest}]."
            )
    names = _distinct([expert.name for expert in experts], reserved)
    return [replace(expert, name=name) for expert, name in zip(experts, names, strict=True)]


def _read(path: str, paths: Sequence[str]) -> Expert:
    try:
        checkpoint = read_checkpoint(path)
    except InputError as error:
        others = ",".join(other for other in paths if other != path)
        rest = f" The others, without it: [{others}]." if others else ""
        raise InputError(f"{error}{rest}") from error
    known = len(checkpoint.labels) > 0 and not checkpoint.labels.is_anonymous
    camera = camera_of(checkpoint.notes)
    return Expert(
        name=f"c{camera}" if camera else _name(Path(path)),
        path=path,
        camera=camera,
        labels=checkpoint.labels if known else None,
        rows=len(checkpoint.labels),
        seen=checkpoint.seen if known else None,
        weights=_hash(checkpoint),
    )


def camera_of(notes: dict[str, Any]) -> int | None:
    """The one camera that a checkpoint was trained on, as its split says; None otherwise.

    >>> camera_of({"split": {"strategy": "OriginalSplit(camera=3, val_fraction=0.0, seed=0)"}})
    3
    >>> camera_of({"split_overrides": "+split=original split.camera=5"})  # as imported ones have
    5
    >>> camera_of({"split": {"strategy": "Resplit(seed=0)"}, "split_overrides": "split.camera=3"})
    """
    strategy = (notes.get("split") or {}).get("strategy")
    text = notes.get("split_overrides") or "" if strategy is None else strategy
    pattern = r"split\.camera=(\d+)" if strategy is None else r"OriginalSplit\(camera=(\d+)"
    found = re.search(pattern, text)
    return int(found[1]) if found else None


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


def people_of(root: str, split: Split) -> tuple[frozenset[int], str]:
    """The identities of the whole dataset, or of the split where only a manifest is at hand.

    Args:
        root: of the dataset.
        split: of the run.

    Returns:
        They, and where they are, as `check_people` takes them.
    """
    parts = [(*split.train, *split.val, *split.query, *split.gallery)]
    try:
        records = read_market1501(root)
        parts.append((*records.train, *records.query, *records.gallery))
    except MissingDataset:
        return frozenset(people(parts[0])), "the split"
    return frozenset(pid for part in parts for pid in people(part)), f"data.root={root}"


def check_people(experts: Sequence[Expert], people: Collection[int], root: str) -> list[str]:
    """Whether the experts' people are those of the dataset.

    Args:
        experts: of the matrix.
        people: identities of the whole dataset.
        root: where it is, for messages.

    Returns:
        What there is to say.

    Raises:
        InputError: an expert most of whose people are not in the dataset, so of another one.
    """
    told = []
    for expert in experts:
        if expert.labels is None:
            whose = "nobody's" if expert.rows else "not there"
            told.append(f"       {expert.name}: its rows are {whose}, so coverage and leak are n/a")
            continue
        strangers = [pid for pid in expert.labels.pids if pid not in people]
        if 2 * len(strangers) > expert.rows:
            rest = ",".join(e.path for e in experts if e is not expert)
            raise InputError(
                f"{expert.path} is of another dataset: {len(strangers)} of its {expert.rows} "
                f"people (such as {strangers[:3]}) are not among the {len(people)} of {root}, "
                "where a number is another person's, so coverage and leak would be false. Its "
                f"retrieval can be shown by camreid-evaluate checkpoint={expert.path}. Leave it "
                f"out, as in [{rest}], or type data.root=FOLDER with its dataset."
            )
        if strangers:
            told.append(
                f"       {expert.name}: {len(strangers)} of its {expert.rows} people are not in "
                "this dataset"
            )
    return told
