"""From the config group `data` to the records of a dataset."""

from typing import Any

from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from camreid.data import Records
from camreid.errors import InputError


def data_root(data: DictConfig) -> str:
    """Where the dataset is: `data.root`, or the folder in it with the rendered synthetic data."""
    if data.get("render") is None:
        return str(data.root)
    render = instantiate(data.render, _target_="camreid.data.SyntheticMarket")
    return str(render.render(data.root))


def read_dataset(data: DictConfig, root: str | None = None) -> Records:
    """The records that the reader `data.read` finds at `root`, by default `data.root`.

    A reader is a function of the root and of its own options that returns `Records`.
    """
    reader: Any = OmegaConf.to_container(data.read, resolve=True)
    records = instantiate(reader, root or data_root(data))
    if not isinstance(records, Records):
        raise InputError(
            f"data.read._target_={reader['_target_']} returned a {type(records).__name__}; "
            "expected camreid.data.Records, whose train, query and gallery are tuples of "
            "camreid.data.ImageRecord."
        )
    return records
