"""The dataset of a command is what its reader returns."""

from collections.abc import Callable
from pathlib import Path

import pytest
from omegaconf import DictConfig, OmegaConf

from camreid.cli.dataset import read_dataset
from camreid.data import Records, read_market1501
from camreid.errors import InputError


def camera_one(root: str, subset: str = "train") -> Records:
    """A reader of another package, with an option."""
    images = getattr(read_market1501(root), subset)
    return Records(tuple(r for r in images if r.camera == 1), (), ())


def nothing(root: str) -> dict[str, str]:
    return {"root": root}


def options(reader: Callable[..., object], root: Path, **more: object) -> DictConfig:
    read = {"_target_": f"{reader.__module__}.{reader.__name__}", **more}
    return OmegaConf.create({"read": read, "root": str(root)})


def test_a_reader_by_target_gets_the_root_and_its_options(market: Path) -> None:
    assert {r.camera for r in read_dataset(options(camera_one, market)).train} == {1}
    test = read_dataset(options(camera_one, market, subset="gallery")).train
    assert all("bounding_box_test" in r.path for r in test)


def test_a_reader_of_another_type_is_refused(market: Path) -> None:
    with pytest.raises(InputError, match=r"nothing returned a dict.*camreid\.data\.Records"):
        read_dataset(options(nothing, market))
