"""Commands that are killed by SIGKILL, and resumed."""

import os
import random
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.cli.test_launchers import end, start
from tests.conftest import TINY
from tests.training.test_resume import differing

pytestmark = pytest.mark.slow
CPU = tuple(option for option in TINY if option != "trainer=cpu")
PROCESSES = {
    "one": TINY,
    "two": (*CPU, "trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2"),
}


def saved(run: Path) -> dict[str, Any]:
    """What the last checkpoint of a run holds, but for paths and times."""
    content = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)
    names = ("state_dict", "current_model_state", "averaging_state", "optimizer_states")
    return {name: content[name] for name in names}


@pytest.mark.parametrize("processes", PROCESSES)
def test_killed_at_any_moment_it_goes_on_to_the_same_weights(
    processes: str, market: Path, tmp_path: Path
) -> None:
    command = (
        "-m", "camreid.cli.train", *PROCESSES[processes], "+split=original", f"data.root={market}",
        f"data.cache_dir={tmp_path / 'cache'}", "data.cache=disk", "callbacks=ema", "test=false",
        "callbacks.last.every_n_train_steps=1", "trainer.max_epochs=4",
    )  # fmt: skip
    ((code, _, err),) = end(start(*command, "run_dir=whole", folder=tmp_path))
    assert code == 0, err
    last, chance = tmp_path / "part" / "checkpoints" / "last.ckpt", random.Random(processes)
    resume: tuple[str, ...] = ("run_dir=part",)
    for _ in range(2):
        before = last.stat().st_mtime_ns if last.exists() else 0
        process = start(*command, *resume, folder=tmp_path, start_new_session=True)
        while process.poll() is None and (not last.exists() or last.stat().st_mtime_ns == before):
            time.sleep(0.01)
        time.sleep(chance.random() / 2)
        os.killpg(process.pid, signal.SIGKILL)
        assert end(process)[0][0] == -signal.SIGKILL, "it ended before it was killed"
        resume = ("resume=part/checkpoints/last.ckpt",)
    ((code, _, err),) = end(start(*command, *resume, folder=tmp_path))
    assert code == 0, err
    assert not differing(saved(tmp_path / "whole"), saved(tmp_path / "part"))
