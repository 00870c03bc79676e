"""Where a training is: lines for its epochs, a bar, and the numbers of steps."""

import csv
import re
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import pytorch_lightning as pl
from pytorch_lightning.loggers import CSVLogger

from camreid.data import OriginalSplit, Records, ReIDDataModule
from camreid.training import progress
from camreid.training.progress import Clock, EpochLines, RunBar
from tests.conftest import tiny_module
from tests.test_progress import Screen

Fit = Callable[..., Path]


@pytest.fixture
def fit(records: Records, trainer: Callable[..., pl.Trainer], tmp_path: Path) -> Fit:
    """Train on 4 batches an epoch; the logged numbers."""

    def train(**options: object) -> Path:
        split = OriginalSplit(val_fraction=0.3)(records)
        data = ReIDDataModule(split, (64, 32), identities=4, instances=2, workers=0)
        logger = CSVLogger(tmp_path, "", "")
        limits = {"limit_train_batches": 4, "log_every_n_steps": 2, "enable_progress_bar": True}
        run = trainer(logger=logger, callbacks=[EpochLines(), RunBar()], **limits, **options)
        run.fit(tiny_module(split.labels), data)
        return tmp_path / "metrics.csv"

    return train


def test_an_epoch_is_a_line_and_steps_are_logged(
    fit: Fit, capsys: pytest.CaptureFixture[str]
) -> None:
    with fit(max_epochs=2).open(newline="") as file:
        rows = list(csv.DictReader(file))
    out = capsys.readouterr().out
    number = r"[\d.e+-]+"
    lines = re.findall(
        rf"Epoch (\d)/2: loss {number}, val mAP {number}%, {number} images/s, lr {number}, "
        r"(.*) left",
        out,
    )
    assert [epoch for epoch, _ in lines] == ["1", "2"]
    assert lines[-1][1] == "00:00"
    assert "\r" not in out
    assert [row["epoch"] for row in rows if row["train/loss"]] == ["0", "1"]
    assert [row["step"] for row in rows if row["train/loss_step"]] == ["1", "3", "5", "7"]


def test_the_bar_counts_steps_where_they_limit_the_run(
    fit: Fit, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stderr", screen := Screen())
    fit(max_epochs=-1, max_steps=6)
    assert "Epoch 2, step 6/6" in screen.getvalue()
    assert "whole training=00:00 left" in screen.getvalue()
    assert "Epoch 2, step 6/6: loss" in capsys.readouterr().out
    assert "/-" not in screen.getvalue()


def test_the_time_left_is_that_of_the_whole_training(monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = iter((100.0, 150.0, 160.0))
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(seconds))
    run = SimpleNamespace(global_step=10, estimated_stepping_batches=120)  # resumed after 10 steps
    clock = Clock(run)
    assert clock.left == "? left"
    run.global_step = 20
    assert clock.left == "08:20 left"
    run.estimated_stepping_batches = float("inf")
    assert clock.left == "? left"
