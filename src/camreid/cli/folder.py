"""The run folder: only files that this command created are overwritten or deleted."""

import os
import shutil
from contextlib import suppress
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf, read_write

from camreid.files import lock, unlock
from camreid.progress import is_first

ERROR = "camreid-error.txt"  # of the process that failed first, among several
_RESULTS = ("checkpoints", "head_check*", "metrics*", "features*", "matrix.*", "import.*", "*.onnx")
_DESCRIPTION = (
    *(".hydra", "config.yaml", "hparams.yaml", "split.csv", "names.json", "multirun.yaml", ERROR),
    *("camreid-*[a-z].log", "train_ddp_process_*.log"),  # not camreid-*-1.log: of ranks of srun
)
_NAMES = (*_RESULTS, *_DESCRIPTION)
sweeps: list[Path] = []  # folders of the jobs of -m
created: list[Path] = []  # the run folder and its parents, as far as this command creates them
locked: dict[Path, int] = {}  # descriptors of locked folders


def _of_resumed(resume: str | None, new: str) -> str:
    """The folder of the run that is resumed, or that of a new run."""
    checkpoints = Path(resume or new).resolve().parent
    if resume and checkpoints.name == "checkpoints":
        return str(checkpoints.parent)
    if launched()[1:] != (1, 1):  # each process would take the time of its own start
        raise SystemExit("camreid: the processes share one run folder. Type run_dir=FOLDER.")
    return new


OmegaConf.register_new_resolver("run_folder", _of_resumed, replace=True)


def launched() -> tuple[str, int, int]:
    """What started all processes, torchrun or srun: its name, processes per machine, machines."""
    get = os.environ.get
    if get("TORCHELASTIC_RUN_ID"):
        return "torchrun", int(get("LOCAL_WORLD_SIZE", "1")), int(get("GROUP_WORLD_SIZE", "1"))
    if get("SLURM_NTASKS") and get("SLURM_JOB_NAME") not in ("bash", "interactive"):
        return "srun", int(get("SLURM_NTASKS_PER_NODE", "1")), int(get("SLURM_NNODES", "1"))
    return "", 1, 1


class RunFolder(Callback):
    """Refuses a run folder of another run or of the user, before Hydra writes into it."""

    def on_run_start(self, config: DictConfig, **_: Any) -> None:
        """Check the folder of one run."""
        with suppress(OSError, TypeError, ValueError):  # Hydra reports a folder that fails
            _check(config, [Path(config.hydra.run.dir)])

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        """Check the folder of all jobs, and those of single jobs in it."""
        folder = Path(config.hydra.sweep.dir)
        with suppress(OSError):
            _check(config, [folder, *(path for path in folder.glob("*") if path.is_dir())])
        sweeps.append(folder.absolute())


def release() -> None:
    """Let go of the run folder."""
    while locked:
        unlock(locked.popitem()[1])


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=release)  # a loader process may outlive the run


def _hold(folder: Path) -> None:
    created.extend(path for path in (folder, *folder.parents) if not path.exists())
    folder.mkdir(parents=True, exist_ok=True)
    try:
        locked[folder] = lock(folder)
    except BlockingIOError:
        found = f"another run is writing into run_dir={folder}"
        raise SystemExit(f"camreid: {found}. Type another run_dir=.") from None


def _check(config: DictConfig, folders: list[Path]) -> None:
    created.clear()
    release()
    resume = config.get("resume")
    for folder in (folder.absolute() for folder in folders if is_first()):
        _hold(folder)
        held = sorted(n for n in os.listdir(folder) if any(fnmatch(n, form) for form in _NAMES))
        if resume and Path(resume).resolve().parent.parent == folder.resolve():
            for left in (folder / ERROR, *folder.rglob(".*.[0-9]*.part")):  # of a killed run
                left.unlink(missing_ok=True)
            with read_write(config.hydra):
                config.hydra.output_subdir = None  # keeps the options of the first command
            held = [p.name for f in ("*", ".hydra/*") for p in folder.glob(f) if p.is_symlink()]
        if held:
            last = folder / "checkpoints" / "last.ckpt"
            remedy = f"another run_dir= or resume={last}" if last.is_file() else "another run_dir="
            found = f"run_dir={folder} holds links, or files of a run ({', '.join(held)})"
            # Hydra makes a warning of any other error
            raise SystemExit(f"{config.hydra.job.name}: {found}. Type {remedy}.")


def discard(folder: Path) -> None:
    """Delete what a command wrote that failed before it had any result, and nothing else."""
    found, more = ([p for f in forms for p in folder.glob(f)] for forms in (_RESULTS, _DESCRIPTION))
    if not is_first() or any(not path.is_dir() or any(path.iterdir()) for path in found):
        return
    for path in (*found, *more):
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    for path in (folder, *folder.parents):
        if path in created and path.is_dir() and not any(path.iterdir()):
            path.rmdir()
