"""Console scripts that go through Hydra; torch is imported once the arguments are read."""

import os
import re
import sys
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from camreid.cli import is_imported, undo
from camreid.cli.errors import launch, one_paragraph
from camreid.cli.folder import discard
from camreid.errors import InputError
from camreid.files import CONF
from camreid.progress import is_first, note


def _start(command: str, module: str, function: str) -> None:
    def run(config: DictConfig) -> object:
        if command in ("train", "evaluate", "matrix") and config.get("features") is None:
            require_split(config)
        undo.append(partial(discard, Path(HydraConfig.get().runtime.output_dir)))
        main = begin(f"camreid.cli.{module}")
        import_module("camreid.cli.terminal").set_threads(config.get("trainer"))
        return getattr(main, function)(config)

    if {"-h", "--help"}.intersection(sys.argv):
        with one_paragraph(f"camreid-{command}"):
            show_help(command)
        return
    read_arguments(f"camreid-{command}")
    launch(f"camreid-{command}", command, run)


train = partial(_start, "train", "train", "train_run")
evaluate = partial(_start, "evaluate", "evaluate", "evaluate_run")
import_weights = partial(_start, "import", "import_weights", "import_run")
export = partial(_start, "export", "export", "export_run")
matrix = partial(_start, "matrix", "matrix", "matrix_run")


def begin(module: str) -> Any:
    """Import a module and torch, which takes seconds, and leave the terminal to the command."""
    if "torch" not in sys.modules:
        note("Loading PyTorch")
    import_module("camreid.cli.terminal").be_quiet()
    found = import_module(module)
    is_imported()
    return found


def show_help(command: str) -> None:
    """Print the help of a command, which Hydra takes seconds to do."""
    text = {"hydra": {"help": OmegaConf.load(Path(CONF, "hydra", "help", f"{command}.yaml"))}}
    groups: dict[str, list[str]] = {}
    for path in sorted(Path(CONF).glob("*/[!_]*.yaml")):
        groups.setdefault(path.parent.name, []).append(path.stem)
    choices = "".join(f"{name}: {', '.join(files)}\n" for name, files in groups.items())
    print(OmegaConf.create(text).hydra.help.template.replace("$APP_CONFIG_GROUPS", choices))


def read_arguments(name: str) -> None:
    """Turn `sys.argv` into what Hydra takes: a plus before `split=` and `experiment=`, -m first."""
    typed = [f"+{a}" if a.startswith(("split=", "experiment=")) else a for a in sys.argv[1:]]
    left_out = {"logger=null": "~logger", "callbacks=null": "~callbacks"}
    typed = [left_out.get(a, a) for a in typed]  # Hydra takes no null for a group
    # Hydra would read the brackets of a regular expression as a call
    typed = [re.sub(r"^(data\.camera_pattern=)([^'\"].*)", r"\1'\2'", a) for a in typed]
    if not is_first() and not any(a.startswith("hydra.output_subdir=") for a in typed):
        # each process of a higher rank has a log of its own
        rank = os.environ.get("RANK") or os.environ.get("SLURM_PROCID")  # of torchrun, of srun
        typed += ["hydra.output_subdir=null", f"hydra.job.name={name}-{rank}"]
    sys.argv[1:] = sorted(typed, key=lambda a: a not in ("-m", "--multirun"))


def require_split(config: DictConfig) -> None:
    """Refuse a run without a split, or with one that has no strategy."""
    choices = (
        "type +split=original (the official train/test division, for all cameras or "
        "split.camera=N) or +split=resplit (a new division of the identities, or of their images)."
    )
    if OmegaConf.is_missing(config, "split") or config.split is None:
        raise InputError(f"no split was chosen; {choices}")
    if not OmegaConf.is_dict(config.split) or "_target_" not in config.split:
        raise InputError(f"split={config.split} has no strategy; {choices}")
