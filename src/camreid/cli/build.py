"""From a config to the parts of a run."""

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from hydra import compose
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf, open_dict

from camreid.checkpoints.io import Checkpoint
from camreid.cli.errors import trainers
from camreid.cli.seen import seen_identities
from camreid.data import ReIDDataModule, Split, read_market1501
from camreid.errors import InputError
from camreid.models.config import ModelConfig
from camreid.training.checkpoint_io import RunCheckpoints


def run_folder() -> Path:
    """Where this run writes, as an absolute path."""
    return Path(HydraConfig.get().runtime.output_dir)


def check_run(config: DictConfig) -> None:
    """Refuse what can't work before any of it is done.

    Raises:
        InputError: no epochs, or processes within a multirun.
    """
    epochs, steps = config.trainer.max_epochs, config.trainer.max_steps
    if not isinstance(epochs, int) or not (epochs >= 1 or (epochs == -1 and steps >= 1)):
        raise InputError(
            f"trainer.max_epochs={epochs}: expected 1 or more, such as trainer.max_epochs=120; to "
            "test weights without training, type camreid-evaluate checkpoint=FILE."
        )
    distributed = any(kind in str(config.trainer.strategy) for kind in ("ddp", "fsdp"))
    if distributed and HydraConfig.get().mode == RunMode.MULTIRUN:
        raise InputError(
            "-m runs jobs one after another in one process, and a distributed strategy starts "
            "processes of its own, which do not go together. Type -m with trainer=gpu, or one "
            "camreid-train trainer=ddp for each job."
        )


def seed(config: DictConfig) -> None:
    """Seed all random numbers of the run; the split has its own.

    Raises:
        InputError: the seed is no whole number from 0.
    """
    if not isinstance(config.seed, int) or not 0 <= config.seed < 2**32:
        raise InputError(f"seed={config.seed}: expected a whole number from 0, such as seed=1.")
    pl.seed_everything(config.seed, workers=True, verbose=False)


def choice(group: str) -> str | None:
    """What the user typed for a config group, None if nothing."""
    typed = [a.lstrip("+") for a in HydraConfig.get().overrides.task]
    return next((a.partition("=")[2] for a in typed if a.startswith(f"{group}=")), None)


def data_root(config: DictConfig) -> str:
    """Where the dataset is: `data.root`, or the folder in it that synthetic data have.

    These are rendered unless they are there. In either case `data=market1501 data.root=` takes it.
    """
    root: str = config.data.root
    if config.data.render is None:
        return root
    render = instantiate(config.data.render, _target_="camreid.data.SyntheticMarket")
    return str(render.render(root))


def build_split(config: DictConfig) -> Split:
    """Render the data if they are synthetic, and divide them; or read the split's manifest."""
    root = data_root(config)
    options = dict(config.split)
    manifest, checkpoints = options.pop("manifest", None), options.pop("exclude_seen", None)
    seen = seen_identities(checkpoints)
    if manifest and seen:
        raise InputError(
            f"split.manifest={manifest} fixes the test identities, and split.exclude_seen "
            "chooses them. Leave one of the two out."
        )
    if manifest:
        return Split.load(manifest, root)
    if seen:
        options["seen"] = seen
    strategy = instantiate(OmegaConf.create(options))
    split: Split = strategy(read_market1501(root))
    return split


def require_validation(split: Split) -> None:
    """Refuse validation images among which there is no match.

    Raises:
        InputError: none of the split's `val` has a match.
    """
    if split.val and not split.rankable["val"]:
        raise InputError(
            f"none of the {len(split.val)} validation images has a match among the others. Mend "
            "the manifest, or make a split with split.val_fraction=0.2 or 0."
        )


def build_model(config: DictConfig, start: Checkpoint | None) -> ModelConfig:
    """The model that `model=` or the experiment chooses, otherwise that of the starting weights.

    What an experiment or the command line sets of a model counts in either case, as do this run's
    `model.unknown` and `model.pixels`; a resumed run keeps its `unknown`. `config.model` becomes
    what is built.

    Raises:
        InputError: there is no model, or an option that it does not have.
    """
    if config.get("model") is None:
        raise InputError("there is no model to build; type model=bot_r50 or model=small.")
    model = config.model.copy()
    if start is not None and not _is_model_chosen():
        typed = list(HydraConfig.get().overrides.task)
        keys = [a.lstrip("+").partition("=")[0] for a in typed]
        rest = [a for a in typed if not re.match(r"[+~]*model[.=@]", a)]
        set_by_experiment = compose("train", [*rest, "model=[]"]).get("model") or {}
        model = OmegaConf.merge(start.config.primitives(), set_by_experiment)
        for key in (k.removeprefix("model.") for k in keys if k.startswith("model.")):
            OmegaConf.update(model, key, OmegaConf.select(config.model, key))
        model.update({key: config.model[key] for key in ("unknown", "pixels")})
    if config.resume and start is not None:
        model.unknown = start.config.unknown
    read = ModelConfig.read(OmegaConf.to_container(model, resolve=True))  # type: ignore[arg-type]
    with open_dict(config):
        config.model = OmegaConf.create(read.primitives())
    return read


