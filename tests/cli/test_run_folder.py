"""A command deletes and overwrites only files that it created."""

import errno
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from camreid.cli.folder import RunFolder, discard, is_first
from camreid.files import lock, unlock
from tests.conftest import TINY, Ran

Run = Callable[..., Ran]
SPLIT = "+split=original"


def contents(folder: Path) -> dict[str, str]:
    return {str(p): p.read_text() for p in folder.rglob("*") if p.is_file()}


@pytest.mark.parametrize(
    "own", ["config.yaml", "split.csv", "head_check.json", "hparams.yaml", "metrics.csv"]
)
@pytest.mark.parametrize("root", ["nowhere", "market"])
def test_a_folder_with_files_of_these_names_is_refused(
    own: str, root: str, run: Run, market: Path
) -> None:
    Path("mine").mkdir()
    for name in (own, "notes.txt"):
        (Path("mine") / name).write_text("precious")
    before = contents(Path("mine"))
    place = market if root == "market" else root
    ran = run("camreid-train", SPLIT, f"data.root={place}", *TINY, "run_dir=mine")
    assert ran.code == 1
    assert own in ran.err
    assert contents(Path("mine")) == before


@pytest.mark.parametrize(
    "command",
    [
        ("camreid-evaluate", "checkpoint=x.ckpt", SPLIT, "run_dir=mine"),
        ("camreid-matrix", "experts=[x.ckpt]", SPLIT, "run_dir=mine"),
        ("camreid-export", "checkpoint=x.ckpt", "run_dir=mine"),
        ("camreid-import", "path=x.pth", "model=small", "run_dir=mine"),
        ("camreid-train", SPLIT, "hydra.run.dir=mine"),
        ("camreid-train", SPLIT, "run_dir=${data.root}", "data.root=mine"),
        ("camreid-train", "-m", SPLIT, "split.camera=1,2", "run_dir=mine"),
        ("camreid-train", SPLIT, "resume=other/checkpoints/last.ckpt", "run_dir=mine"),
    ],
)
def test_every_command_refuses_it(command: tuple[str, ...], run: Run) -> None:
    folder = Path("mine/0") if "-m" in command else Path("mine")
    (folder / ".hydra").mkdir(parents=True)
    (folder / ".hydra" / "config.yaml").write_text("precious")
    before = contents(Path("mine"))
    ran = run(*command)
    assert ran.code == 1
    assert ".hydra" in ran.err
    assert contents(Path("mine")) == before


def test_a_failed_command_takes_back_its_own_files_alone(run: Run) -> None:
    Path("mine").mkdir()
    for name in ("notes.log", "camreid-train-1.log"):  # the second of another rank under srun
        Path("mine", name).write_text("precious")
    before = contents(Path())
    for folder in ("mine", "new/er", "runs/r"):
        ran = run("camreid-train", SPLIT, "data.root=nowhere", *TINY, f"run_dir={folder}")
        assert ran.code == 1
        assert "nowhere" in ran.err
    assert contents(Path()) == before
    assert [p.name for p in Path().iterdir()] == ["mine"]


