"""Losses, rows and provenance over runs."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import pytorch_lightning as pl
import torch

from camreid.checkpoints.io import load, read_checkpoint
from camreid.checkpoints.start import start_from
from camreid.data import Augment, OriginalSplit, Records, ReIDDataModule, Resplit, Split
from camreid.errors import HeadMismatch
from camreid.labels import LabelMap, fit_labels
from camreid.losses import identity_loss
from camreid.training import ReIDModule
from camreid.training.head_check import HeadCheck
from tests.conftest import tiny_module

Trainer = Callable[..., pl.Trainer]


def data_of(split: Split, **options: object) -> ReIDDataModule:
    return ReIDDataModule(split, (64, 32), **{"identities": 4, "workers": 0, **options})


@pytest.fixture(scope="module")
def expert(records: Records, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of camera 3's expert, trained for an epoch."""
    path = tmp_path_factory.mktemp("expert") / "expert.ckpt"
    split = OriginalSplit(camera=3)(records)
    quiet = {"logger": False, "enable_progress_bar": False, "use_distributed_sampler": False}
    trainer = pl.Trainer(accelerator="cpu", max_epochs=1, enable_checkpointing=False, **quiet)
    trainer.fit(tiny_module(split.labels), data_of(split))
    trainer.save_checkpoint(path)
    return path


@pytest.fixture
def resplit(records: Records) -> Split:
    return Resplit(0.5, 0.2, 0)(records)


@pytest.fixture
def batch(records: Records) -> dict[str, torch.Tensor]:
    return next(iter(data_of(OriginalSplit()(records)).train_dataloader()))


def started(expert: Path, split: Split, unknown: str) -> ReIDModule:
    checkpoint = read_checkpoint(expert)
    labels = fit_labels(checkpoint.labels, split.labels, unknown)  # type: ignore[arg-type]
    module = tiny_module(labels, unknown=unknown)
    start_from(module, checkpoint)
    return module


def without_log(module: ReIDModule) -> dict[str, float]:
    """Let a module train without a trainer; the values that it logs."""
    logged: dict[str, float] = {}
    module.log_dict = lambda values, **options: logged.update(values)  # type: ignore[assignment]
    return logged


def test_fit_and_test_run_end_to_end(resplit: Split, trainer: Trainer) -> None:
    module, data = tiny_module(resplit.labels), data_of(resplit, augment=Augment())
    runner = trainer(max_epochs=2)
    runner.fit(module, data)
    assert 0 < runner.callback_metrics["val/mAP"] <= 1
    runner.test(module, data, verbose=False)
    summary = module.test_result.summary()
    assert summary["retrieval"]["mAP"] == pytest.approx(runner.callback_metrics["test/mAP"].item())
    assert math.isnan(summary["identity"]["accuracy"])
    assert summary["leak"]["seen"]["queries"] == 0


def test_extend_starts_new_rows_from_features_once(
    resplit: Split, expert: Path, trainer: Trainer
) -> None:
    module, source, data = started(expert, resplit, "extend"), load(expert), data_of(resplit)
    head, old = module.model.heads["identity"], source.model.heads["identity"].weight
    new = module.new_identities
    assert set(new.pids) == set(resplit.labels.pids) - set(source.labels.pids)
    trainer(limit_train_batches=0).fit(module, data)
    own = data.eval_dataloader([r for r in resplit.train if r.pid == new.pids[0]])
    with torch.no_grad():
        features = torch.cat([source.model(b["images"]).features for b in own])
    row = head.weight[head.labels.row(new.pids[0])]
    assert torch.cosine_similarity(row, features.mean(0), dim=0) > 0.9999
    assert torch.equal(head.weight[: len(old)], old)
    trainer().fit(module, data)
    trained = head.weight.detach().clone()
    trainer(limit_train_batches=0).fit(module, data)
    assert torch.equal(head.weight, trained)


def test_reinit_carries_no_row_over(resplit: Split, expert: Path) -> None:
    module, fresh = started(expert, resplit, "reinit"), tiny_module(resplit.labels)
    assert module.labels == resplit.labels
    assert torch.equal(module.model.heads["identity"].weight, fresh.model.heads["identity"].weight)
    trunk = load(expert).model.backbone.state_dict()
    assert all(torch.equal(v, trunk[k]) for k, v in module.model.backbone.state_dict().items())


def test_forbid_stops_before_the_first_step(
    resplit: Split, expert: Path, trainer: Trainer, tmp_path: Path, batch: dict[str, torch.Tensor]
) -> None:
    module = started(expert, resplit, "forbid")
    runner = trainer(callbacks=[HeadCheck(0.0)])
    with pytest.raises(HeadMismatch, match="unknown=forbid"):
        runner.fit(module, data_of(resplit))
    assert runner.global_step == 0
    assert (tmp_path / "head_check.json").is_file()
    without_callback = tiny_module(LabelMap((5001, 5002)), unknown="forbid")
    with pytest.raises(HeadMismatch, match="a batch holds 4 identities"):
        without_callback.training_step(batch, 0)


