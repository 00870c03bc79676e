import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader

from camreid.checkpoints.io import load, read_checkpoint
from camreid.checkpoints.start import start_from
from camreid.data import Augment, OriginalSplit, Records, ReIDDataModule, Resplit, Split
from camreid.errors import HeadMismatch, PixelRangeError
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
    trainer = pl.Trainer(
        accelerator="cpu", max_epochs=1, logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, use_distributed_sampler=False,
    )  # fmt: skip
    trainer.fit(tiny_module(split.labels), data_of(split))
    trainer.save_checkpoint(path)
    return path


def started(expert: Path, split: Split, unknown: str) -> ReIDModule:
    checkpoint = read_checkpoint(expert)
    labels = fit_labels(checkpoint.labels, split.labels, unknown)  # type: ignore[arg-type]
    module = tiny_module(labels, unknown=unknown)
    start_from(module, checkpoint)
    return module


def test_fit_and_test_run_end_to_end(records: Records, trainer: Trainer) -> None:
    split = Resplit(0.5, 0.2, 0)(records)
    module, data = tiny_module(split.labels), data_of(split, augment=Augment())
    runner = trainer(max_epochs=2)
    runner.fit(module, data)
    assert 0 < runner.callback_metrics["val/mAP"] <= 1
    runner.test(module, data, verbose=False)
    summary = module.test_result.summary()
    assert summary["retrieval"]["mAP"] == pytest.approx(runner.callback_metrics["test/mAP"].item())
    assert math.isnan(summary["identity"]["accuracy"])
    assert summary["leak"]["seen"]["queries"] == 0


def test_fastreid_batches_train_the_same(records: Records) -> None:
    split = OriginalSplit()(records)
    ours = next(iter(data_of(split).train_dataloader()))
    theirs = {
        "images": ours["images"].float(),
        "targets": torch.zeros(16, dtype=torch.int64),  # of another run: not to be trusted
        "camids": torch.zeros(16, dtype=torch.int64),
        "img_paths": ours["img_paths"],
    }
    losses = []
    for batch in (ours, theirs):
        module = tiny_module(split.labels)
        module.log = module.log_dict = lambda *args, **options: None  # type: ignore[assignment]
        losses.append(module.training_step(batch, 0).item())
    assert losses[0] == losses[1]


def test_only_the_persons_own_row_is_pulled(records: Records, expert: Path) -> None:
    split = Resplit(0.5, 0.2, 0)(records)
    module = started(expert, split, "skip")
    module.log = module.log_dict = lambda *args, **options: None  # type: ignore[assignment]
    head = module.model.heads["identity"]
    for batch in data_of(split).train_dataloader():
        known = head.rows(batch["pids"])
        module.zero_grad()
        module.training_step(batch, 0).backward()
        output = module.model(batch["images"])
        # the gradient is (softmax - target) x feature: negative along a person's own row
        for pid in set(batch["pids"][known >= 0].tolist()):
            mean = output.features[batch["pids"] == pid].mean(0)
            row = head.labels.row(pid)
            pull = -(head.weight.grad @ mean)
            assert pull.argmax() == row


def test_a_batch_of_strangers_gives_a_finite_loss(records: Records) -> None:
    split = OriginalSplit()(records)
    batch = next(iter(data_of(split).train_dataloader()))
    logged: dict[str, float] = {}
    module = tiny_module(LabelMap((5001, 5002)))
    module.log = lambda *args, **options: None  # type: ignore[assignment]
    module.log_dict = lambda values, **options: logged.update(values)  # type: ignore[assignment]
    loss = module.training_step(batch, 0)
    loss.backward()
    assert loss.isfinite()
    assert logged["train/identity_loss"] == 0
    assert logged["train/known"] == 0
    assert logged["train/triplet_loss"] > 0


def test_extend_starts_new_rows_from_features(
    records: Records, expert: Path, trainer: Trainer
) -> None:
    split = Resplit(0.5, 0.2, 0)(records)
    module = started(expert, split, "extend")
    new = module.new_identities
    assert set(module.labels.pids) == set(load(expert).labels.pids) | set(split.labels.pids)
    assert set(new.pids) == set(split.labels.pids) - set(load(expert).labels.pids)
    data = data_of(split)
    trainer(max_epochs=1, limit_train_batches=0).fit(module, data)
    source = load(expert)
    head, pid = module.model.heads["identity"], new.pids[0]
    people = [r for r in split.train if r.pid == pid]
    with torch.no_grad():
        features = torch.cat(
            [source.model(b["images"]).features for b in data.eval_dataloader(people)]
        )
    row = head.weight[head.labels.row(pid)]
    assert torch.cosine_similarity(row, features.mean(0), dim=0) > 0.9999
    old = source.model.heads["identity"].weight
    assert torch.equal(head.weight[: len(old)], old)


