"""What was typed: the split, and the few things that Hydra would not understand."""

import os
import sys
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from camreid.cli import CONF
from camreid.errors import InputError


def read_arguments(name: str) -> None:
    """Turn `sys.argv` into what Hydra takes.

    `split=NAME` is `+split=NAME`, `-m` may stand anywhere, and `resume=RUN/checkpoints/x.ckpt`
    continues in the folder of that run unless `run_dir=` says otherwise.

    Raises:
        SystemExit: a split that there is not, or a `run_dir=` that can't be written.
    """
    read = [f"+{a}" if a.startswith("split=") else a for a in sys.argv[1:]]
    _check_split(name, read)
    resumed = [a.partition("=")[2] for a in read if a.startswith("resume=")]
    if resumed and not any(a.startswith(("run_dir=", "hydra.run.dir=")) for a in read):
        folder = Path(resumed[-1]).resolve().parent
        if folder.name == "checkpoints" and folder.is_dir():
            read.append(f"run_dir={str(folder.parent)!r}")
    _check_folder(name, [a.partition("=")[2] for a in read if a.startswith("run_dir=")])
    flags = [a for a in read if a in ("-m", "--multirun")]
    sys.argv[1:] = flags + [a for a in read if a not in flags]


def _check_split(name: str, arguments: list[str]) -> None:
    chosen = [a.partition("=")[2] for a in arguments if a.startswith("+split=")]
    unknown = [c for value in chosen for c in value.split(",") if c not in _choices()]
    own_folders = any(a.startswith(("-cd", "--config-d", "hydra.searchpath")) for a in arguments)
    inline = any("{" in value for value in chosen)
    if unknown and not own_folders and not inline:
        raise SystemExit(f"{name}: there is no split {unknown[0]!r}; {_type_one()}")


def _check_folder(name: str, folders: list[str]) -> None:
    """Refuse a run folder below a file, or where nothing may be written."""
    for folder in folders:
        if "${" in folder:
            continue
        path = Path(folder.strip("'\"")).absolute()
        above = next(p for p in (path, *path.parents) if p.exists())
        if not above.is_dir() or not os.access(above, os.W_OK):
            reason = "is not writable" if above.is_dir() else "is a file"
            raise SystemExit(
                f"{name}: run_dir={folder} can't be made: {above} {reason}. Type run_dir= with a "
                "folder that can be written."
            )


def require_split(config: DictConfig) -> None:
    """Refuse a run whose split was not chosen.

    Raises:
        InputError: there is no split, or one that nothing can be made of.
    """
    if OmegaConf.is_missing(config, "split") or config.split is None:
        raise InputError(f"no split was chosen; {_type_one()}")
    if not OmegaConf.is_dict(config.split) or "_target_" not in config.split:
        raise InputError(f"split={config.split} says no strategy; {_type_one()}")


def _choices() -> list[str]:
    return sorted(p.stem for p in Path(CONF, "split").glob("*.yaml"))


def _type_one() -> str:
    about = {
        "original": " (the official train/test division, for all cameras or split.camera=N)",
        "resplit": " (a new division of the people, or of their images)",
    }
    choices = [f"+split={c}{about.get(c, '')}" for c in _choices()]
    return f"type {' or '.join(choices)}."