def test_train_and_validation_identities_add_up_over_runs(
    records: Records, resplit: Split, expert: Path, trainer: Trainer
) -> None:
    experts = {r.pid for r in records.train if r.camera == 3}
    assert load(expert).provenance.seen == experts
    module, data = started(expert, resplit, "skip"), data_of(resplit)
    runner = trainer(limit_train_batches=1)
    runner.fit(module, data)
    val, tested = {r.pid for r in resplit.val}, {r.pid for r in resplit.query}
    seen = module.provenance.seen
    assert module.provenance.identities == experts | set(resplit.labels.pids)
    assert seen == module.provenance.identities | val
    runner.test(module, data, verbose=False)
    leak = module.test_result.summary()["leak"]
    assert leak["seen"]["identities"] == len(tested & seen) > 0
    assert leak["unseen"]["identities"] == len(tested - seen) > 0


def test_identities_of_plain_loaders_are_recorded(records: Records, trainer: Trainer) -> None:
    split = OriginalSplit()(records)
    module = tiny_module(LabelMap(split.labels.pids[:3]))
    trainer().fit(module, data_of(split).train_dataloader())
    assert module.provenance.seen == set(split.labels.pids)


def test_each_epoch_batch_and_rank_draws_its_own_augmentation(records: Records) -> None:
    images = torch.randint(0, 256, (8, 3, 64, 32), dtype=torch.uint8)

    def augmented(epoch: int, batch: int, rank: int, world_size: int = 2) -> torch.Tensor:
        data = data_of(OriginalSplit()(records), augment=Augment())
        progress = SimpleNamespace(current=SimpleNamespace(ready=batch))
        loop = SimpleNamespace(epoch_loop=SimpleNamespace(batch_progress=progress))
        place = {"world_size": world_size, "current_epoch": epoch, "global_rank": rank}
        data.trainer = SimpleNamespace(training=True, fit_loop=loop, **place)
        share = images.chunk(world_size)[rank]
        return data.on_after_batch_transfer({"images": share}, 0)["images"]

    first = augmented(0, 3, 0)
    assert torch.equal(first, augmented(0, 3, 0))
    assert not torch.equal(first, augmented(1, 3, 0))
    assert not torch.equal(first, augmented(0, 4, 0))
    both = torch.cat([first, augmented(0, 3, 1)])
    assert torch.equal(both, augmented(0, 3, 0, world_size=1))


def test_the_loss_is_the_weighted_sum_with_margins(
    records: Records, batch: dict[str, torch.Tensor]
) -> None:
    network = {"backbone": "test_resnet", "classifier": "arc", "scale": 16.0, "margin": 0.3}
    loss = {"identity_weight": 2.0, "smoothing": 0.1, "triplet_weight": 0.5, "triplet_margin": 0.3}
    module = tiny_module(OriginalSplit()(records).labels, network=network, loss=loss).train()
    without_log(module)
    state = {k: v.clone() for k, v in module.state_dict().items()}
    total = module.training_step(batch, 0)
    module.load_state_dict(state)
    rows = module.labels.rows(batch["pids"])
    output = module.model(batch["images"], {"identity": rows})
    identity = identity_loss(output.logits["identity"], rows, 0.1)
    triplet = module.metric_losses["triplet"][1](output.embeddings["identity"], batch["pids"])
    assert total.item() == pytest.approx((2 * identity + 0.5 * triplet).item(), rel=1e-5)
    assert identity > identity_loss(module.model.heads["identity"](output.features), rows, 0.1)


@pytest.mark.parametrize("unknown", ["extend", "reinit"])
def test_a_resumed_run_keeps_the_head_check_of_its_start(
    resplit: Split, expert: Path, trainer: Trainer, tmp_path: Path, unknown: str
) -> None:
    module, data = started(expert, resplit, unknown), data_of(resplit)
    runner = trainer(callbacks=[HeadCheck()])
    runner.fit(module, data)
    runner.save_checkpoint(tmp_path / "last.ckpt")
    check = tmp_path / "head_check.json"
    first = check.read_text()
    check.unlink()
    again = tiny_module(module.labels, unknown=unknown)
    runner = trainer(callbacks=[HeadCheck()], max_epochs=2)
    runner.fit(again, data, ckpt_path=tmp_path / "last.ckpt")
    assert check.read_text() == first
    assert json.loads(first)["heads"][0]["unknown"] > 0
    assert again.provenance == module.provenance


def test_each_identity_trains_its_own_row(resplit: Split, expert: Path) -> None:
    module = started(expert, resplit, "skip")
    without_log(module)
    head = module.model.heads["identity"]
    for batch in data_of(resplit).train_dataloader():
        known = head.rows(batch["pids"])
        module.zero_grad()
        module.training_step(batch, 0).backward()
        output = module.model(batch["images"])
        # the gradient is (softmax - target) x feature: negative along the identity's own row
        for pid in set(batch["pids"][known >= 0].tolist()):
            mean = output.features[batch["pids"] == pid].mean(0)
            assert (-head.weight.grad @ mean).argmax() == head.labels.row(pid)


def test_a_loaded_model_is_fitted_in_train_mode(
    records: Records, expert: Path, trainer: Trainer
) -> None:
    module = load(expert)
    before = module.model.neck.running_mean.clone()
    trainer(limit_train_batches=1).fit(module, data_of(OriginalSplit(camera=3)(records)))
    assert not torch.equal(module.model.neck.running_mean, before)
