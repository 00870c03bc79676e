"""The run folder: only files that this command created are overwritten or deleted."""

import os
import shutil
from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig

ERROR = "camreid-error.txt"  # of the process that failed first, among several
_RESULTS = (
    "checkpoints",
    "head_check.json",
    "metrics*",
    "features*",
    "matrix.json",
    "import.json",
    "*.onnx",
)
_LOGS = ("camreid-*.log", "train_ddp_process_*.log")  # the latter of Lightning's processes
_DESCRIPTION = (".hydra", "config.yaml", "split.csv", "multirun.yaml", *_LOGS, ERROR)
_RANKS = ("RANK", "LOCAL_RANK", "NODE_RANK", "GROUP_RANK", "SLURM_PROCID")
_before: dict[Path, set[str] | None] = {}  # names in the run folder before the command; None: none


def is_first() -> bool:
    """Whether this is the process of rank 0, by torchrun, Lightning or SLURM."""
    return all(os.environ.get(name, "0") in ("", "0") for name in _RANKS)


class RunFolder(Callback):
    """Refuses a run folder of another run or of the user, before Hydra writes into it."""

    def on_run_start(self, config: DictConfig, **_: Any) -> None:
        """Check the folder of one run."""
        _start(config, [Path(config.hydra.run.dir)])

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        """Check the folder of all jobs, and those of single jobs in it."""
        folder = Path(config.hydra.sweep.dir)
        _start(config, [folder, *(path for path in folder.glob("*") if path.is_dir())])


def _start(config: DictConfig, folders: list[Path]) -> None:
    if not is_first():
        return
    _before.clear()
    for folder in (folder.absolute() for folder in folders):
        _check(config.hydra.job.name, folder, config.get("resume"))
        _before[folder] = {path.name for path in folder.iterdir()} if folder.is_dir() else None
        _before.update({path: None for path in folder.parents if not path.exists()})


def _check(name: str, folder: Path, resume: str | None) -> None:
    above = next(path for path in (folder, *folder.parents) if path.exists())
    if not above.is_dir() or not os.access(above, os.W_OK):
        reason = "is not writable" if above.is_dir() else "is a file"
        raise SystemExit(
            f"{name}: run_dir={folder} can't be created: {above} {reason}. Type run_dir= with a "
            "folder that can be written."
        )
    held = sorted({p.name for form in (*_RESULTS, *_DESCRIPTION) for p in folder.glob(form)})
    if resume and Path(resume).resolve().parent.parent == folder.resolve():
        (folder / ERROR).unlink(missing_ok=True)
    elif held:
        last = folder / "checkpoints" / "last.ckpt"
        remedy = f", or resume={last} to continue that run" if last.is_file() else ""
        raise SystemExit(
            f"{name}: run_dir={folder} holds another run or files of its names "
            f"({', '.join(held)}). Type another run_dir={remedy}."
        )


def discard(folder: Path) -> None:
    """Delete what a command wrote that failed before it had any result, and nothing else."""
    folder = folder.absolute()
    known = next((path for path in (folder, *folder.parents) if path in _before), None)
    if known is None or not is_first() or not folder.is_dir():
        return
    if any(list(folder.glob(form)) for form in _RESULTS):
        return
    kept = _before.get(folder) or set()
    for path in [path for form in _DESCRIPTION for path in folder.glob(form)]:
        if path.name not in kept:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    for path in (folder, *folder.parents):
        created = _before[path] is None if path in _before else known in path.parents
        if not created or any(path.iterdir()):
            return
        path.rmdir()