def test_reinit_carries_no_row_over(records: Records, expert: Path) -> None:
    split = Resplit(0.5, 0.2, 0)(records)
    module, fresh = started(expert, split, "reinit"), tiny_module(split.labels)
    assert module.labels == split.labels
    assert torch.equal(module.model.heads["identity"].weight, fresh.model.heads["identity"].weight)
    trunk = load(expert).model.backbone.state_dict()
    assert all(torch.equal(v, trunk[k]) for k, v in module.model.backbone.state_dict().items())


def test_forbid_stops_before_the_first_step(
    records: Records, expert: Path, trainer: Trainer, tmp_path: Path
) -> None:
    split = Resplit(0.5, 0.2, 0)(records)
    module = started(expert, split, "forbid")
    before = module.model.heads["identity"].weight.detach().clone()
    runner = trainer(callbacks=[HeadCheck(0.0)])
    with pytest.raises(HeadMismatch, match="unknown=forbid"):
        runner.fit(module, data_of(split))
    assert runner.global_step == 0
    assert torch.equal(module.model.heads["identity"].weight, before)
    assert (tmp_path / "head_check.json").is_file()


def test_forbid_stops_strangers_without_the_callback(records: Records) -> None:
    split = OriginalSplit()(records)
    module = tiny_module(LabelMap(split.labels.pids[1:]), unknown="forbid")
    module.log = module.log_dict = lambda *args, **options: None  # type: ignore[assignment]
    batch = next(iter(data_of(split, identities=len(split.labels)).train_dataloader()))
    with pytest.raises(HeadMismatch, match="a batch holds 1 identities"):
        module.training_step(batch, 0)


def test_normalised_images_stop_the_first_step(records: Records, trainer: Trainer) -> None:
    split = OriginalSplit()(records)

    def collate(items: list[dict[str, object]]) -> dict[str, object]:
        batch = torch.utils.data.default_collate(items)
        return {**batch, "images": batch["images"] / 255}

    data = data_of(split)
    loader = DataLoader(data.train_dataloader().dataset, batch_size=8, collate_fn=collate)
    with pytest.raises(PixelRangeError, match=r"from \S+ to 1: expected raw pixels"):
        trainer().fit(tiny_module(split.labels), loader)


def test_seen_people_add_up_over_runs(records: Records, expert: Path, trainer: Trainer) -> None:
    experts = {r.pid for r in records.train if r.camera == 3}
    assert load(expert).provenance.seen == experts
    split = Resplit(0.5, 0.2, 0)(records)
    module, data = started(expert, split, "skip"), data_of(split)
    runner = trainer(limit_train_batches=1)
    runner.fit(module, data)
    val = {r.pid for r in split.val}
    assert module.provenance.identities == experts | set(split.labels.pids)
    assert module.provenance.seen == module.provenance.identities | val
    assert val
    runner.test(module, data, verbose=False)
    leak = module.test_result.summary()["leak"]
    tested = {r.pid for r in split.query}
    assert leak["seen"]["identities"] == len(tested & module.provenance.seen) > 0
    assert leak["unseen"]["identities"] == len(tested - module.provenance.seen) > 0


def test_closed_set_accuracy_has_a_meaning_by_image(records: Records, trainer: Trainer) -> None:
    split = Resplit(0.6, 0.0, 0, by="image")(records)
    module, data = tiny_module(split.labels), data_of(split)
    runner = trainer(max_epochs=1)
    runner.fit(module, data)
    runner.test(module, data, verbose=False)
    identity = module.test_result.summary()["identity"]
    known = [r for r in (*split.query, *split.gallery) if r.pid > 0]
    assert identity["coverage"] == pytest.approx(len(known) / identity["images"])
    assert 0 <= identity["accuracy"] <= 1


def test_a_loaded_model_is_fitted_in_train_mode(
    records: Records, expert: Path, trainer: Trainer
) -> None:
    split = OriginalSplit(camera=3)(records)
    module = load(expert)
    before = module.model.neck.running_mean.clone()
    trainer(limit_train_batches=1).fit(module, data_of(split))
    assert not torch.equal(module.model.neck.running_mean, before)


def test_new_rows_are_started_once(records: Records, expert: Path, trainer: Trainer) -> None:
    split = Resplit(0.5, 0.2, 0)(records)
    module, data = started(expert, split, "extend"), data_of(split)
    trainer().fit(module, data)
    trained = module.model.heads["identity"].weight.detach().clone()
    trainer(limit_train_batches=0).fit(module, data)
    assert torch.equal(module.model.heads["identity"].weight, trained)


def test_drop_keeps_strangers_out_whoever_builds_the_data(
    records: Records, expert: Path, trainer: Trainer
) -> None:
    split = Resplit(0.5, 0.2, 0)(records)
    module, data = started(expert, split, "drop"), data_of(split, identities=2)
    trainer(limit_train_batches=1).fit(module, data)
    shown = {pid for batch in data.train_dataloader() for pid in batch["pids"].tolist()}
    assert shown == set((split.labels & module.labels).pids) != set(split.labels.pids)


