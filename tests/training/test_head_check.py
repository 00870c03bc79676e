"""Counts, faults and remedies of the head check."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch
from torch import nn

from camreid.data import OriginalSplit, Records, ReIDDataModule
from camreid.errors import HeadMismatch
from camreid.labels import LabelMap
from camreid.models import RemapHead
from camreid.provenance import Parent, SplitRecord
from camreid.training.head_check import HeadCheck, check_head
from tests.conftest import tiny_module

Trainer = Callable[..., pl.Trainer]


def test_counts_are_those_of_sets() -> None:
    images = {(2, 1): 2, (2, 4): 1, (7, 1): 1, (99, 4): 6}
    fit = check_head("identity", RemapHead(8, LabelMap((10, 2, 7, 5))), images, {7})
    assert (fit.rows, fit.identities, fit.shared, fit.unknown) == (4, 3, 1, 2)
    assert (fit.coverage, fit.image_coverage) == (1 / 3, 0.3)
    of_camera = check_head("c1", RemapHead(8, LabelMap((10, 2)), camera=1), images)
    assert (of_camera.identities, of_camera.shared, of_camera.image_coverage) == (2, 1, 2 / 3)


def fit_with(module: object, records: Records, trainer: Trainer, check: HeadCheck) -> None:
    data = ReIDDataModule(OriginalSplit()(records), (64, 32), identities=2, workers=0)
    trainer(callbacks=[check], limit_train_batches=1).fit(module, data)


def test_prints_and_writes_its_table(
    records: Records, trainer: Trainer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    labels = OriginalSplit()(records).labels
    fit_with(tiny_module(labels), records, trainer, HeadCheck(0.5))
    written = json.loads((tmp_path / "head_check.json").read_text())
    assert written["faults"] == []
    assert written["heads"][0]["coverage"] == 1.0
    assert "Head check (unknown=skip)" in capsys.readouterr().out


@pytest.mark.parametrize("unknown", ["skip", "drop"])
def test_too_little_coverage_is_a_mismatch_that_names_the_split_of_the_weights(
    records: Records, trainer: Trainer, unknown: str
) -> None:
    few = LabelMap((*OriginalSplit()(records).labels.pids[:3], *range(5000, 5010)))
    module = tiny_module(few, unknown=unknown)
    parent = Parent("expert.ckpt", "init", SplitRecord("original", {"camera": 3}))
    module.provenance = replace(module.provenance, parents=(parent,))
    counts = r"has 13 rows; 3 of the split's 12 .*min_coverage=0.9"
    remedy = r"\. Fine-tune with model.unknown=extend .* reinit .*\+split=original split.camera=3"
    with pytest.raises(HeadMismatch, match=counts + remedy):
        fit_with(module, records, trainer, HeadCheck(0.9))


def test_rows_and_width_are_those_of_label_map_and_features(
    records: Records, trainer: Trainer
) -> None:
    labels = OriginalSplit()(records).labels
    module = tiny_module(labels)
    module.model.heads["identity"] = RemapHead(2048, labels)
    with pytest.raises(HeadMismatch, match="2048-wide rows with 96-wide features"):
        fit_with(module, records, trainer, HeadCheck(0.0))
    module.model.heads["identity"].weight = nn.Parameter(torch.zeros(694, 96))
    with pytest.raises(HeadMismatch, match="has 694 rows, but its label map names 12 identities"):
        fit_with(module, records, trainer, HeadCheck(0.0))


def test_of_a_foreign_loader_the_first_batch_is_checked(records: Records, trainer: Trainer) -> None:
    batch = {
        "images": torch.randint(0, 256, (8, 3, 64, 32)).float(), "targets": torch.arange(8),
        "camids": torch.arange(8) * 0, "img_paths": [f"x/{r.name}" for r in records.train[:8]],
    }  # fmt: skip
    loader = torch.utils.data.DataLoader([batch, batch], batch_size=None)
    runner = trainer(callbacks=[HeadCheck(0.01)])
    runner.fit(tiny_module(LabelMap.of(r.pid for r in records.train)), loader)
    assert runner.global_step == 2
    runner = trainer(callbacks=[HeadCheck(0.01)])
    with pytest.raises(HeadMismatch, match=r"0 of the split's .*unknown=extend"):
        runner.fit(tiny_module(LabelMap((5000, 5001)), unknown="forbid"), loader)
    assert runner.global_step == 0
