"""A run that starts from a checkpoint keeps the row of each identity."""

from collections.abc import Callable
from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch
import torch.nn.functional as F

from camreid.checkpoints.io import Checkpoint
from camreid.checkpoints.start import start_from
from camreid.data import OriginalSplit, Records, ReIDDataModule, Resplit
from camreid.errors import HeadMismatch, InputError
from camreid.labels import LabelMap, fit_labels
from camreid.training import ReIDModule
from camreid.training.head_check import HeadCheck
from tests.conftest import CONFIG, saved, tiny_module


def started(start: Checkpoint, labels: LabelMap, unknown: str, **options: object) -> ReIDModule:
    rows = fit_labels(start.labels, labels, unknown)  # type: ignore[arg-type]
    module = tiny_module(rows, unknown=unknown, **options)
    start_from(module, start)
    return module


@pytest.mark.parametrize("unknown", ["skip", "extend"])
def test_a_step_moves_the_row_of_each_identity_towards_its_features(
    records: Records, tmp_path: Path, unknown: str
) -> None:
    of_camera = LabelMap.of((r.pid for r in records.train if r.camera == 3), order="fastreid")
    start, split = saved(tiny_module(of_camera), tmp_path / "m.ckpt"), Resplit(0.5, 0.2, 0)(records)
    loss = {**CONFIG["loss"], "triplet_weight": 0.0, "smoothing": 0.0}
    module = started(start, split.labels, unknown, loss=loss)
    data = ReIDDataModule(split, (64, 32), workers=0, eval_batch_size=48)
    head, theirs = module.model.heads["identity"], start.state["heads.identity.weight"]
    rows = head.rows(torch.tensor(of_camera.pids))
    assert torch.equal(head.weight[rows], theirs)
    if unknown == "extend":
        new = [r for r in split.train if r.pid in module.new_identities]
        module.eval()
        module.start_rows(data.eval_dataloader(new))
    batch = next(iter(data.eval_dataloader(split.train)))
    module.log = module.log_dict = lambda *args, **options: None  # type: ignore[assignment]
    module.train()
    rows, before = head.rows(batch["pids"]), head.weight.detach().clone()
    known = rows >= 0
    with torch.no_grad():  # the gradient of the cross-entropy
        features = module.model(batch["images"]).features[known]
        hits = F.one_hot(rows[known], len(module.labels)).float()
        expected = (hits - head(features).softmax(1)).T @ features / known.sum()
    module.training_step(batch, 0).backward()
    torch.optim.SGD([head.weight], lr=1.0).step()
    moved = head.weight.detach() - before
    assert (moved - expected).abs().max() < 1e-3 * expected.abs().max()
    assert bool(known.all()) == (unknown == "extend")
    for row in rows[known].unique().tolist():
        own = features[rows[known] == row].mean(0)
        assert F.cosine_similarity(moved[row], own, dim=0) > 0


def test_an_anonymous_head_is_trained_with_reinit_alone(
    records: Records, tmp_path: Path, trainer: Callable[..., pl.Trainer]
) -> None:
    start = saved(tiny_module(LabelMap.anonymous(9)), tmp_path / "m.ckpt")
    split = OriginalSplit()(records)
    data = ReIDDataModule(split, (64, 32), identities=2, instances=2, workers=0)
    for unknown in ("skip", "extend", "reinit"):
        module = started(start, split.labels, unknown)
        runner = trainer(callbacks=[HeadCheck()], limit_train_batches=0)
        if unknown == "reinit":
            runner.fit(module, data)
            assert module.labels == split.labels
        else:
            with pytest.raises(HeadMismatch, match="is anonymous"):
                runner.fit(module, data)


@pytest.mark.parametrize(
    ("option", "value"),
    [("last_stride", None), ("pool", "gem"), ("stem_padding", 0), ("backbone", "resnet10t")],
)
def test_another_network_is_refused(tmp_path: Path, option: str, value: object) -> None:
    network = {**CONFIG["network"], "pool": "avg", "stem_padding": 1}
    start = saved(tiny_module(LabelMap((5, 3)), network=network), tmp_path / "m.ckpt")
    with pytest.raises(InputError, match=option if option != "backbone" else r"\d+ tensors differ"):
        started(start, LabelMap((3, 7)), "skip", network={**network, option: value})
