"""What was typed: the split, and the few things that Hydra would not understand."""

import os
import sys
from pathlib import Path

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf

from camreid.cli import CONF
from camreid.errors import InputError


def read_arguments(name: str) -> None:
    """Turn `sys.argv` into what Hydra takes.

    `split=NAME` and `experiment=NAME` go with a plus, `-m` may stand anywhere, and
    `resume=RUN/checkpoints/x.ckpt` continues in the folder of that run unless `run_dir=` says
    otherwise.

    Raises:
        SystemExit: a split that there is not, or a `run_dir=` that can't be written.
    """
    appended = ("split=", "experiment=")
    read = [f"+{a}" if a.startswith(appended) else a for a in sys.argv[1:]]
    _check_split(name, read)
    resumed, folder = _value(read, "resume"), _value(read, "run_dir")
    run = Path(resumed).resolve().parents[1] if resumed else None
    if run and not folder and Path(resumed).resolve().parent.name == "checkpoints":
        folder = str(run)
        read.append(f"run_dir={folder!r}")
    if folder and "${" not in folder and "LOCAL_RANK" not in os.environ:
        _check_folder(name, Path(folder).absolute(), run)
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


def _check_folder(name: str, folder: Path, resumed: Path | None) -> None:
    """Refuse a run folder that can't be made, or that holds another run."""
    above = next(p for p in (folder, *folder.parents) if p.exists())
    if not above.is_dir() or not os.access(above, os.W_OK):
        reason = "is not writable" if above.is_dir() else "is a file"
        raise SystemExit(
            f"{name}: run_dir={folder} can't be made: {above} {reason}. Type run_dir= with a "
            "folder that can be written."
        )
    held = [f for f in ("checkpoints", "metrics.json", "matrix.json") if (folder / f).exists()]
    if held and (resumed is None or resumed.resolve() != folder.resolve()):
        raise SystemExit(
            f"{name}: run_dir={folder} holds another run ({', '.join(held)}). Type another "
            f"run_dir=, or resume={folder / 'checkpoints' / 'last.ckpt'} to continue it."
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
