"""Processes that torchrun or srun start, and jobs side by side."""

import csv
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from camreid.cli.folder import launched
from tests.cli.conftest import refused
from tests.conftest import TINY, Ran

ROOT = Path(__file__).parents[2]
LAUNCHER = re.compile("LOCAL_RANK|RANK|WORLD_SIZE|SLURM_|MASTER_|TORCHELASTIC_")
DDP = (
    *(option for option in TINY if option != "trainer=cpu"),
    "trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2", "trainer.max_epochs=1",
)  # fmt: skip
SRUN = {
    "SLURM_JOB_ID": "4711", "SLURM_JOB_NAME": "reid", "SLURM_NTASKS": "2", "SLURM_NNODES": "1",
    "SLURM_NTASKS_PER_NODE": "2", "SLURM_NODEID": "0", "MASTER_ADDR": "127.0.0.1",
}  # fmt: skip
Run = Callable[..., Ran]


def start(
    *command: str, folder: Path, start_new_session: bool = False, **variables: str
) -> "subprocess.Popen[str]":
    kept = {k: v for k, v in os.environ.items() if not LAUNCHER.match(k)}
    path = f"{ROOT / 'src'}{os.pathsep}{ROOT}{os.pathsep}{kept.get('PYTHONPATH', '')}"
    environment = {**kept, "PYTHONPATH": path, **variables}
    return subprocess.Popen(
        [sys.executable, *command],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=start_new_session,
    )


def end(*processes: "subprocess.Popen[str]") -> list[tuple[int, str, str]]:
    ended = [(*process.communicate(timeout=240), process.returncode) for process in processes]
    return [(code, out, err) for out, err, code in ended]


def srun(*options: str, folder: Path, port: int) -> list[tuple[int, str, str]]:
    """Two tasks with the variables of srun."""
    ranks = [{"SLURM_PROCID": r, "SLURM_LOCALID": r, "MASTER_PORT": str(port)} for r in ("0", "1")]
    command = ("-m", "camreid.cli.train", *DDP, *options)
    return end(*(start(*command, folder=folder, **SRUN, **rank) for rank in ranks))


def is_trained_once(folder: Path, out: str) -> None:
    assert out.count("Head check (") == 1
    assert out.count("digest ") == 1
    assert {path.name for path in folder.iterdir()} == {"r"}
    assert json.loads((folder / "r" / "metrics.json").read_text())["retrieval"]
    with (folder / "r" / "metrics.csv").open(newline="") as file:
        assert [line["epoch"] for line in csv.DictReader(file) if line["val/mAP"]] == ["0"]


@pytest.mark.slow
def test_torchrun_trains_once(market: Path, tmp_path: Path) -> None:
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m")
    options = (*DDP, "+split=resplit", f"data.root={market}")
    command = (*launcher, "camreid.cli.train", *options)
    ((code, out, err),) = end(start(*command, "run_dir=r", folder=tmp_path))
    assert code == 0, err
    is_trained_once(tmp_path, out)


@pytest.mark.slow
def test_srun_trains_once(market: Path, tmp_path: Path) -> None:
    options = ("+split=resplit", f"data.root={market}", "run_dir=r")
    first, second = srun(*options, folder=tmp_path, port=29611)
    assert (first[0], second[0]) == (0, 0), first[2] + second[2]
    is_trained_once(tmp_path, first[1] + second[1])


@pytest.mark.parametrize(
    ("variables", "options", "expected"),
    [
        ({"TORCHELASTIC_RUN_ID": "x", "LOCAL_WORLD_SIZE": "2"},
         ("run_dir=r",), "trainer=ddp trainer.devices=2"),
        ({"TORCHELASTIC_RUN_ID": "x", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}, (), "run_dir="),
        ({"TORCHELASTIC_RUN_ID": "x", "LOCAL_WORLD_SIZE": "512"},
         ("trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=512", "run_dir=r"),
         "starts 512 processes"),
        (SRUN, ("run_dir=r",), "srun has started 2 processes on each of 1 machines"),
        ({**SRUN, "SLURM_NNODES": "2"}, ("run_dir=r",), "trainer.num_nodes=2"),
        (SRUN, (), "run_dir="),
    ],
)  # fmt: skip
def test_other_processes_than_configured_are_refused(
    variables: dict[str, str], options: tuple[str, ...], expected: str, market: Path,
    run: Run, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert expected in refused(
        run(
            "camreid-train",
            *TINY,
            *options,
            "+split=original",
            f"data.root={market}",
            "data.cache=none",
        )
    )


def test_an_interactive_job_is_no_srun(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in SRUN.items():
        monkeypatch.setenv(name, value)
    assert launched() == ("srun", 2, 1)
    monkeypatch.setenv("SLURM_JOB_NAME", "bash")
    assert launched() == ("", 1, 1)


@pytest.mark.slow
def test_jobs_side_by_side_keep_their_results(market: Path, tmp_path: Path) -> None:
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher")
    joblib = ("-m", "hydra/launcher=joblib", "hydra.launcher.n_jobs=2", "run_dir=r")
    options = (*TINY, "trainer.max_epochs=1", "test=false", "+split=original")
    cameras = "split.camera=1,99,2"
    command = ("-m", "camreid.cli.train", *joblib, *options, f"data.root={market}", cameras)
    ((code, _, err),) = end(start(*command, folder=tmp_path))
    assert code == 1
    assert err.count("camreid-train, job 1: camera=99 has no images") == 1, err
    assert "split.camera=99" in err
    assert "Traceback" not in err
    for job, camera in (("0", 1), ("2", 2)):
        assert (tmp_path / "r" / job / "checkpoints" / "last.ckpt").is_file()
        log = (tmp_path / "r" / job / "camreid-train.log").read_text()
        assert log.count("Batch  4 identities") == 1
        assert f"camera: {camera}" in (tmp_path / "r" / job / "config.yaml").read_text()
