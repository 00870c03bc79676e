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
    for name in filter(re.compile(r"heads\.\w+\.pids").fullmatch, state):
        state[name] = torch.tensor(numbers.pids(state[name].tolist()), dtype=torch.int64)
    network, split = dict(checkpoint.config.network), old.split
    if network.get("cameras"):
        network["cameras"] = [numbers.new(c, CAMERAS) for c in network["cameras"]]
    if split and split.camera:
        camera = numbers.new(split.camera, CAMERAS)
        split = replace(split, options={**split.options, "camera": camera})
    seen, val = (frozenset(numbers.pids(own)) for own in (old.identities, old.val_identities))
    new = replace(old, identities=seen, val_identities=val, split=split, datasets=numbers.datasets)
    maps, calibration = checkpoint.camera_labels.items(), checkpoint.calibration
    labels = LabelMap(numbers.pids(checkpoint.labels.pids))
    cameras = {numbers.new(c, CAMERAS): LabelMap(numbers.pids(m.pids)) for c, m in maps}
    found = replace(checkpoint, state=state, labels=labels, camera_labels=cameras, provenance=new)
    pairs = calibration.cameras.items() if calibration else ()
    own = {re.sub(r"\d+", lambda n: str(numbers.new(int(n[0]), CAMERAS)), k): v for k, v in pairs}
    calibration = calibration and replace(calibration, cameras=own)
    config = replace(checkpoint.config, network=network)
    return replace(found, config=config, calibration=calibration)


class _Numbers:
    """New numbers: the k-th dataset has pids from k * PIDS and cameras from k * CAMERAS."""

    def __init__(self, old: Sequence[Dataset], data: Sequence[Dataset]) -> None:
        places = {dataset.name: place for place, dataset in enumerate(data)}
        self.datasets = tuple(data)
        self._known: dict[tuple[int, int], int] = {}  # new number by step and old number
        self._first: list[int] = []  # place in `datasets` for the other numbers
        for k, own in enumerate(old):
            place = places.get(own.name, -1)
            new, lacks = data[place] if place >= 0 else Dataset(own.name), place < 0
            tables = (PIDS, own.identities, new.identities), (CAMERAS, own.cameras, new.cameras)
            for step, mine, theirs in tables:
                both = {(step, k * step + n): name for name, n in mine.items() if name in theirs}
                self._known |= {key: place * step + theirs[name] for key, name in both.items()}
                lacks |= len(both) < len(mine)
            self._first.append(len(self.datasets) if lacks else place)
            self.datasets += (own,) if lacks else ()

    def new(self, number: int, step: int) -> int:
        """Of a pid or camera; distractors, junk and anonymous rows keep theirs."""
        k = min(number // step, len(self._first) - 1)
        other = number + (self._first[k] - k) * step
        return self._known.get((step, number), other) if number > 0 else number

    def pids(self, pids: Iterable[int]) -> tuple[int, ...]:
        return tuple(self.new(pid, PIDS) for pid in pids)

    def key(self, name: str) -> str:
        """A name in a state dict, in which the head of a camera has its number."""
        found = re.match(r"heads\.c(\d+)(\..*)", name)
        return f"heads.c{self.new(int(found[1]), CAMERAS)}{found[2]}" if found else name
