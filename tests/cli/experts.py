"""Checkpoints of experts without any training, and the results of camreid-matrix."""

import json
from pathlib import Path
from typing import Any

import torch

from camreid.checkpoints.io import save
from camreid.evaluation import FeatureTable, rank
from camreid.labels import LabelMap
from camreid.training import ReIDModule
from tests.conftest import CONFIG, Ran, trained


def imported(path: Path, camera: int | None, labels: LabelMap, seed: int) -> Path:
    """A checkpoint as an import leaves it."""
    torch.manual_seed(seed)
    save(trained(ReIDModule(CONFIG, labels), camera).eval(), path)
    return path


def typed(paths: list[Path]) -> str:
    return f"experts=[{','.join(map(str, paths))}]"


def content(folder: str = "r") -> dict[str, Any]:
    return json.loads(Path(folder, "matrix.json").read_text())


def ranked(table: FeatureTable) -> Any:
    q, g = table.query, table.gallery
    return rank(q.features, g.features, q.pids, g.pids, q.cameras, g.cameras)


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
