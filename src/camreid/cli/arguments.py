"""What was typed: the split, and the few things that Hydra would not understand."""

import os
import sys
from pathlib import Path

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf

from camreid.cli import CONF
from camreid.cli.folder import is_first
from camreid.errors import InputError


def read_arguments(name: str) -> None:
    """Turn `sys.argv` into what Hydra takes.

    `split=NAME` and `experiment=NAME` go with a plus, `-m` may stand anywhere, and
    `resume=RUN/checkpoints/x.ckpt` continues in the folder of that run unless
    `run_dir=` is typed.

    Raises:
        SystemExit: there is no split of that name.
    """
    appended = ("split=", "experiment=")
    read = [f"+{a}" if a.startswith(appended) else a for a in sys.argv[1:]]
    _check_split(name, read)
    resumed = _value(read, "resume")
    checkpoints = Path(resumed).resolve().parent
    if resumed and not _value(read, "run_dir") and checkpoints.name == "checkpoints":
        read.append(f"run_dir={str(checkpoints.parent)!r}")
    if not is_first() and not any(a.startswith("hydra.output_subdir=") for a in read):
        rank = os.environ.get("RANK") or os.environ.get("SLURM_PROCID")  # of torchrun, of srun
        read += ["hydra.output_subdir=null", f"hydra.job.name={name}-{rank}"]
    flags = [a for a in read if a in ("-m", "--multirun")]
    sys.argv[1:] = flags + [a for a in read if a not in flags]


def _check_split(name: str, arguments: list[str]) -> None:
    chosen = [a.partition("=")[2] for a in arguments if a.startswith("+split=")]
    unknown = [c for value in chosen for c in value.split(",") if c not in _choices()]
    own_folders = any(a.startswith(("-cd", "--config-d", "hydra.searchpath")) for a in arguments)
    inline = any("{" in value for value in chosen)
    if unknown and not own_folders and not inline:
        raise SystemExit(f"{name}: there is no split {unknown[0]!r}; {_type_one()}")


def _value(arguments: list[str], key: str) -> str:
    """What was typed for a key, without the quotes that Hydra's grammar wants; empty if nothing."""
    typed = [a for a in arguments if a.startswith(f"{key}=")]
    if not typed:
        return ""
    try:
        return str(OverridesParser.create().parse_override(typed[-1]).value())
    except HydraException:
        return ""  # Hydra will say it


def require_split(config: DictConfig) -> None:
    """Refuse a run without a split.

    Raises:
        InputError: there is no split, or one that nothing can be made of.
    """
    if OmegaConf.is_missing(config, "split") or config.split is None:
        raise InputError(f"no split was chosen; {_type_one()}")
    if not OmegaConf.is_dict(config.split) or "_target_" not in config.split:
        raise InputError(f"split={config.split} has no strategy; {_type_one()}")


def _choices() -> list[str]:
    return sorted(p.stem for p in Path(CONF, "split").glob("*.yaml"))


def _type_one() -> str:
    about = {
        "original": " (the official train/test division, for all cameras or split.camera=N)",
        "resplit": " (a new division of the identities, or of their images)",
    }
    choices = [f"+split={c}{about.get(c, '')}" for c in _choices()]
    return f"type {' or '.join(choices)}."
