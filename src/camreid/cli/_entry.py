"""Console scripts that go through Hydra; torch is imported once the arguments are checked."""

import atexit
import glob
import os
import re
import sys
from contextlib import suppress
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from string import Template
from tempfile import TemporaryDirectory
from textwrap import fill
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from camreid.cli import handle, interrupt, leave, undo
from camreid.cli.errors import launch, leaves, one_paragraph
from camreid.cli.folder import discard, launched
from camreid.cli.options import check_options, choices, show_options
from camreid.errors import InputError
from camreid.files import CONF
from camreid.progress import is_first, note

_GPUS = ("/dev/nvidia*", "/dev/nvhost*", "/dev/dxg", "/dev/kfd")  # of NVIDIA, Jetson, WSL, AMD


def _start(command: str, module: str, function: str) -> None:
    def run(config: DictConfig) -> object:
        check(command, config)
        undo.append(partial(discard, Path(HydraConfig.get().runtime.output_dir)))
        main = begin(f"camreid.cli.{module}")
        import_module("camreid.cli.terminal").set_threads(config.get("trainer"))
        return getattr(main, function)(config)

    name = f"camreid-{command}"
    read_arguments(name)
    if asked := {"--help", "-h", "--options"}.intersection(sys.argv):
        with one_paragraph(name):
            (show_options if "--options" in asked else show_help)(command)
    elif command == "export" and len(sys.argv) == 2 and sys.argv[1].startswith("check="):
        with one_paragraph(name):
            if not os.path.isfile(path := sys.argv[1].removeprefix("check=")):
                raise InputError(f"check={path}: there is no such file.")
            begin("camreid.cli.export").check_export(Path(path))
    elif "job" in sys.argv and any(text.startswith(("init=", "resume=")) for text in sys.argv):
        typed = [text for text in sys.argv[1:] if text not in ("--cfg", "-c", "job")]
        with TemporaryDirectory() as folder:  # Hydra shows the model of the defaults
            sys.argv[1:] = [*typed, f"hydra.run.dir={folder}"]
            launch(name, command, lambda c: import_module("camreid.cli.train").show_config(c))
    else:
        launch(name, command, run)


train = partial(_start, "train", "train", "train_run")
evaluate = partial(_start, "evaluate", "evaluate", "evaluate_run")
import_weights = partial(_start, "import", "import_weights", "import_run")
export = partial(_start, "export", "export", "export_run")
extract = partial(_start, "extract", "extract", "extract_run")
matrix = partial(_start, "matrix", "matrix", "matrix_run")


def begin(module: str) -> Any:
    """Import a module and torch, which takes seconds, and leave the terminal to the command."""
    if "torch" not in sys.modules:
        with suppress(ImportError):  # Windows has no limits
            from resource import RLIMIT_AS, getrlimit

            if 0 <= (limit := getrlimit(RLIMIT_AS)[0]) < 4e9:
                size = f"{limit / 1e9:.1f} GB, and PyTorch does not load below 4"
                raise InputError(f"ulimit -v allows {size}. Type ulimit -v unlimited.")
        note("Loading PyTorch")
    import_module("camreid.cli.terminal").be_quiet()
    found = import_module(module)
    handle(interrupt)
    atexit.register(handle, leave)  # before those of torch
    return found


def show_help(command: str) -> None:
    """Print the help of a command, which Hydra takes seconds to do."""
    text = {"hydra": {"help": OmegaConf.load(CONF / "hydra" / "help" / f"{command}.yaml")}}
    template = Template(OmegaConf.create(text).hydra.help.template)
    groups = {path.name: fill(choices(path.name), 90) for path in CONF.iterdir()}
    print(template.safe_substitute(groups))


