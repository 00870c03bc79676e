"""Checkpoints that an option names: experts, baselines, teachers."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import chain, count
from pathlib import Path

from omegaconf import DictConfig

from camreid.cli.checkpoints import read_checkpoint
from camreid.cli.dataset import read_dataset
from camreid.cli.options import matching
from camreid.data import Split
from camreid.errors import InputError, MissingDataset
from camreid.labels import LabelMap
from camreid.provenance import Dataset, Provenance
from camreid.training.module import ReIDModule


@dataclass(frozen=True)
class Expert:
    """A checkpoint without its weights."""

    name: str  # unique in the command
    path: str
    labels: LabelMap
    provenance: Provenance

    @property
    def camera(self) -> int | None:
        """The camera that it was trained on, 1-based; None for several, or if it is unknown."""
        return self.provenance.split.camera if self.provenance.split else None

    def coverage(self, split: Split) -> float | None:
        """Share of the split's train identities that have a row; None if its rows are unknown."""
        if self.labels.is_anonymous or not split.labels.pids:
            return None
        return len(split.labels & self.labels) / len(split.labels)


def read_experts(
    option: str,
    given: str | Sequence[str],
    by_camera: bool = True,
    taken: Collection[str] = (),
    datasets: Sequence[Dataset] = (),
) -> list[Expert]:
    """The checkpoints of paths or patterns that an option names, each file once.

    With `by_camera` the expert of camera 3 has the name `c3`; others have that of their run folder
    or file. A number is added to names that are `taken`. `datasets` are those of the data.
    """
    files = {Path(path).resolve(): path for path in matching(option, given)}
    experts: dict[str, Expert] = {}
    for path, typed in files.items():
        found = read_checkpoint(typed, datasets)
        datasets = found.provenance.datasets or datasets  # with what the data lacks
        split = found.provenance.split
        name = path.parents[1].name if path.parent.name == "checkpoints" else path.stem
        if by_camera and split and split.camera:
            name = f"c{split.camera}"
        candidates = chain([name], (f"{name}-{number}" for number in count(2)))
        name = next(n for n in candidates if n not in experts and n not in taken)
        experts[name] = Expert(name, typed, found.labels, found.provenance)
    return list(experts.values())


def check_dataset(experts: Sequence[Expert], data: DictConfig) -> list[str]:
    """Notes on identities that the dataset does not have; InputError if most of an expert's."""
    try:
        records = read_dataset(data)
    except MissingDataset:  # a manifest names its own files
        return []
    pids = {r.pid for r in (*records.train, *records.val, *records.query, *records.gallery)}
    notes = []
    for expert in experts:
        own = () if expert.labels.is_anonymous else expert.labels.pids
        foreign = [pid for pid in own if pid not in pids]
        found = f"{len(foreign)} of its {len(own)} identities"
        if 2 * len(foreign) > len(own) and not expert.provenance.datasets:  # numbers of its own
            raise InputError(
                f"{expert.path} was trained on another dataset: {found}, such as {foreign[:3]}, "
                f"are not among the {len(pids)} of data.root={data.root}. Equal numbers of two "
                "datasets are different identities: leave it out, or set data.root to its dataset."
            )
        if foreign:
            notes.append(f"{expert.name}: {found} are not in this dataset.")
    return notes


def read_model(expert: Expert) -> ReIDModule:
    """The model of an expert, with the numbers of its record."""
    return read_checkpoint(expert.path, expert.provenance.datasets).module()
