"""The checkpoints that a command names: start, experts, baselines, teachers, of `exclude_seen`."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from itertools import chain, count
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from camreid.checkpoints import io
from camreid.checkpoints.io import Checkpoint
from camreid.checkpoints.renumbering import renumber
from camreid.cli.dataset import read_dataset
from camreid.cli.errors import trusted
from camreid.cli.options import matching
from camreid.cli.terminal import show
from camreid.errors import InputError, MissingDataset
from camreid.models.config import build_options
from camreid.provenance import Dataset, Provenance
from camreid.training.distill import Distillation, DistillConfig, Teacher
from camreid.training.module import ReIDModule

Experts = Mapping[str, Checkpoint]  # by unique name, without weights
Start = Checkpoint | None  # of `init=` or `resume=`


def read_checkpoint(path: str | Path, datasets: Sequence[Dataset] = ()) -> Checkpoint:
    """A checkpoint in the numbers of `datasets`; its network is camreid's or a typed one."""
    try:
        return renumber(io.read_checkpoint(path, trusted), datasets)
    except InputError as error:
        if not isinstance(network := error.remedy.get("trusted"), list):
            raise
        typed = f"++model.network._target_={network[0]}"
        raise InputError(f"{error.message} Type {typed}.") from error


def with_weights(expert: Checkpoint) -> Checkpoint:
    """An expert read again, in the numbers of its record."""
    return read_checkpoint(expert.path, expert.provenance.datasets)


def read_start(config: DictConfig, datasets: Sequence[Dataset]) -> Start:
    """The checkpoint of `resume=` or `init=`, None without any."""
    path = config.resume or config.init
    if config.resume or config.init_dataset == "same":
        return read_checkpoint(path, datasets) if path else None
    if not config.init:
        raise InputError("init_dataset=other needs init=, but there is no init=.")
    start = read_checkpoint(config.init)
    if config.model.unknown != "reinit":
        found = f"the rows of {config.init} are identities of another dataset."
        raise InputError(found, unknown="reinit")
    # equal pids of two datasets are different identities
    return replace(start, provenance=Provenance(split=start.provenance.split))


def seen_identities(given: Any, datasets: Sequence[Dataset] = ()) -> tuple[int, ...]:
    """The training identities of the checkpoints of `split.exclude_seen`, in numeric order."""
    seen: set[int] = set()
    for path in matching("split.exclude_seen", given or []):
        provenance = read_checkpoint(path, datasets).provenance
        if not provenance.seen or not provenance.complete:
            found = f"exclude_seen={path}: not all of its training identities are known"
            raise InputError(f"{found}. Import it with labels.root=, or leave it out.")
        seen |= provenance.seen
    return tuple(sorted(seen))


def read_experts(
    option: str,
    given: str | Sequence[str],
    by_camera: bool = True,
    taken: Collection[str] = (),
    datasets: Sequence[Dataset] = (),
) -> dict[str, Checkpoint]:
    """The checkpoints of paths or patterns that an option names, each file once, without weights.

    The expert of camera 3 has the name `c3`, if `by_camera`; others have that of their run folder
    or file. A number is added to names that are `taken`.
    """
    experts: dict[str, Checkpoint] = {}
    for path, typed in {Path(path).resolve(): path for path in matching(option, given)}.items():
        found = replace(read_checkpoint(typed, datasets), state={})
        datasets = found.provenance.datasets or datasets  # with what the data lacks
        name = path.parents[1].name if path.parent.name == "checkpoints" else path.stem
        if by_camera and found.provenance.camera:
            name = f"c{found.provenance.camera}"
        names = chain([name], (f"{name}-{number}" for number in count(2)))
        experts[next(n for n in names if n not in (*experts, *taken))] = found
    return experts


def check_dataset(experts: Experts, data: DictConfig) -> list[str]:
    """Notes on identities that the dataset does not have; InputError if most of an expert's."""
    try:
        records = read_dataset(data)
    except MissingDataset:  # a manifest names its own files
        return []
    pids = {r.pid for r in (*records.train, *records.val, *records.query, *records.gallery)}
    notes = []
    for name, expert in experts.items():
        own = () if expert.labels.is_anonymous else expert.labels.pids
        foreign = [pid for pid in own if pid not in pids]
        found = f"{len(foreign)} of its {len(own)} identities"
        if 2 * len(foreign) > len(own) and not expert.provenance.datasets:  # numbers of its own
            found = f"{expert.path} was trained on another dataset: {found} ({foreign[:3]}, ...)"
            raise InputError(f"{found} are not in {data.root}. Type its root, or leave it out.")
        if foreign:
            notes.append(f"{name}: {found} are not in this dataset.")
    return notes


def read_teachers(config: DictConfig, start: Start, data: Sequence[Dataset]) -> Experts:
    """The teachers of a config; `distill.teachers` becomes their files."""
    experts: Experts = {}
    if config.get("distill") is not None:
        given = config.distill.get("teachers") or ()
        experts = read_experts("distill.teachers", given, datasets=data)
        config.distill.teachers = [expert.path for expert in experts.values()]
    now = [expert.path for expert in experts.values()]
    then = [p.path for p in start.provenance.parents if p.role == "teacher"] if start else []
    if config.resume and sorted(then) != sorted(now):
        found = f"resume={config.resume} had the teachers {then}, and this command names {now}"
        raise InputError(f"{found}. Type the same, or init= in place of resume=.")
    return experts


def add_distillation(config: DictConfig, module: ReIDModule, experts: Experts) -> None:
    """Add the losses of the teachers, and the teachers to the provenance."""
    if not experts:
        return
    given = {str(k): v for k, v in config.distill.items() if k != "teachers"}
    options = build_options(DistillConfig, "distill", given)
    notes = check_dataset(experts, config.data)
    anonymous = [name for name, expert in experts.items() if expert.labels.is_anonymous]
    notes += [f"{name}: its rows have no identities." for name in anonymous]
    teachers = [Teacher(with_weights(e).module(), e.provenance.camera) for e in experts.values()]
    module.extra_losses.append(Distillation(teachers, module.model, options))
    records = {expert.path: expert.provenance for expert in experts.values()}
    module.provenance = module.provenance.after("teacher", records)
    lines = [f"Teacher {name}: {expert.path}" for name, expert in experts.items()]
    show(*lines, *(f"Note    {note}" for note in notes))
