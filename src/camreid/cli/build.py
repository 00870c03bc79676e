"""From a config to the parts of a run."""

import os
import re
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import fields, replace
from functools import partial
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from hydra import compose
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from hydra.utils import instantiate
from lightning_fabric.plugins.environments.slurm import SLURMEnvironment
from omegaconf import DictConfig, OmegaConf, open_dict
from pytorch_lightning.trainer.states import TrainerStatus

from camreid.cli._entry import check_devices
from camreid.cli.checkpoints import Start, seen_identities
from camreid.cli.dataset import data_root, read_dataset
from camreid.cli.errors import leaves, paragraph
from camreid.cli.folder import ERROR, discard, launched
from camreid.cli.terminal import show
from camreid.data import Augment, IdentitySampler, ReIDDataModule, Split
from camreid.data.inspection import without_bad_images
from camreid.errors import InputError
from camreid.models.cameras import OPTIONS
from camreid.models.config import ModelConfig
from camreid.models.presets import settle
from camreid.parts import applying, find, make
from camreid.progress import is_first, printable
from camreid.runs.folder import RunFolder
from camreid.training.checkpoint_io import RunCheckpoints
from camreid.training.progress import RunBar
from camreid.training.step import resolve_precision


def run_folder() -> Path:
    """Where this run writes, as an absolute path."""
    return Path(HydraConfig.get().runtime.output_dir)


def seed(config: DictConfig) -> None:
    """Seed all random numbers of the run; the split has its own."""
    pl.seed_everything(config.seed, workers=True, verbose=False)


def build_split(config: DictConfig) -> Split:
    """Divide the data, or read the manifest."""
    options = dict(config.split)
    manifest, given = options.pop("manifest", None), options.pop("exclude_seen", None)
    outside = options.pop("outside_root", False)
    if manifest:
        datasets = RunFolder(Path(manifest).parent).datasets
        jobs = HydraConfig.get().overrides.task if HydraConfig.initialized() else []
        typed = any(re.match(r"\+*data\.root=", text) for text in (*jobs, *sys.argv))
        typed = typed or config.data.get("render") is not None
        root = config.data.root and data_root(config.data) if typed else None
        split = Split.load(manifest, root, datasets, outside)
    else:
        records = read_dataset(config.data)
        for note in records.notes:
            show(f"Data   {note}")
        seen = seen_identities(given, records.datasets)
        options |= {"seen": seen} if seen else {}
        split = instantiate(OmegaConf.create(options))(records)
    tested = {r.path for r in (*split.query, *split.gallery)}
    if both := [r.path for r in (*split.train, *split.val) if r.path in tested]:
        show(f"WARNING: {len(both):,} images are in train and test; scores are too high: {both[0]}")
    return without_bad_images(split) if config.data.get("on_bad_image") == "skip" else split


def build_model(config: DictConfig, start: Start, split: Split | None = None) -> ModelConfig:
    """The chosen model, else that of `start`, as typed; `config.model` becomes the same."""
    model = config.model.copy()
    overrides = [re.sub(r"^\+*model\.", "++model.", a) for a in HydraConfig.get().overrides.task]
    changes = compose("train", [*overrides, "model=[]"]).get("model") or OmegaConf.create()
    if start is not None and not _is_model_chosen():
        model = OmegaConf.merge(start.config.primitives(), changes)
        model.update(unknown=config.model.unknown, pixels=config.model.pixels)
    if config.resume and start is not None:
        model.unknown = start.config.unknown
    given: Any = OmegaConf.to_container(model, resolve=True)
    read = settle(given, dict(leaves(OmegaConf.to_container(changes))))
    if split and any(map(read.network.get, OPTIONS)) and read.network.get("cameras") is None:
        cameras = sorted({record.camera for record in split.train})
        read = replace(read, network={**read.network, "cameras": cameras})
    if read.network.get("camera_norm") and config.trainer.sync_batchnorm:
        raise InputError("camera_norm=True cannot be synchronised.", sync_batchnorm=False)
    with open_dict(config):
        config.model = OmegaConf.create(read.primitives())
    return read


def _is_model_chosen() -> bool:
    """Whether the command line or an experiment chooses the model, not the defaults or `data=`."""
    loader = GlobalHydra.instance().config_loader()
    typed = list(HydraConfig.get().overrides.task)
    chosen = loader.compute_defaults_list("train", typed, RunMode.RUN).overrides.override_metadata
    by = chosen.get("model")
    file = str(by and by.containing_config_path)
    return by is not None and (by.external_override or file.startswith("experiment/"))


def build_data(config: DictConfig, split: Split, model: ModelConfig) -> ReIDDataModule:
    """The loaders of a split, its images resized for a model."""
    names = ("identities", "instances", "eval_batch_size", "workers", "within_camera", "cache")
    augment, sampler = config.data.augment, config.data.sampler  # may be a user's own
    overrides = HydraConfig.get().overrides.task if HydraConfig.initialized() else ()
    typed = {a.partition("=")[0].rpartition(".")[2] for a in overrides}
    usual = {field.name for field in fields(Augment)} - typed
    return ReIDDataModule(
        split,
        model.image_size,
        seed=config.seed,
        augment=augment and make(Callable, applying(augment, usual, Callable)),
        sampler=partial(make, IdentitySampler, sampler) if sampler else IdentitySampler,
        interpolation=model.interpolation,
        **{name: config.data[name] for name in (*names, "cache_dir")},
    )