def read_arguments(name: str) -> None:
    """Turn `sys.argv` into what Hydra takes: a plus before `split=` and `experiment=`, -m first."""
    home = os.path.expanduser("~")
    typed = [os.path.expandvars(a) for a in sys.argv[1:]]  # the shell does neither behind =
    typed = [re.sub(r"(?<=[=\[,])~(?=[/,\]]|$)", lambda _: home, a) for a in typed]
    typed = [f"+{a}" if a.startswith(("split=", "experiment=")) else a for a in typed]
    left_out = {"logger=null": "~logger", "callbacks=null": "~callbacks"}
    typed = [left_out.get(a, a) for a in typed]  # Hydra takes no null for a group
    if name == "camreid-extract" and "-o" in typed[:-1]:
        place = typed.index("-o")
        typed[place : place + 2] = [f"output={typed[place + 1]}"]
    # Hydra would read the brackets of a regular expression as a call
    typed = [re.sub(r"^(data\.camera_pattern=)([^'\"].*)", r"\1'\2'", a) for a in typed]
    if not is_first() and not any(a.startswith("hydra.output_subdir=") for a in typed):
        rank = os.environ.get("RANK") or os.environ.get("SLURM_PROCID")  # of torchrun, of srun
        typed += ["hydra.output_subdir=null", f"hydra.job.name={name}-{rank}"]  # a log of its own
    sys.argv[1:] = sorted(typed, key=lambda a: a not in ("-m", "--multirun"))


def check(command: str, config: DictConfig) -> None:
    """Refuse options, names of files, packages and devices that cannot work."""
    _require_model(command, dict(leaves(OmegaConf.to_container(config))))
    check_options(command, config, HydraConfig.get().overrides.task)
    if command == "export":
        needed = ("onnx", "onnxruntime", "onnxscript")
        require_packages("camreid-export", *needed, extra="camreid[onnx]")
    for logger in {"tensorboard", "wandb"} & {*(config.get("logger") or ())}:
        require_packages(f"logger={logger}", logger)
    if "trainer" in config:
        no_gpu = sys.platform == "linux" and not any(map(glob.glob, _GPUS))
        check_devices(config, on_cpu=no_gpu or config.trainer.accelerator == "cpu")


def _require_model(command: str, given: dict[str, object]) -> None:
    """Refuse no model where one is needed, a base of models, and a model that lacks parts."""
    name = HydraConfig.get().runtime.choices.get("model") or "null"
    if name.startswith("_") or (given.get("model") is None and command in ("train", "import")):
        how = "path=FILE and model=NAME" if command == "import" else "model=NAME"
        raise InputError(f"model={name} is no model. Type {how}, one of {choices('model')}.")
    parts = leaves(OmegaConf.to_container(OmegaConf.load(CONF / "model/_training.yaml")), "model.")
    lacking = ", ".join(part for part, _ in parts if part not in given)
    if lacking and name != "null":  # options alone name a network to trust
        raise InputError(f"model={name} lacks {lacking}. Type defaults: [small, _self_] into it.")


def require_packages(needs: str, *names: str, extra: str = "") -> None:
    """Refuse what `needs` packages, and name those that are not installed."""
    if missing := " ".join(name for name in names if find_spec(name) is None):
        remedy = f"'{extra}'" if extra else missing
        raise InputError(f"{needs} needs {missing}. Type pip install {remedy}.")


def check_devices(config: DictConfig, on_cpu: bool) -> None:
    """Refuse a GPU that is not there, and processes that cores or launcher do not have."""
    devices, machines, cores = config.trainer.devices, config.trainer.num_nodes, os.cpu_count() or 1
    if on_cpu and config.trainer.accelerator in ("gpu", "cuda"):
        raise InputError("this machine has no GPU, or no driver of one.", accelerator="cpu")
    count = len(devices) if OmegaConf.is_list(devices) else devices
    if on_cpu and isinstance(count, int) and count > cores:
        raise InputError(f"devices={devices} starts {count} processes on {cores} cores.", devices=1)
    if on_cpu and count == -1:
        raise InputError(f"devices={devices} is all GPUs, and there is none to use.", devices=1)
    launcher, processes, nodes = launched()
    if launcher and (machines != nodes or count not in ("auto", -1, processes)):
        found = f"{launcher} has started {processes} processes on each of {nodes} machines."
        raise InputError(found, trainer="ddp", devices=processes, num_nodes=nodes)
