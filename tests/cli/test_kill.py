"""Commands that are killed, stopped or hindered, and resumed."""

import os
import random
import signal
import subprocess
import sys
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
    for during_write in (False, True):
        before = last.stat().st_mtime_ns if last.exists() else 0
        process = start(*command, *resume, folder=tmp_path, start_new_session=True)
        while process.poll() is None and (not last.exists() or last.stat().st_mtime_ns == before):
            time.sleep(0.01)
        time.sleep(chance.random() / 2)
        while during_write and process.poll() is None and not drafts(last):
            pass
        os.killpg(process.pid, signal.SIGKILL)
        ((code, _, err),) = end(process)
        assert code == -signal.SIGKILL, f"it ended before it was killed: {err}"
        resume = ("resume=part/checkpoints/last.ckpt",)
    ((code, _, err),) = end(start(*command, *resume, folder=tmp_path))
    assert code == 0, err
    assert not differing(saved(tmp_path / "whole"), saved(tmp_path / "part"))
    assert not drafts(last)


def drafts(path: Path) -> list[Path]:
    return list(path.parent.glob(".*.part"))


def started(market: Path, folder: Path, *options: str, processes: str = "one") -> Any:
    """A training in a process group of its own that has saved a checkpoint, and goes on."""
    process = start(
        "-m", "camreid.cli.train", *PROCESSES[processes], "+split=original", f"data.root={market}",
        "callbacks.last.every_n_train_steps=1", "trainer.max_epochs=1000", "test=false",
        "trainer.check_val_every_n_epoch=1000", "run_dir=r", *options,
        folder=folder, start_new_session=True,
    )  # fmt: skip
    while process.poll() is None and not (folder / "r/checkpoints/last.ckpt").exists():
        time.sleep(0.1)
    return process


def children(pid: int) -> list[int]:
    path = Path(f"/proc/{pid}/task/{pid}/children")
    return [int(child) for child in path.read_text().split()]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_saves_and_gives_its_number(number: int, market: Path, tmp_path: Path) -> None:
    process = started(market, tmp_path, "data.workers=1")
    ((code, _, err),) = end(start(
        "-m", "camreid.cli.train", *TINY, "+split=original", f"data.root={market}",
        "resume=r/checkpoints/last.ckpt", "trainer.max_epochs=1000", folder=tmp_path,
    ))  # fmt: skip
    assert code == 1
    assert "another run is writing" in err
    os.killpg(process.pid, number)  # as srun does: also the loader processes
    ((code, out, err),) = end(process)
    assert code == 128 + number, err
    assert "resume=" in out.strip().splitlines()[-1]
    assert "Traceback" not in err
    torch.load(tmp_path / "r/checkpoints/last.ckpt", weights_only=True)
    assert not drafts(tmp_path / "r/checkpoints/last.ckpt")


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="children are found in /proc")
@pytest.mark.parametrize("victim", ["worker", "rank", "first"])
def test_all_end_when_one_is_killed(victim: str, market: Path, tmp_path: Path) -> None:
    processes = "one" if victim == "worker" else "two"
    process = started(market, tmp_path, "data.workers=1", processes=processes)
    inner = children(process.pid)
    if victim != "worker":  # the second rank has the loaders of its own below it
        own = Path(f"/proc/{process.pid}/cmdline").read_bytes()  # also of its loader processes
        inner = [pid for pid in inner if Path(f"/proc/{pid}/cmdline").read_bytes() != own]
    os.kill(process.pid if victim == "first" else inner[0], signal.SIGKILL)
    begin = time.monotonic()
    ((code, _, err),) = end(process)
    assert code == (-signal.SIGKILL if victim == "first" else 1), err
    assert "Traceback" not in err, err
    assert ("loader process" if victim == "worker" else "process of this training") in err
    while children_left := [
        pid for pid in inner if Path(f"/proc/{pid}").exists()
        and "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    ]:  # fmt: skip
        assert time.monotonic() < begin + 30, children_left
        time.sleep(0.2)
    assert time.monotonic() < begin + 30


FULL = "mount -t tmpfs -o size={} tmpfs disk"


@pytest.mark.parametrize(
    ("limit", "expected"),
    [("ulimit -n 64", ""), ("ulimit -f 900", "can't be written"),
     (FULL.replace("disk", "/dev/shm").format("64k"), "/dev/shm is too small"),
     (FULL.format("8k"), "run_dir= cannot be written: No space left"),
     (FULL.format("60k"), "No space left"), (FULL.format("1500k"), "No space left")],
)  # fmt: skip
def test_few_files_are_enough_and_a_full_disk_is_named(
    limit: str, expected: str, market: Path, tmp_path: Path
) -> None:
    (tmp_path / "disk").mkdir()
    shell = ["unshare", "-m", "bash", "-c"] if "mount" in limit else ["bash", "-c"]
    if subprocess.run([*shell, limit], cwd=tmp_path, capture_output=True, check=False).returncode:
        pytest.skip("mount is not permitted")
    command = (
        *TINY, "+split=original", f"data.root={market}", "run_dir=disk/r", "trainer.max_epochs=1",
        "data.workers=2", "data.cache=none",
    )  # fmt: skip
    script = (
        f'{limit}; {sys.executable} -m camreid.cli.train "$@" || code=$?; find disk; exit $code'
    )
    code = "import os, sys; os.execvp(sys.argv[1], sys.argv[1:])"
    ((ended, out, err),) = end(
        start("-c", code, *shell, script, "train", *command, folder=tmp_path)
    )
    assert ended == bool(expected), err
    assert expected in err
    assert len(err.strip().splitlines()) == bool(expected), err
    assert ".part" not in out