def build_callbacks(config: DictConfig, split: Split) -> list[pl.Callback]:
    """The callbacks of the config, as far as this run has validation and a logger for them."""
    chosen = {k: v for k, v in (config.get("callbacks") or {}).items() if v is not None}
    if not split.val and "early_stopping" in chosen:
        raise InputError("early stopping needs validation identities.", val_fraction=0.1)
    if "best" in chosen and not (split.val and config.trainer.limit_val_batches):
        chosen["best"] = {**chosen["best"], "monitor": None, "save_on_train_epoch_end": True}
    if not any((config.get("logger") or {}).values()):
        chosen = {k: v for k, v in chosen.items() if "LearningRateMonitor" not in v["_target_"]}
    for options in chosen.values():
        find(options.get("_target_"), pl.Callback)  # refuses another class
    return [instantiate(options) for options in chosen.values()]


def device_type(config: DictConfig) -> str:
    """Where the trainer computes: `cpu`, or `cuda` if there is a GPU of that kind."""
    on_gpu = config.trainer.accelerator != "cpu" and torch.cuda.is_available()
    return "cuda" if on_gpu else "cpu"


def build_trainer(config: DictConfig, **options: Any) -> pl.Trainer:
    """The trainer, its folder the run's; validation starts with whole epochs only."""
    own, device = config.trainer, device_type(config)
    check_devices(config, on_cpu=device == "cpu")
    if launched()[0] == "srun":  # resume= continues, in the run's own folder
        options["plugins"] = [SLURMEnvironment(auto_requeue=False)]
    own.precision = resolve_precision(own.precision, device, training="callbacks" in options)
    bars = [RunBar()] if own.enable_progress_bar else []
    callbacks = [FirstFailure(config), *bars, *options.pop("callbacks", ())]
    trainer: pl.Trainer = instantiate(
        {str(key): value for key, value in own.items() if key != "threads"},
        default_root_dir=str(run_folder()),
        use_distributed_sampler=False,  # the samplers know their rank
        benchmark=not own.deterministic,  # all batches have one size
        sync_batchnorm=False,  # the model has synchronised ones
        num_sanity_val_steps=0,  # a few batches hold no matches
        enable_model_summary=False,
        callbacks=callbacks,
        _convert_="all",
        **options,
    )
    if trainer.world_size > 1 and HydraConfig.get().mode == RunMode.MULTIRUN:
        raise InputError("-m runs each job in one process: type trainer=gpu, or leave -m out.")
    if own.sync_batchnorm and device == "cpu" and trainer.world_size > 1:
        raise InputError("sync_batchnorm=True works on GPUs only.", sync_batchnorm=False)
    trainer.strategy.checkpoint_io = RunCheckpoints(trainer)
    return trainer


class FirstFailure(pl.Callback):
    """Ends all processes when one fails, and prints the error of the first alone."""

    def __init__(self, config: DictConfig) -> None:
        self.config, self._is_watching = config, False

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Watch the processes that this one has started, or the one that started it."""
        started = getattr(trainer.strategy.launcher, "procs", [])
        parent = os.getppid() if not (is_first() or launched()[0]) else None

        def watch() -> None:
            while not any(p.poll() for p in started) and parent in (None, os.getppid()):
                time.sleep(0.5)
            time.sleep(2)  # its own error comes first
            states = [TrainerStatus.RUNNING, *[TrainerStatus.FINISHED] * bool(started)]
            if trainer.state.status in states:
                reason = InputError("another process of this training was killed.")
                self.on_exception(trainer, pl_module, reason)

        if (started or parent) and not self._is_watching:
            self._is_watching = True
            for thread in threading.enumerate():  # Lightning's kills without a word
                if thread.name == "child-process-observer":
                    thread._child_processes = []  # type: ignore[attr-defined]
            threading.Thread(target=watch, daemon=True).start()

    def on_exception(self, trainer: pl.Trainer, pl_module: Any, exception: BaseException) -> None:
        """Print the error of the first process to fail, and end this one and those it started."""
        if trainer.world_size == 1 or not isinstance(exception, Exception):
            return
        run, message = HydraConfig.get(), paragraph(exception, self.config)
        folder = Path(run.runtime.output_dir)
        try:  # a file in the folder, which all processes share, marks the first
            (folder / ERROR).open("x", encoding="utf-8").write(f"{message or repr(exception)}\n")
        except OSError:
            message = ""
            time.sleep(0.2)  # the first to fail may still print
        if message:
            print(f"camreid-{run.job.config_name}: {printable(message)}", file=sys.stderr)
        elif message is None:
            traceback.print_exception(exception)
        sys.stderr.flush()
        if trainer.strategy.launcher is not None:
            trainer.strategy.launcher.kill(signal.SIGKILL)
        if message is not None:
            discard(folder)
        os._exit(1)  # a process that waits for the others in an exit handler would not end
