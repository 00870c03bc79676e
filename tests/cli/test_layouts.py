"""`data=NAME` reads a public layout, and the wrong name is answered with the right one."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from camreid.cli.dataset import read_dataset
from tests.cli.conftest import refused
from tests.cli.test_configs import composed
from tests.conftest import TINY, Ran
from tests.data.test_layouts import READERS, make


@pytest.mark.parametrize("name", READERS)
def test_the_name_of_a_layout_chooses_its_reader(name: str, tmp_path: Path) -> None:
    home = make(name, tmp_path / "there")
    config = composed(f"data={name}", f"data.root={tmp_path}")
    records = read_dataset(config.data)
    assert replace(records, datasets=()) == READERS[name](home)
    assert records.datasets[0].name == name.replace("occluded_duke", "dukemtmc")
    assert config.data.identities == composed().data.identities


@pytest.mark.parametrize("name", ["msmt17", "veri"])
def test_another_layout_is_answered_with_what_to_type(
    name: str, tmp_path: Path, run: Callable[..., Ran]
) -> None:
    make(name, tmp_path / "there")
    ran = run("camreid-train", "+split=original", f"data.root={tmp_path}", *TINY, "run_dir=r")
    assert refused(ran).endswith(f"Type data={name}.")