def _is_model_chosen() -> bool:
    """Whether the command line or an experiment chooses the model, not the defaults or `data=`."""
    loader = GlobalHydra.instance().config_loader()
    typed = list(HydraConfig.get().overrides.task)
    chosen = loader.compute_defaults_list("train", typed, RunMode.RUN).overrides.override_metadata
    by = chosen.get("model")
    in_experiment = by is not None and (by.containing_config_path or "").startswith("experiment/")
    return in_experiment or (by is not None and by.external_override)


def build_data(config: DictConfig, split: Split, model: ModelConfig) -> ReIDDataModule:
    """The loaders of a split, its images resized for a model."""
    data = config.data
    return ReIDDataModule(
        split,
        model.image_size,
        identities=data.identities,
        instances=data.instances,
        eval_batch_size=data.eval_batch_size,
        workers=data.workers,
        seed=config.seed,
        augment=instantiate(data.augment, _target_="camreid.data.Augment"),
        interpolation=model.interpolation,
        within_camera=data.within_camera,
    )


def build_callbacks(config: DictConfig, split: Split) -> list[pl.Callback]:
    """The callbacks of the config, with the paths and monitors of this run.

    Raises:
        InputError: early stopping without validation identities.
    """
    folder = run_folder()
    added: dict[str, dict[str, Any]] = {
        "head_check": {"path": str(folder / "head_check.json")},
        "best": {"dirpath": str(folder / "checkpoints")},
        "last": {"dirpath": str(folder / "checkpoints")},
    }
    if not split.val:
        added["best"].update(monitor=None, save_on_train_epoch_end=True)
        if "early_stopping" in (config.get("callbacks") or {}):
            raise InputError(
                "early stopping watches val/mAP, and this split has no validation identities. "
                "Type split.val_fraction=0.1, or callbacks=default."
            )
    return [
        instantiate(options, **added.get(name, {}))
        for name, options in (config.get("callbacks") or {}).items()
        if options is not None
        and (config.get("logger") or "LearningRateMonitor" not in options._target_)
    ]


def build_loggers(config: DictConfig) -> list[Any]:
    """The loggers of the config.

    Raises:
        InputError: one whose package is not installed.
    """
    try:
        return [instantiate(options) for options in (config.get("logger") or {}).values()]
    except Exception as error:
        if "ModuleNotFoundError" not in repr(error) and not _says_install(error):
            raise
        raise InputError(
            f"logger={choice('logger')} needs a package that is not installed "
            f"({_first_line(error)}). Type pip install tensorboard wandb, or logger=csv."
        ) from error


def _says_install(error: BaseException) -> bool:
    return any(
        word in str(error) for word in ("pip install", "is not installed", "No module named")
    )


def _first_line(error: BaseException) -> str:
    cause = error.__cause__ or error
    return str(cause).strip().splitlines()[0][:160]


def build_trainer(config: DictConfig, **options: Any) -> pl.Trainer:
    """The trainer, its folder the run's; validation starts with whole epochs only.

    Raises:
        InputError: a device that this machine does not have.
    """
    _check_device(config.trainer)
    trainer: pl.Trainer = instantiate(
        config.trainer,
        default_root_dir=str(run_folder()),
        use_distributed_sampler=False,  # the samplers know their rank
        num_sanity_val_steps=0,  # a few batches hold no matches
        enable_model_summary=False,
        _convert_="all",
        **options,
    )
    trainer.strategy.checkpoint_io = RunCheckpoints(trainer)
    trainers.append(trainer)
    return trainer


def _check_device(trainer: Mapping[str, Any]) -> None:
    """Refuse CUDA devices that are not there, and more processes than cores."""
    kind, devices = trainer["accelerator"], trainer["devices"]
    count = int(devices) if str(devices).isdigit() else 0
    there = torch.cuda.device_count() if torch.cuda.is_available() else 0
    cores = os.cpu_count() or 1
    if (kind == "cpu" or (kind == "auto" and not there)) and count > cores:
        raise InputError(
            f"trainer.devices={devices} starts {devices} processes, and there are {cores} cores. "
            f"Type trainer.devices=1, or up to {cores}."
        )
    if kind not in ("gpu", "cuda"):
        return
    listed = [] if isinstance(devices, int | str) else devices
    if there == 0 or count > there or any(device >= there for device in listed):
        last = f"cuda:0..cuda:{there - 1}" if there else "none"
        raise InputError(
            f"trainer.accelerator={kind} trainer.devices={devices} asks for CUDA devices, and "
            f"PyTorch {torch.__version__} finds {there} here ({last}). Type trainer=cpu, "
            "trainer=auto, trainer.devices=N with fewer devices, or trainer.accelerator=cpu with "
            "trainer=ddp; if there is a GPU, install its driver and a PyTorch built for it."
        )
