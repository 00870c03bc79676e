"""Checkpoints on one test of identities that none of them was trained on."""

import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from omegaconf import DictConfig

from camreid.cli import build, evaluate
from camreid.cli.checkpoints import check_dataset, read_experts, seen_identities
from camreid.cli.terminal import show
from camreid.data import Split
from camreid.errors import InputError
from camreid.runs.folder import RunFolder


def compare_checkpoints(
    paths: Sequence[str], command: list[str], finish: Callable[..., None], config: DictConfig
) -> None:
    """Test the checkpoints, or those of run folders, and `finish` with their folders and names."""
    sys.argv[1:] = command  # as it was typed, for the record
    build.seed(config)
    config.split = {"_target_": "camreid.data.OriginalSplit"}
    official = build.build_split(config)
    files = [checkpoint_of(path) for path in paths]
    experts = read_experts("RUN", files, by_camera=False, datasets=official.datasets)
    own = [expert.path for expert in experts.values()]
    if len(own) < 2:
        raise InputError(f"{own[0]} is the only checkpoint: expected two or more.")
    check_dataset(experts, config.data)
    split, words = unseen_test(config, official, own)
    trainer = build.build_trainer(config, logger=False)
    evaluate.keep(config, split)
    show(f"Test   {words}", f"Run    {build.run_folder()}")
    for place, (name, path) in enumerate(zip(experts, own, strict=True), 1):
        config.checkpoint = path
        show(f"Test of {name} ({place} of {len(own)}): {path}")
        evaluate.keep(config, split, name)
        module = evaluate.read_module(config, split)
        data = build.build_data(config, split, module.config)
        evaluate.run_test(config, trainer, module, data, name)
    finish([build.run_folder() / name for name in experts], list(experts))


def checkpoint_of(path: str) -> str:
    """The checkpoint itself, or that of a run folder."""
    best = Path(path, "checkpoints", "best.ckpt")
    if not Path(path).is_dir() or best.is_file():
        return str(best) if best.is_file() else path
    metrics = RunFolder.existing(path).metrics
    if metrics is None or metrics.weights is None:
        raise InputError(f"{path} names no checkpoint: type that of its weights in its place.")
    return metrics.weights


def unseen_test(config: DictConfig, official: Split, paths: list[str]) -> tuple[Split, str]:
    """The official test if no identity of it is seen, else one of all unseen identities."""
    seen = seen_identities(paths, official.datasets)
    none = f"none of the {len(paths)} checkpoints was trained on"
    tested = {record.pid for record in official.query}
    if tested and tested.isdisjoint(seen):
        return official, f"the official one; {none} any of its {len(tested)} identities"
    pids = official.labels.pids  # a split has two train identities at least
    share = 2 / max(3, len(pids), len(tested)) if len({*pids}.intersection(seen)) < 2 else 0.002
    options = {"train_fraction": share, "val_fraction": 0.0, "exclude_seen": paths}
    config.split = {"_target_": "camreid.data.Resplit", **options}
    split = build.build_split(config)
    tested = {record.pid for record in split.query}
    return split, f"re-split, {len(tested)} identities that {none}"
