"""Two processes with P/2 identities each train as one process with P."""

from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from torch.nn.modules.batchnorm import _BatchNorm

from camreid.data import OriginalSplit, ReIDDataModule, read_market1501
from camreid.labels import LabelMap
from camreid.training import ReIDModule
from camreid.training.distill import Distillation, DistillConfig, Teacher
from tests.cli.test_ddp import launch
from tests.conftest import CONFIG, tiny_module

pytestmark = pytest.mark.slow
HEADS = {"camera_heads": True, "cameras": [1, 2, 3, 4, 5, 6]}
PAIRS = {"pair": "circle", "triplet_mining": "weighted", "triplet_margin": "soft"}
OPTIMIZER = {"name": "sgd", "lr": 0.05, "weight_decay": 5e-4}
CASES = ("plain", "unknown", "cameras", "distilled")


class Recorder(pl.Callback):
    """Freezes the batch norms, and keeps each step's loss and gradients."""

    def __init__(self) -> None:
        self.losses: list[torch.Tensor] = []
        self.gradients: list[dict[str, torch.Tensor]] = []

    def on_train_batch_start(self, trainer: Any, module: Any, batch: Any, index: int) -> None:
        for part in module.modules():
            if isinstance(part, _BatchNorm):
                part.eval()

    def on_before_optimizer_step(self, trainer: Any, module: Any, optimizer: Any) -> None:
        found = {n: p.grad.clone() for n, p in module.named_parameters() if p.grad is not None}
        self.gradients.append(found)

    def on_train_batch_end(self, trainer: Any, module: Any, out: Any, *_: Any) -> None:
        self.losses.append(trainer.strategy.reduce(out["loss"].detach(), reduce_op="mean"))


def train(market: str, folder: str, devices: int) -> None:
    """Three steps of each case on so many processes with 4 identities together."""
    split = OriginalSplit(camera=None, val_fraction=0.3, seed=0)(read_market1501(market))
    for case in CASES:
        own = case == "cameras"
        network, loss, labels = CONFIG["network"], CONFIG["loss"], split.labels
        if own:
            network, loss, labels = network | HEADS, loss | PAIRS, split.camera_labels
        if case == "unknown":
            labels = LabelMap(split.labels.pids[::3])
        module = tiny_module(labels, network=network, loss=loss, optimizer=OPTIMIZER)
        if case == "distilled":
            add_teachers(module)
        data = ReIDDataModule(
            split, (64, 32), identities=4 // devices, instances=3, workers=0, within_camera=own
        )
        recorder = Recorder()
        trainer = pl.Trainer(
            accelerator="cpu", devices=devices, max_steps=3, precision="64-true",
            strategy="ddp_find_unused_parameters_true" if devices > 1 else "auto",
            callbacks=[recorder], logger=False, enable_checkpointing=False,
            enable_progress_bar=False, enable_model_summary=False, use_distributed_sampler=False,
            limit_val_batches=0, default_root_dir=folder,
        )  # fmt: skip
        trainer.fit(module, data)
        kept = recorder.losses, recorder.gradients, dict(module.model.named_parameters())
        if trainer.global_rank == 0:
            torch.save(kept, Path(folder) / f"{case}-{devices}.pt")


def add_teachers(module: ReIDModule) -> None:
    """Two teachers, one of camera 1."""
    teachers = [
        Teacher(tiny_module(LabelMap(module.labels.pids[first:])).eval().double(), camera)
        for first, camera in ((0, None), (2, 1))
    ]
    module.extra_losses.append(Distillation(teachers, module.model, DistillConfig(1, 0.1, 1, 4)))


@pytest.fixture(scope="module")
def folder(market: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What one process and two have learnt."""
    folder = tmp_path_factory.mktemp("ranks")
    script = f"from tests.training.test_ranks import train\ntrain({str(market)!r}, '.', 2)\n"
    (folder / "rank.py").write_text(script)
    ran = launch("rank.py", folder=folder)
    assert ran.returncode == 0, ran.stderr
    train(str(market), str(folder), 1)
    return folder


@pytest.mark.parametrize("case", CASES)
def test_losses_gradients_and_weights_are_those_of_one_process(folder: Path, case: str) -> None:
    one, two = (torch.load(folder / f"{case}-{devices}.pt") for devices in (1, 2))
    assert len(one[0]) == len(one[1]) == 3
    assert all(loss > 0.1 for loss in one[0])
    torch.testing.assert_close(two, one, rtol=1e-5, atol=1e-7)
