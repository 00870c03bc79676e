"""The moving average of the weights."""

from collections.abc import Callable
from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelCheckpoint

from camreid.checkpoints.io import load
from camreid.data import OriginalSplit, Records, ReIDDataModule
from camreid.training import ReIDModule
from camreid.training.callbacks import EMA
from camreid.training.checkpoint_io import RunCheckpoints
from tests.conftest import tiny_module

Trainer = Callable[..., pl.Trainer]


class Kept(pl.Callback):
    """The weights and statistics after each step, in training and in validation."""

    def __init__(self) -> None:
        self.trained: list[dict[str, torch.Tensor]] = []
        self.validated: list[dict[str, torch.Tensor]] = []

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: ReIDModule, *_: object) -> None:
        self.trained.append({k: v.clone() for k, v in pl_module.state_dict().items()})

    def on_validation_batch_end(
        self, trainer: pl.Trainer, pl_module: ReIDModule, *_: object
    ) -> None:
        self.validated.append({k: v.clone() for k, v in pl_module.state_dict().items()})


@pytest.fixture
def data(records: Records) -> ReIDDataModule:
    return ReIDDataModule(
        OriginalSplit(val_fraction=0.3)(records), (64, 32), identities=4, workers=0
    )


def close(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return all(torch.allclose(one[k], other[k], atol=1e-5) for k in one if k.startswith("model."))


def test_the_average_is_validated_saved_and_continued(
    data: ReIDDataModule, trainer: Trainer, tmp_path: Path
) -> None:
    options = {"limit_train_batches": 3, "enable_checkpointing": True}
    kept, saved = Kept(), ModelCheckpoint(tmp_path / "a", "best", monitor="val/mAP", mode="max")
    module = tiny_module(data.split.labels)
    each = ModelCheckpoint(tmp_path / "b", "{epoch}", save_top_k=-1)
    runner = trainer(max_epochs=2, callbacks=[EMA(0.5), kept, saved, each], **options)
    runner.fit(module, data)
    average, averages = kept.trained[0], []
    for step, now in enumerate(kept.trained):  # a plain loop
        decay = min(0.5, (1 + step) / (10 + step)) if step else 0
        average = {
            k: decay * average[k] + (1 - decay) * v if v.is_floating_point() else v
            for k, v in now.items()
        }
        averages.append(average)
    assert close(kept.validated[0], averages[2])
    assert close(kept.validated[-1], averages[5])
    assert not close(kept.validated[-1], kept.trained[-1])
    assert close(module.state_dict(), averages[5])
    content = torch.load(tmp_path / "b" / "epoch=0.ckpt")
    assert close(content["state_dict"], averages[2])
    assert close(content["current_model_state"], kept.trained[2])
    assert close(load(tmp_path / "b" / "epoch=0.ckpt").state_dict(), content["state_dict"])
    resumed = tiny_module(data.split.labels)
    again = trainer(max_epochs=2, callbacks=[EMA(0.5)], **options)
    again.strategy.checkpoint_io = RunCheckpoints(again)
    again.fit(resumed, data, ckpt_path=tmp_path / "b" / "epoch=0.ckpt")
    state = module.state_dict()
    assert all(torch.equal(v, state[k]) for k, v in resumed.state_dict().items())
    again.test(resumed, data, ckpt_path=saved.best_model_path, verbose=False)
    best = torch.load(saved.best_model_path)["state_dict"]
    assert all(torch.equal(v, best[k]) for k, v in resumed.state_dict().items())
