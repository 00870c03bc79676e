"""Console scripts that go through Hydra; torch is imported once the arguments are read."""

import os
import re
import sys
from functools import partial
from importlib import import_module
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from camreid.cli.errors import launch, one_paragraph
from camreid.cli.folder import is_first
from camreid.errors import InputError
from camreid.files import CONF


def _start(command: str, module: str, function: str) -> None:
    def run(config: DictConfig) -> object:
        if command in ("train", "evaluate", "matrix") and config.get("features") is None:
            require_split(config)
        import_module("camreid.cli.terminal").be_quiet()
        return getattr(import_module(f"camreid.cli.{module}"), function)(config)

    if {"-h", "--help"}.intersection(sys.argv):
        with one_paragraph(f"camreid-{command}"):
            show_help(command)
        return
    read_arguments(f"camreid-{command}")
    launch(f"camreid-{command}", command, run)


train = partial(_start, "train", "train", "train_run")
evaluate = partial(_start, "evaluate", "evaluate", "evaluate_run")
import_weights = partial(_start, "import", "import_weights", "import_run")
matrix = partial(_start, "matrix", "matrix", "matrix_run")


def export() -> None:
    """Run camreid-export; `check=FILE` does without Hydra and, for ONNX, without torch."""
    if len(sys.argv) == 2 and sys.argv[1].startswith("check="):
        path = sys.argv[1].removeprefix("check=")
        home = "camreid.checkpoints.boxmot" if path.endswith(".pt") else "camreid.exported"
        with one_paragraph("camreid-export"):
            share = import_module(home).check_file(path)
            print(f"{path} gives the features of its export; they differ by {share:.1e}.")
        return
    _start("export", "export", "export_run")


def show_help(command: str) -> None:
    """Print the help of a command, which Hydra takes seconds to do."""
    text = {"hydra": {"help": OmegaConf.load(Path(CONF, "hydra", "help", f"{command}.yaml"))}}
    groups: dict[str, list[str]] = {}
    for path in sorted(Path(CONF).glob("*/[!_]*.yaml")):
        if path.parent.name != "for":  # of camreid-export
            groups.setdefault(path.parent.name, []).append(path.stem)
    choices = "".join(f"{name}: {', '.join(files)}\n" for name, files in groups.items())
    print(OmegaConf.create(text).hydra.help.template.replace("$APP_CONFIG_GROUPS", choices))


def read_arguments(name: str) -> None:
    """Turn `sys.argv` into what Hydra takes: a plus before `split=` and `experiment=`, -m first."""
    typed = [f"+{a}" if a.startswith(("split=", "experiment=")) else a for a in sys.argv[1:]]
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
