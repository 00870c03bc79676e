"""Checkpoints that an option names: experts, baselines, teachers."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from itertools import chain, count
from pathlib import Path

from camreid.cli.checkpoints import matching, read_checkpoint
from camreid.data import Split, read_market1501
from camreid.errors import InputError, MissingDataset
from camreid.labels import LabelMap
from camreid.provenance import Provenance


@dataclass(frozen=True)
class Expert:
    """A checkpoint without its weights.

    Attributes:
        name: unique among those that were read together.
        path: the file.
        labels: the identities of its classifier rows.
        provenance: what it was trained on.
    """

    name: str
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
    given: str | Sequence[str] | None,
    by_camera: bool = True,
    taken: Collection[str] = (),
) -> list[Expert]:
    """The checkpoints that an option names, each file once.

    Args:
        option: what the user types.
        given: a path or pattern, or several.
        by_camera: name the expert of camera 3 `c3`; otherwise by its run folder or file.
        taken: names of other rows.

    Raises:
        InputError: no file, a pattern without any, or a file that is no checkpoint.
    """
    if not given:
        raise InputError(
            f"{option} names no checkpoint; type {option}='runs/*/checkpoints/best.ckpt'."
        )
    names = [given] if isinstance(given, str) else given
    files = {Path(p).resolve(): p for name in names for p in matching(option, str(name))}
    experts: dict[str, Expert] = {}
    for path, typed in files.items():
        found = read_checkpoint(typed)
        expert = Expert("", typed, found.labels, found.provenance)
        name = path.parents[1].name if path.parent.name == "checkpoints" else path.stem
        name = f"c{expert.camera}" if by_camera and expert.camera else name
        candidates = chain([name], (f"{name}-{number}" for number in count(2)))
        name = next(n for n in candidates if n not in experts and n not in taken)
        experts[name] = replace(expert, name=name)
    return list(experts.values())


def check_dataset(experts: Sequence[Expert], root: str) -> list[str]:
    """Notes on experts with identities that the dataset does not have.

    Raises:
        InputError: an expert of another dataset, by most of its identities.
    """
    try:
        records = read_market1501(root)
    except MissingDataset:  # a manifest names its own files
        return []
    pids = {r.pid for r in (*records.train, *records.query, *records.gallery)}
    notes = []
    for expert in experts:
        own = () if expert.labels.is_anonymous else expert.labels.pids
        foreign = [pid for pid in own if pid not in pids]
        found = f"{len(foreign)} of its {len(own)} identities"
        if 2 * len(foreign) > len(own):
            raise InputError(
                f"{expert.path} was trained on another dataset: {found}, such as {foreign[:3]}, "
                f"are not among the {len(pids)} of data.root={root}. Equal numbers of two datasets "
                "are different identities: leave it out, or type its dataset."
            )
        if foreign:
            notes.append(f"{expert.name}: {found} are not in this dataset.")
    return notes
