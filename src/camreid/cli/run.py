"""What the commands do, step by step."""

import json
import logging
import platform
import shutil
import subprocess
import sys
import warnings
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning.utilities import rank_zero_only
from rich.console import Console

import camreid
from camreid.callbacks import Provenance
from camreid.checkpoints import Checkpoint, load, read_checkpoint, start_from, without_fetching
from camreid.cli import build
from camreid.data import Split
from camreid.errors import InputError
from camreid.evaluation.report import evidence_tables
from camreid.labels import fit_labels
from camreid.model.module import ReIDModule


def train_run(config: DictConfig) -> None:
    """Build the parts, fit, test, and leave everything in the run folder."""
    _quiet()
    build.check_multirun(config.trainer)
    build.check_folder(config)
    trainer_parts = build.build_loggers(config)
    pl.seed_everything(config.seed, workers=True, verbose=False)
    start = read_checkpoint(config.init) if config.init else None
    resumed = read_checkpoint(config.resume) if config.resume else None
    split = build.build_split(config)
    if config.test:
        build.require_test(split)
    module = build_module(config, split, start, resumed)
    only = module.labels if module.config.unknown == "drop" and start else None
    data = build.build_data(config, split, module.config.image_size, only)
    data.setup("fit")  # refuses impossible batches before anything is written
    callbacks = [*build.build_callbacks(config, split), Provenance(notes(config))]
    trainer = build.build_trainer(config, callbacks=callbacks, logger=trainer_parts)
    _announce(config, split, module)
    trainer.fit(module, data, ckpt_path=config.resume)
    if config.test:
        _test(trainer, module, data, split, title="Test")


def build_module(
    config: DictConfig, split: Split, start: Checkpoint | None, resumed: Checkpoint | None
) -> ReIDModule:
    """The module with its rows decided: fresh, started from weights, or as it was."""
    if start is not None and resumed is not None:
        raise InputError(
            f"init={start.path} starts a new run and resume={resumed.path} continues one; type "
            "one of "
            "the two."
        )
    if resumed is not None:
        _check_same_split(resumed, split)
        return ReIDModule(without_fetching(build.build_model(config, resumed)), resumed.labels)
    model = build.build_model(config, start)
    if start is None:
        return ReIDModule(model, split.labels)
    labels = fit_labels(start.labels, split.labels, model.unknown)
    module = ReIDModule(without_fetching(model), labels)
    start_from(module, start)
    return module


def evaluate_run(config: DictConfig) -> None:
    """Rank the split's query and gallery by a checkpoint."""
    _quiet()
    if OmegaConf.is_missing(config, "checkpoint"):
        raise InputError("no checkpoint was given; type checkpoint=runs/RUN/checkpoints/best.ckpt.")
    pl.seed_everything(config.seed, workers=True, verbose=False)
    module = load(config.checkpoint)
    split = build.build_split(config)
    build.require_test(split)
    data = build.build_data(config, split, module.config.image_size)
    trainer = build.build_trainer(config, logger=False, callbacks=[])
    _keep(config, split)
    _test(trainer, module, data, split, title=f"Test of {config.checkpoint}")


def notes(config: DictConfig) -> dict[str, Any]:
    """Where a checkpoint comes from: config as text, versions, command, commit."""
    typed = HydraConfig.get().overrides.task
    return {
        "config": OmegaConf.to_yaml(config, resolve=True),
        "versions": {
            "camreid": camreid.__version__,
            "python": platform.python_version(),
            "torch": version("torch"),
            "torchvision": version("torchvision"),
            "pytorch_lightning": version("pytorch-lightning"),
            "timm": version("timm"),
        },
        "command": " ".join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        "commit": _commit(),
        "split_overrides": " ".join(a for a in typed if a.lstrip("+").startswith("split")),
    }


def _commit() -> str | None:
    """The commit of the folder that the command runs in, if it is a repository."""
    if shutil.which("git") is None:
        return None
    command = ["git", "rev-parse", "HEAD"]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    return found.stdout.strip() or None


def _check_same_split(resumed: Checkpoint, split: Split) -> None:
    digest = resumed.notes.get("split", {}).get("digest")
    if digest not in (None, split.digest):
        raise InputError(
            f"resume={resumed.path} was trained on the split {digest}, and this command makes "
            f"{split.digest}. Type the same split options as then "
            f"({resumed.notes.get('split_overrides') or 'see its run folder'}), or "
            f"init={resumed.path} to start a new run from its weights."
        )


@rank_zero_only
def _keep(config: DictConfig, split: Split) -> None:
    """Config and manifest into the run folder."""
    folder = build.run_folder()
    (folder / "config.yaml").write_text(OmegaConf.to_yaml(config, resolve=True), encoding="utf-8")
    split.save(folder / "split.csv")


@rank_zero_only
def _announce(config: DictConfig, split: Split, module: ReIDModule) -> None:
    """Say what is about to happen, and keep the means to do it again."""
    _keep(config, split)
    say = Console(soft_wrap=True, highlight=False, markup=False).print
    counts = ", ".join(
        f"{len(getattr(split, s))} {s}" for s in ("train", "val", "query", "gallery")
    )
    say(f"Split  {split.strategy}, digest {split.digest}: {len(split.labels)} identities; {counts}")
    say(
        f"Model  {module.config.name}, {len(module.labels)} rows, images {module.config.image_size}"
    )
    if config.init:
        say(
            f"Init   {config.init}, {len(module.labels) - len(module.new_people)} rows carried over"
        )
    if not split.val:
        say("No identities are held out for validation: best.ckpt is the last epoch.")
    elif split.val_within_camera:
        camera = split.val[0].camera
        say(
            f"Validation ranks within camera {camera}, the query image itself removed: one camera "
            "can't be validated across cameras."
        )
    say(f"Run    {build.run_folder()}")


def _test(
    trainer: pl.Trainer, module: ReIDModule, data: pl.LightningDataModule, split: Split, title: str
) -> None:
    """Test with the best weights of this run, or those at hand, and write metrics.json."""
    checkpoint = trainer.checkpoint_callback
    best = getattr(checkpoint, "best_model_path", "") or None
    trainer.test(module, data, ckpt_path=best, verbose=False)
    if trainer.is_global_zero and module.evidence is not None:
        summary = module.evidence.summary()
        content = {
            "split": {"digest": split.digest, "strategy": split.strategy},
            "rows": len(module.labels),
            "weights": best,
            **summary,
        }
        path = build.run_folder() / "metrics.json"
        path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
        for table in evidence_tables(summary, title):
            Console().print(table)
        Console().print(f"Written to {path}")


def _quiet() -> None:
    """Leave the terminal to what a person needs; the log file has the rest."""
    for name in ("pytorch_lightning.utilities.rank_zero", "pytorch_lightning.accelerators.cuda"):
        logging.getLogger(name).setLevel(logging.WARNING)
    for message in _NOISE:
        warnings.filterwarnings("ignore", message=message)


_NOISE = (
    ".*does not have many workers.*",  # loaders get one process a core, which Lightning finds few
    ".*it is recommended to use .*devices=1.*",  # repeats are counted once, by index
    "Experiment logs directory .* exists and is not empty.*",  # the run folder, on purpose
    ".*`isinstance\\(treespec, LeafSpec\\)` is deprecated.*",  # Lightning 2.6 on torch 2.15
    "Checkpoint directory .* exists and is not empty.*",  # of a run that is continued
    "Total length of `list` across ranks is zero.*",  # no validation, which was announced
    "The number of training batches .* is smaller than the logging interval.*",  # logged by epoch
)
