"""From the config group `data` to the records of one or several datasets."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from hydra import compose
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf, open_dict

from camreid.data import Records
from camreid.errors import InputError
from camreid.progress import note
from camreid.provenance import CAMERAS, PIDS, Dataset


def data_root(data: DictConfig) -> str:
    """Where the dataset is: `data.root`, or the folder in it with the rendered synthetic data."""
    if data.root is None:
        missing = {"data__path": "FILE"} if "path" in data else {"data__root": "FOLDER"}
        raise InputError("no dataset was named.", **missing)
    if data.get("render") is None:
        return str(data.root)
    render = instantiate(data.render, _target_="camreid.data.SyntheticMarket")
    return str(render.render(data.root))


def read_dataset(data: DictConfig, root: str | None = None) -> Records:
    """The records at `root`, by default `data.root`, and the training images of `data.also`."""
    reader: Any = OmegaConf.to_container(data.read, resolve=True)
    place = root or data_root(data)
    note(f"Reading {place}")
    records = instantiate(reader, place)
    if not isinstance(records, Records):
        found = f"{reader['_target_']} returned a {type(records).__name__}"
        raise InputError(f"{found}; expected camreid.data.Records.")
    named, name = (*records.datasets, Dataset(""))[0], str(data.get("name") or Path(place).stem)
    records = replace(records, datasets=(replace(named, name=name),))
    others = []
    for given in data.get("also") or ():
        other = compose("train", [f"data={given['data']}"]).data
        with open_dict(other):  # in its place, for `root: ${data.path}`
            other.update({key: value for key, value in given.items() if key != "data"})
        others.append(read_dataset(other))
    return _join([records, *others]) if others else records


def _join(parts: list[Records]) -> Records:
    """The first dataset with the training images of the others, each in a range of numbers."""
    datasets = tuple(dataset for own in parts for dataset in own.datasets)
    images = [r for own in parts for r in (*own.train, *own.query, *own.gallery)]
    if any(r.pid >= PIDS or r.camera >= CAMERAS for r in images):
        raise InputError(f"several datasets need pids below {PIDS:,}, cameras below {CAMERAS:,}.")
    names = [dataset.name for dataset in datasets]
    if len({*names}) < len(names):
        raise InputError(f"datasets have equal names: {names}. Type name:NAME in data.also=.")
    every = [(place, r) for place, own in enumerate(parts) for r in own.train]
    train = tuple(replace(r, pid=r.pid + n * PIDS, camera=r.camera + n * CAMERAS) for n, r in every)
    notes = tuple(note for own in parts for note in own.notes)
    return replace(parts[0], train=train, datasets=datasets, notes=notes)
