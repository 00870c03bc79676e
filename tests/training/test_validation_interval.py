"""The last step of a run is validated, so that there is a best checkpoint."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelCheckpoint
from torch.utils.data import DataLoader

from tests.training.one_weight import OneWeight

Trainer = Callable[..., pl.Trainer]


@pytest.mark.parametrize(
    ("options", "validated"),
    [
        ({"max_epochs": 2, "check_val_every_n_epoch": 10}, [8]),
        ({"max_epochs": 3, "check_val_every_n_epoch": 2}, [8, 12]),
        ({"max_epochs": 2}, [4, 8]),
        ({"max_epochs": 9, "max_steps": 3}, [3]),
        ({"max_epochs": -1, "max_steps": 6}, [4, 6]),
        ({"max_epochs": 3, "check_val_every_n_epoch": 2, "max_steps": 10}, [8, 10]),
        ({"max_epochs": 2, "check_val_every_n_epoch": None, "val_check_interval": 5}, [5, 8]),
        ({"max_epochs": 1, "check_val_every_n_epoch": None, "val_check_interval": 50}, [4]),
        ({"max_epochs": 1, "val_check_interval": 3}, [3, 4]),
        ({"max_epochs": 2, "accumulate_grad_batches": 3, "max_steps": 3}, [2, 3]),
        ({"max_epochs": 3, "min_epochs": 3, "check_val_every_n_epoch": 2}, [8, 12]),
    ],
)
def test_the_last_step_is_validated_once(
    trainer: Trainer, tmp_path: Path, options: dict[str, Any], validated: list[int]
) -> None:
    best = ModelCheckpoint(tmp_path, "best", monitor="val/mAP", mode="max")
    module, runner = OneWeight(), trainer(callbacks=[best], enable_checkpointing=True, **options)
    runner.fit(module, DataLoader(torch.zeros(4, 1)), DataLoader(torch.zeros(1, 1)))
    assert module.validated == validated
    assert best.best_model_score == validated[-1]
    assert (tmp_path / "best.ckpt").is_file()
    assert runner.check_val_every_n_epoch == options.get("check_val_every_n_epoch", 1)


def test_a_run_that_a_callback_ends_is_validated(trainer: Trainer) -> None:
    class Stop(pl.Callback):
        def on_train_batch_end(self, trainer: pl.Trainer, *_: object) -> None:
            trainer.should_stop = trainer.global_step >= 2

    for options, validated in ({}, [2]), ({"min_epochs": 2}, [4, 8]):
        module = OneWeight()
        runner = trainer(max_epochs=9, callbacks=[Stop()], **options)
        runner.fit(module, DataLoader(torch.zeros(4, 1)), DataLoader(torch.zeros(1, 1)))
        assert module.validated == validated
