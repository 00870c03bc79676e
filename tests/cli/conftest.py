"""Shared by several tests of commands."""

import json
import socket
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf

from camreid.checkpoints.io import save
from camreid.cli.errors import leaves
from camreid.cli.options import check_values, known_options, relevant
from camreid.data import OriginalSplit, Records
from camreid.files import CONF
from camreid.labels import LabelMap
from camreid.training import ReIDModule
from tests.conftest import CONFIG, Ran, trained


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fail a test in which a command connects to another machine."""
    connect = socket.socket.connect

    def connect_here(own: socket.socket, address: Any) -> None:
        here = own.family not in (socket.AF_INET, socket.AF_INET6) or "localhost" in address
        if not here and not address[0].startswith(("127.", "::1")):
            pytest.fail(f"a connection to {address}")
        connect(own, address)

    monkeypatch.setattr(socket.socket, "connect", connect_here)


def imported(path: Path, camera: int | None, labels: LabelMap, seed: int) -> Path:
    """A checkpoint as an import leaves it."""
    torch.manual_seed(seed)
    save(trained(ReIDModule(CONFIG, labels), camera).eval(), path)
    return path


@pytest.fixture
def experts(records: Records, tmp_path: Path) -> list[Path]:
    """Checkpoints of cameras 1 and 2, without any training."""
    return [
        imported(tmp_path / f"{c}.ckpt", c, OriginalSplit(camera=c)(records).labels, seed=c)
        for c in (1, 2)
    ]


def metrics(folder: str = "r") -> dict[str, Any]:
    return json.loads(Path(folder, "metrics.json").read_text())


def refused(ran: Ran) -> str:
    """The one paragraph of a command that has left nothing behind."""
    assert ran.code not in (0, None), ran.out
    message = ran.err.strip()
    assert "\n" not in message
    assert "Traceback" not in message + ran.out
    assert not list(Path().glob("*/checkpoints/last.ckpt"))
    assert not Path("r").exists()
    assert not Path("runs").exists()
    return message


def accept(*typed: str, command: str = "train") -> DictConfig:
    """Check the options of a command as if they were typed; InputError where it refuses them."""
    overrides = [*typed, "run_dir=r"]
    if command != "import" and not any("split=" in text for text in typed):
        overrides.append("+split=original")
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose(command, overrides)
        known = known_options(command, overrides)
    given = dict(leaves(OmegaConf.to_container(config)))
    typed_names = {text.partition("=")[0].lstrip("+") for text in typed}
    known = relevant(given, known, typed_names)
    known.pop("data.root", None)
    check_values(given, known, typed_names)
    return config
