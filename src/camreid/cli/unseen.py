"""Checkpoints on one test of identities that none of them was trained on."""

import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from camreid.cli import build, evaluate
from camreid.cli.checkpoints import seen_identities
from camreid.cli.experts import check_dataset, read_experts
from camreid.cli.terminal import be_quiet, show
from camreid.data import Split
from camreid.errors import InputError
from camreid.runs.folder import RunFolder

_MOST_OF_ALL = {"train_fraction": 0.002, "val_fraction": 0.0, "seed": 0}  # are tested


def compare_checkpoints(
    paths: Sequence[str],
    command: list[str],
    finish: Callable[[list[Path], list[str]], None],
    config: DictConfig,
) -> None:
    """Test the checkpoints, or those of run folders, and `finish` with their folders and names."""
    be_quiet()
    sys.argv[1:] = command  # as it was typed, for the record
    build.seed(config)
    config.split = {"_target_": "camreid.data.OriginalSplit"}
    official = build.build_split(config)
    files = [checkpoint_of(path) for path in paths]
    experts = read_experts("RUN", files, by_camera=False, datasets=official.datasets)
    if len(experts) < 2:
        raise InputError(f"{experts[0].path} is the only checkpoint: expected two or more.")
    seen = set(seen_identities([expert.path for expert in experts], official.datasets))
    check_dataset(experts, config.data)
    split, words = unseen_test(config, official, [expert.path for expert in experts], seen)
    trainer = build.build_trainer(config, logger=False)
    evaluate.keep(config, split)
    show(f"Test   {words}", f"Run    {build.run_folder()}")
    folders = []
    for place, expert in enumerate(experts, 1):
        show(f"Test of {expert.name} ({place} of {len(experts)}): {expert.path}")
        own = OmegaConf.merge(config, {"checkpoint": expert.path})
        assert isinstance(own, DictConfig)
        folders.append(build.run_folder() / expert.name)
        evaluate.keep(own, split, folders[-1])
        module = evaluate.read_module(own, split)
        data = build.build_data(own, split, module.config)
        evaluate.test(own, trainer, module, data, "", folders[-1])
    finish(folders, [expert.name for expert in experts])


def checkpoint_of(path: str) -> str:
    """The checkpoint itself, or that of a run folder."""
    best = Path(path, "checkpoints", "best.ckpt")
    if not Path(path).is_dir() or best.is_file():
        return str(best) if best.is_file() else path
    metrics = RunFolder.existing(path).metrics
    if metrics is None or metrics.weights is None:
        raise InputError(f"{path} names no checkpoint: type that of its weights in its place.")
    return metrics.weights


def unseen_test(
    config: DictConfig, official: Split, paths: list[str], seen: set[int]
) -> tuple[Split, str]:
    """The official test if no identity of it is seen, else one of all unseen identities."""
    none = f"none of the {len(paths)} checkpoints was trained on"
    tested = {record.pid for record in official.query}
    if tested and not tested & seen:
        return official, f"the official one; {none} any of its {len(tested)} identities"
    config.split = {"_target_": "camreid.data.Resplit", **_MOST_OF_ALL, "exclude_seen": paths}
    split = build.build_split(config)
    tested = {record.pid for record in split.query}
    return split, f"re-split, {len(tested)} identities that {none}"
