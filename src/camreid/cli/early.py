"""What a command refuses from its options alone, before torch is imported or data is read."""

import glob
import os
import sys
from importlib.util import find_spec

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from camreid.cli.errors import leaves
from camreid.cli.folder import launched
from camreid.cli.options import check_options, choices
from camreid.errors import InputError
from camreid.files import CONF

_GPUS = ("/dev/nvidia*", "/dev/nvhost*", "/dev/dxg", "/dev/kfd")  # of NVIDIA, Jetson, WSL, AMD


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
