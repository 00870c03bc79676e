"""A checkpoint in the numbers of the data that it is used with."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import replace

import torch

from camreid.checkpoints.io import Checkpoint
from camreid.labels import LabelMap
from camreid.provenance import CAMERAS, PIDS, Dataset


def renumber(checkpoint: Checkpoint, data: Sequence[Dataset]) -> Checkpoint:
    """The checkpoint with the identities and cameras of `data`; itself if those are unknown.

    Identities and cameras that `data` lacks get numbers of an additional dataset.
    """
    old = checkpoint.provenance
    if not old.datasets or not data:
        return checkpoint
    numbers = _Numbers(old.datasets, data)
    state = {numbers.key(k): v for k, v in checkpoint.state.items()}
    for name in [k for k in state if re.fullmatch(r"heads\.\w+\.pids", k)]:
        state[name] = torch.tensor(numbers.pids(state[name].tolist()), dtype=torch.int64)
    network, split = dict(checkpoint.config.network), old.split
    if network.get("cameras"):
        network["cameras"] = [numbers.new(c, CAMERAS) for c in network["cameras"]]
    if split and split.camera:
        camera = numbers.new(split.camera, CAMERAS)
        split = replace(split, options={**split.options, "camera": camera})
    maps = checkpoint.camera_labels.items()
    return replace(
        checkpoint,
        state=state,
        config=replace(checkpoint.config, network=network),
        labels=LabelMap(numbers.pids(checkpoint.labels.pids)),
        camera_labels={numbers.new(c, CAMERAS): LabelMap(numbers.pids(m.pids)) for c, m in maps},
        provenance=replace(
            old,
            split=split,
            identities=frozenset(numbers.pids(old.identities)),
            val_identities=frozenset(numbers.pids(old.val_identities)),
            datasets=numbers.datasets,
        ),
    )


class _Numbers:
    """New numbers: the k-th dataset has pids from k * PIDS and cameras from k * CAMERAS."""

    def __init__(self, then: Sequence[Dataset], data: Sequence[Dataset]) -> None:
        self.datasets = tuple(data)
        self._tables: list[dict[int, dict[int, int]]] = []  # new by old number, of each step
        self._first: list[int] = []  # place of the dataset of numbers that are in no table
        places = {dataset.name: place for place, dataset in enumerate(data)}
        for old in then:
            place = places.get(old.name, -1)
            new = data[place] if place >= 0 else Dataset(old.name)
            names = {PIDS: (old.identities, new.identities), CAMERAS: (old.cameras, new.cameras)}
            self._tables.append({})
            for step, (mine, own) in names.items():
                known = {n: place * step + own[name] for name, n in mine.items() if name in own}
                self._tables[-1][step] = known
            if place < 0 or any(mine.keys() - own.keys() for mine, own in names.values()):
                place, self.datasets = len(self.datasets), (*self.datasets, old)
            self._first.append(place)

    def new(self, number: int, step: int) -> int:
        """Of a pid or camera; distractors, junk and anonymous rows keep theirs."""
        if number <= 0:
            return number
        k = min(number // step, len(self._tables) - 1)
        own = number - k * step
        return self._tables[k][step].get(own, self._first[k] * step + own)

    def pids(self, pids: Iterable[int]) -> tuple[int, ...]:
        return tuple(self.new(pid, PIDS) for pid in pids)

    def key(self, name: str) -> str:
        """A name in a state dict, in which the head of a camera has its number."""
        found = re.match(r"heads\.c(\d+)(\..*)", name)
        return f"heads.c{self.new(int(found[1]), CAMERAS)}{found[2]}" if found else name
