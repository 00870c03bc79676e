"""A run that is stopped and resumed, and the run that is not, are equal to the bit."""

import os
import signal
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch

from camreid.checkpoints import read_checkpoint
from camreid.data import Augment, Records, ReIDDataModule, Resplit
from camreid.training.callbacks import EMA
from camreid.training.checkpoint_io import RunCheckpoints
from camreid.training.resuming import LastCheckpoint, position
from tests.conftest import CONFIG, tiny_module

pytestmark = pytest.mark.filterwarnings("ignore:Checkpoint directory")
DROPPING = {"_target_": "camreid.models.Baseline", "backbone": "test_vit", "drop_path": 0.5}


class At(pl.Callback):
    """Calls a function at the start of a batch, counted from 0 over the run."""

    def __init__(self, batch: int, call: Any) -> None:
        self.left, self.call = batch, call

    def on_train_batch_start(self, *_: object) -> None:
        self.left -= 1
        if self.left == -1:
            self.call()


def kill() -> None:
    raise RuntimeError("killed")


def fit(
    records: Records,
    folder: Path,
    *callbacks: pl.Callback,
    every: int | None = None,
    workers: int = 0,
    auto: float = 0.0,
    network: Any = None,
    seed: int = 0,
    average: bool = False,
    **options: Any,
) -> dict[str, Any]:
    """Two epochs of at most five batches, resumed where there is a checkpoint: what it saves."""
    last = folder / "last.ckpt"
    data = ReIDDataModule(
        Resplit(0.5, 0.3, 0)(records), (64, 32), identities=2, instances=4, workers=workers,
        seed=seed, augment=Augment(auto=auto),
    )  # fmt: skip
    options = {"max_epochs": 2, "limit_train_batches": 5} | options
    trainer = pl.Trainer(
        accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False,
        use_distributed_sampler=False, num_sanity_val_steps=0,
        callbacks=[*callbacks, *([EMA(0.9)] * average), LastCheckpoint(folder, every)], **options,
    )  # fmt: skip
    trainer.strategy.checkpoint_io = RunCheckpoints(trainer)
    module = tiny_module(data.split.labels, network=network or CONFIG["network"])
    trainer.fit(module, data, ckpt_path=last if last.exists() else None)
    metrics = {name: value.item() for name, value in trainer.callback_metrics.items()}
    content = torch.load(last, weights_only=True)
    del content["callbacks"]  # they hold paths
    content["loops"] = content["loops"]["fit_loop"]["epoch_loop.state_dict"]
    return {**content, "metrics": {k: v for k, v in metrics.items() if k.startswith("val/")}}


def differing(first: Any, second: Any, at: str = "") -> list[str]:
    """Where two nested values differ."""
    if isinstance(first, torch.Tensor):
        return [] if torch.equal(first, second) else [at]
    if isinstance(first, dict):
        assert first.keys() == second.keys(), at
        return [d for k in first for d in differing(first[k], second[k], f"{at}.{k}")]
    if isinstance(first, list | tuple):
        pairs = enumerate(zip(first, second, strict=True))
        return [d for n, (a, b) in pairs for d in differing(a, b, f"{at}.{n}")]
    return [] if first == second else [f"{at} is {first} and {second}"]


CASES: dict[str, tuple[list[int], dict[str, Any]]] = {  # batches before it is killed, and options
    "plain": ([2, 5, 9], {}),
    "auto augment": ([3], {"auto": 0.8}),
    "workers": ([3, 6], {"workers": 2}),
    "accumulated": ([4, 8], {"accumulate_grad_batches": 2}),
    "part of an epoch": ([2, 3, 4], {"limit_train_batches": 3}),
    "stochastic depth": ([3], {"network": DROPPING}),
    "moving average": ([3, 5], {"average": True}),
    "steps": ([3, 5, 7], {"max_steps": 10, "max_epochs": -1}),
}


@pytest.mark.parametrize("case", CASES)
def test_a_killed_and_resumed_run_is_the_uninterrupted_one(
    case: str, records: Records, tmp_path: Path
) -> None:
    kills, options = CASES[case]
    whole = fit(records, tmp_path / "whole", **options)
    for batches in kills:
        part = tmp_path / str(batches)
        with pytest.raises(RuntimeError, match="killed"):
            fit(records, part, At(batches, kill), every=1, **options)
        assert not differing(whole, fit(records, part, every=1, **options)), batches


@pytest.mark.parametrize(("number", "batch"), [(signal.SIGINT, 2), (signal.SIGTERM, 4)])
def test_a_signal_stops_after_the_step_and_saves(
    number: int, batch: int, records: Records, tmp_path: Path
) -> None:
    handlers = [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)]
    options = {"accumulate_grad_batches": 2}
    whole = fit(records, tmp_path / "whole", **options)
    with pytest.raises(SystemExit):
        fit(records, tmp_path / "part", At(batch, lambda: os.kill(os.getpid(), number)), **options)
    assert [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)] == handlers
    saved = torch.load(tmp_path / "part/last.ckpt", weights_only=True)
    assert position(saved) == ((0, 4) if batch == 2 else (1, 0))
    assert not differing(whole, fit(records, tmp_path / "part", **options))


@pytest.mark.parametrize(("batches", "expected"), [(3, (0, 3)), (5, (1, 0))])
def test_a_checkpoint_has_its_place_in_the_run(
    batches: int, expected: tuple[int, int], records: Records, tmp_path: Path
) -> None:
    with pytest.raises(RuntimeError, match="killed"):
        fit(records, tmp_path, At(batches, kill), every=1)
    checkpoint = read_checkpoint(tmp_path / "last.ckpt")
    assert (checkpoint.epochs, checkpoint.batches) == expected


@pytest.mark.parametrize("workers", [0, 2])
def test_the_same_seed_gives_the_same_weights(
    workers: int, records: Records, tmp_path: Path
) -> None:
    options = {"workers": workers, "max_epochs": 1, "network": DROPPING}
    first, again, other = (
        fit(records, tmp_path / str(n), seed=seed, **options) for n, seed in enumerate((0, 0, 1))
    )
    assert not differing(first, again)
    assert differing(first["state_dict"], other["state_dict"])


def test_a_file_that_cannot_be_written_leaves_the_one_before(
    records: Records, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(content: object, path: Path) -> None:
        path.write_bytes(b"half")
        raise OSError("disk full")

    fit(records, tmp_path, max_epochs=1)
    before = (tmp_path / "last.ckpt").read_bytes()
    monkeypatch.setattr(torch, "save", fail)
    with pytest.raises(OSError, match="disk full"):
        fit(records, tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["last.ckpt"]
    assert (tmp_path / "last.ckpt").read_bytes() == before