def test_a_disk_that_is_full_at_once_leaves_no_folder(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def save(config: object, name: str, folder: Path) -> None:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
        raise OSError(errno.ENOSPC, "No space left on device", name)

    monkeypatch.setattr("hydra.core.utils._save_config", save)
    Path("mine").mkdir()
    Path("mine/notes").write_text("precious")
    before = contents(Path())
    for folder in ("new/er", "mine"):
        ran = run("camreid-train", SPLIT, "data.root=nowhere", *TINY, f"run_dir={folder}")
        assert ran.code == 1
        assert "run_dir= cannot be written: No space left" in ran.err
        assert contents(Path()) == before
        assert [p.name for p in Path().iterdir()] == ["mine"]


def test_a_resume_that_fails_keeps_the_options_of_the_run(run: Run) -> None:
    for name in (".hydra/overrides.yaml", "config.yaml", "checkpoints/last.ckpt"):
        Path("r", name).parent.mkdir(parents=True, exist_ok=True)
        Path("r", name).write_text("precious")
    ran = run("camreid-train", SPLIT, "data.root=nowhere", *TINY, "resume=r/checkpoints/last.ckpt")
    assert ran.code == 1
    assert [
        p.name for p in Path("r").rglob("*") if p.is_file() and p.read_text() != "precious"
    ] == ["camreid-train.log"]
    assert {p.name for p in Path("r/.hydra").iterdir()} == {"overrides.yaml"}


def test_a_folder_that_another_run_holds_is_refused(run: Run) -> None:
    Path("mine").mkdir()
    held = lock("mine")
    ran = run("camreid-train", SPLIT, "data.root=nowhere", *TINY, "run_dir=mine")
    unlock(held)
    assert ran.code == 1
    assert "another run is writing into run_dir=" in ran.err
    assert not list(Path("mine").iterdir())
    assert "nowhere" in run("camreid-train", SPLIT, "data.root=nowhere", "run_dir=mine").err


def test_home_and_variables_are_expanded(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/no/home")
    monkeypatch.setenv("IMAGES", "/no/images")
    for typed, found in (("~/x", "/no/home/x"), ("$IMAGES/x", "/no/images/x")):
        assert f"data.root={found} " in run("camreid-train", SPLIT, f"data.root={typed}").err


@pytest.mark.parametrize("name", ["RANK", "LOCAL_RANK", "SLURM_PROCID", "NODE_RANK"])
def test_rank_zero_by_every_launcher(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "0")
    assert is_first()
    monkeypatch.setenv(name, "3")
    assert not is_first()


@pytest.mark.parametrize("command", ["_entry:train", "compare:main"])
def test_a_closed_pipe_ends_quietly(command: str) -> None:
    read, write = os.pipe()
    os.close(read)
    module, _, function = command.partition(":")
    code = f"from camreid.cli.{module} import {function}; {function}()"
    ran = subprocess.run(
        [sys.executable, "-c", code, "--help"], stdout=write, stderr=subprocess.PIPE, check=False
    )
    os.close(write)
    assert ran.stderr == b""
    assert ran.returncode in (0, 141)


def test_links_in_a_run_folder_are_not_written_through(run: Run, market: Path) -> None:
    Path("mine").write_text("mine")
    Path("r/checkpoints").mkdir(parents=True)
    Path("r/checkpoints/last.ckpt").touch()
    for name, resume in (("hparams.yaml", True), ("camreid-train.log", True), ("gone.yaml", False)):
        link = Path("r/hparams.yaml" if name == "gone.yaml" else f"r/{name}")
        link.symlink_to(Path("gone" if name == "gone.yaml" else "mine").absolute())
        how = "resume=r/checkpoints/last.ckpt" if resume else "run_dir=r"
        ran = run("camreid-train", *TINY, "+split=original", f"data.root={market}", how)
        assert ran.code == 1
        assert link.name in ran.err
        link.unlink()
    assert Path("mine").read_text() == "mine"
    assert not Path("gone").exists()


@pytest.mark.parametrize("resume", [None, True])
def test_a_folder_that_cannot_be_resolved_is_left_to_hydra(resume: object) -> None:
    folder = "${run_folder:${resume},r}" if resume else "${nowhere}"
    config = OmegaConf.create({"hydra": {"run": {"dir": folder}}, "resume": resume})
    RunFolder().on_run_start(config)  # another error would be a warning beside Hydra's paragraph


def test_empty_folders_are_no_results(tmp_path: Path) -> None:
    for run in ("empty", "full"):
        (tmp_path / run / "checkpoints").mkdir(parents=True)
        (tmp_path / run / "config.yaml").touch()
    (tmp_path / "full/checkpoints/last.ckpt").touch()
    (tmp_path / "empty/mine.txt").touch()
    discard(tmp_path / "full")
    discard(tmp_path / "empty")
    left = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.*")}
    assert left == {"full/checkpoints/last.ckpt", "full/config.yaml", "empty/mine.txt"}
    assert not (tmp_path / "empty/checkpoints").exists()
