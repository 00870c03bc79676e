"""Fixtures of several tests of commands."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from camreid.data import OriginalSplit, Records
from tests.cli.experts import imported
from tests.conftest import Ran

Run = Callable[..., Ran]
QUIET = ("trainer=cpu", "trainer.enable_progress_bar=false", "data.workers=0")


@pytest.fixture
def matrix(run: Run, market: Path) -> Run:
    return partial(run, "camreid-matrix", f"data.root={market}", *QUIET)


@pytest.fixture
def experts(records: Records, tmp_path: Path) -> list[Path]:
    """Checkpoints of cameras 1 and 2, without any training."""
    return [
        imported(tmp_path / f"{c}.ckpt", c, OriginalSplit(camera=c)(records).labels, seed=c)
        for c in (1, 2)
    ]
