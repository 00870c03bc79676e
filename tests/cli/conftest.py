"""Shared by several tests of commands."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from camreid.checkpoints.io import save
from camreid.data import OriginalSplit, Records
from camreid.labels import LabelMap
from camreid.training import ReIDModule
from tests.conftest import CONFIG, Ran, trained


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
