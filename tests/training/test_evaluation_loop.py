"""Image numbers and sequences in validation and test."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelCheckpoint

from camreid.checkpoints import load, read_checkpoint
from camreid.data import OriginalSplit, Records, ReIDDataModule
from camreid.evaluation import Calibration, FeatureTable, Images, rank, verify
from camreid.training import ReIDModule
from tests.conftest import tiny_module

Trainer = Callable[..., pl.Trainer]


def test_images_without_numbers_do_not_collide_between_ranks(
    records: Records, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = tiny_module(OriginalSplit()(records).labels).eval()
    batch: dict[str, Any] = {
        "images": torch.zeros(4, 3, 64, 32), "pids": torch.tensor([1, 1, 2, 2]),
        "camids": torch.tensor([0, 1, 0, 1]),
    }  # fmt: skip
    for rank_ in (0, 1):
        monkeypatch.setattr(ReIDModule, "global_rank", rank_)
        for place in (0, 1):
            module.test_step(batch, place, dataloader_idx=1)
    assert len(module.test_metric.table().gallery.pids) == 16


def test_single_camera_validation_excludes_the_sequence_of_the_query(
    records: Records, trainer: Trainer
) -> None:
    split = OriginalSplit(camera=3, val_fraction=0.5)(records)
    val = tuple(replace(r, sequence=1 + i % 3 // 2) for i, r in enumerate(split.val))
    split = replace(split, val=val)
    data = ReIDDataModule(split, (64, 32), identities=4, workers=0)
    module = tiny_module(split.labels)
    runner = trainer()
    sequences = torch.tensor([r.sequence for r in split.val])
    pids, index = torch.tensor([r.pid for r in split.val]), torch.arange(len(split.val))
    runner.validate(module, data, verbose=False)
    module.eval()
    features = torch.cat(
        [module.model(b["images"]).features.detach() for b in data.val_dataloader()]
    )
    labels: dict[str, Any] = {
        "query_sequences": sequences, "gallery_sequences": sequences,
        "query_index": index, "gallery_index": index, "protocol": "within-camera",
    }  # fmt: skip
    expected = rank(features, features, pids, pids, pids * 0, pids * 0, **labels)
    assert runner.callback_metrics["val/valid_queries"] == expected.valid_queries
    assert runner.callback_metrics["val/mAP"].item() == pytest.approx(expected.mAP)
    assert expected.valid_queries < len(pids)


def test_a_checkpoint_has_the_calibration_of_its_validation(
    records: Records, trainer: Trainer, tmp_path: Path
) -> None:
    split = OriginalSplit(val_fraction=0.4)(records)
    data = ReIDDataModule(split, (64, 32), identities=4, workers=0)
    module = tiny_module(split.labels)
    best = ModelCheckpoint(tmp_path, "best")
    runner = trainer(max_epochs=1, enable_checkpointing=True, callbacks=[best])
    runner.fit(module, data)
    found = read_checkpoint(tmp_path / "best.ckpt").calibration
    module.eval()
    features = torch.cat(
        [module.model(b["images"]).features.detach() for b in data.val_dataloader()]
    )
    pids, cameras = (torch.tensor([getattr(r, n) for r in split.val]) for n in ("pid", "camera"))
    pairs = verify(FeatureTable(*2 * [Images(features, pids, cameras)]))
    assert found.genuine == len(pairs.genuine)
    assert found.slope == pytest.approx(Calibration.fit(pairs).slope, rel=1e-3)
    assert found.protocol == "cross-camera"
    module.calibration = None
    runner.test(module, data, ckpt_path=str(tmp_path / "best.ckpt"), verbose=False)
    assert module.test_result.decisions["reliability"]
    assert load(tmp_path / "best.ckpt").calibration == found


def test_validation_in_one_camera_calibrates_within_it(records: Records, trainer: Trainer) -> None:
    split = OriginalSplit(camera=3, val_fraction=0.5)(records)
    module = tiny_module(split.labels)
    trainer().validate(module, ReIDDataModule(split, (64, 32), workers=0), verbose=False)
    assert module.calibration.protocol == "within-camera"
    assert set(module.calibration.cameras) <= {"3-3"}