def test_train_batches_alone_are_augmented(records: Records, trainer: Trainer) -> None:
    split = OriginalSplit(val_fraction=0.3)(records)
    data = data_of(split, augment=Augment(flip=1.0, pad=0, erase=0), identities=2)
    seen: dict[str, list[torch.Tensor]] = {"train": [], "val": []}

    class Watch(pl.Callback):
        def on_train_batch_start(self, trainer, module, batch, batch_idx) -> None:
            seen["train"].append((batch["images"], batch["index"]))

        def on_validation_batch_start(self, trainer, module, batch, batch_idx, **_) -> None:
            seen["val"].append((batch["images"], batch["index"]))

    trainer(callbacks=[Watch()], max_epochs=2).fit(tiny_module(split.labels), data)
    plain = {"train": data.train_dataloader().dataset, "val": data.val_dataloader().dataset}
    for part, mirrored in (("train", True), ("val", False)):
        for images, index in seen[part]:
            expected = torch.stack([plain[part][i]["images"] for i in index])
            assert torch.equal(images, expected.flip(-1) if mirrored else expected)


def test_each_epoch_and_rank_draws_its_own_augmentation(records: Records) -> None:
    data = data_of(OriginalSplit()(records), augment=Augment())
    images = torch.randint(0, 256, (8, 3, 64, 32), dtype=torch.uint8)

    class Place:
        training, world_size = True, 2

        def __init__(self, epoch: int, rank: int) -> None:
            self.current_epoch, self.global_rank = epoch, rank

    drawn = []
    for epoch, rank in ((0, 0), (1, 0), (0, 1), (0, 0)):
        data.trainer = Place(epoch, rank)
        data._stream = None
        drawn.append(data.on_after_batch_transfer({"images": images}, 0)["images"])
    assert torch.equal(drawn[0], drawn[3])
    assert not torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])


def test_the_learning_rate_is_set_before_every_step(records: Records, trainer: Trainer) -> None:
    split = OriginalSplit()(records)
    module, rates = tiny_module(split.labels), []

    class Watch(pl.Callback):
        def on_train_batch_start(self, trainer, module, batch, batch_idx) -> None:
            rates.append(trainer.optimizers[0].param_groups[0]["lr"])

    runner = trainer(callbacks=[Watch()], max_epochs=3)
    runner.fit(module, data_of(split))
    steps = len(rates) / 3
    schedule, lr = module.schedule, module.optimizer_config.lr
    expected = [lr * schedule.factor(step / steps, 3) for step in range(len(rates))]
    assert rates == pytest.approx(expected)
    assert len(set(rates)) > 3


def test_the_loss_is_the_weighted_sum_with_margins(records: Records) -> None:
    split = OriginalSplit()(records)
    network = {"backbone": "test_resnet", "classifier": "arc", "scale": 16.0, "margin": 0.3}
    loss = {"identity_weight": 2.0, "smoothing": 0.1, "triplet_weight": 0.5, "triplet_margin": 0.3}
    module = tiny_module(split.labels, network=network, loss=loss)
    module.log = module.log_dict = lambda *args, **options: None  # type: ignore[assignment]
    batch = next(iter(data_of(split).train_dataloader()))
    module.train()
    state = {k: v.clone() for k, v in module.state_dict().items()}
    total = module.training_step(batch, 0)
    module.load_state_dict(state)
    rows = module.labels.rows(batch["pids"])
    output = module.model(batch["images"], {"identity": rows})
    identity = identity_loss(output.logits["identity"], rows, 0.1)
    triplet = module.metric_losses["triplet"][1](output.embeddings["identity"], batch["pids"])
    assert total.item() == pytest.approx((2 * identity + 0.5 * triplet).item(), rel=1e-5)
    plain = identity_loss(module.model.heads["identity"](output.features), rows, 0.1)
    assert identity > plain


def test_people_of_plain_loaders_count_as_seen(records: Records, trainer: Trainer) -> None:
    split = OriginalSplit()(records)
    loader = data_of(split).train_dataloader()
    module = tiny_module(LabelMap(split.labels.pids[:3]))
    trainer(max_epochs=1).fit(module, loader)
    assert module.provenance.seen == set(split.labels.pids)


@pytest.mark.parametrize("unknown", ["extend", "reinit"])
def test_a_continued_run_keeps_the_head_check_of_its_start(
    records: Records, expert: Path, trainer: Trainer, tmp_path: Path, unknown: str
) -> None:
    split = Resplit(0.5, 0.2, 0)(records)
    module, data = started(expert, split, unknown), data_of(split)
    runner = trainer(callbacks=[HeadCheck()], max_epochs=1)
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
