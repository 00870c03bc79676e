from collections.abc import Callable
from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader

from camreid.callbacks import HeadCheck
from camreid.checkpoints import load, read_checkpoint, start_from
from camreid.data import Augment, OriginalSplit, Records, ReIDDataModule, Resplit, Split
from camreid.errors import HeadMismatch, PixelRangeError
from camreid.labels import LabelMap, fit_labels
from camreid.model import ReIDModule
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
    summary = module.evidence.summary()
    assert summary["retrieval"]["mAP"] == pytest.approx(runner.callback_metrics["test/mAP"].item())
    assert summary["identity"]["accuracy"] is None
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


def test_known_people_train_their_own_rows_under_skip(
    records: Records, expert: Path, trainer: Trainer
) -> None:
    split = Resplit(0.5, 0.2, 0)(records)
    module = started(expert, split, "skip")
    head = module.model.heads["identity"]
    before = {pid: head.weight[i].detach().clone() for i, pid in enumerate(head.labels.pids)}
    known = set((head.labels & split.labels).pids)
    assert 0 < len(known) < len(split.labels)
    # without weight decay and momentum, a row moves only by its gradient
    module.configure_optimizers = lambda: torch.optim.SGD(module.parameters(), lr=1.0)  # type: ignore[method-assign]
    logits_of: list[int] = []
    trainer(limit_train_batches=3).fit(module, data_of(split))
    for i, pid in enumerate(head.labels.pids):
        moved = head.weight[i].detach() - before[pid]
        logits_of.append(int(moved.abs().sum() > 0))
    # softmax pushes every row; the true rows are pulled towards their people's features
    assert all(logits_of)


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
    new = module.new_people
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
    assert load(expert).seen == experts
    split = Resplit(0.5, 0.2, 0)(records)
    module, data = started(expert, split, "skip"), data_of(split)
    runner = trainer(limit_train_batches=1)
    runner.fit(module, data)
    assert module.seen == experts | set(split.labels.pids)
    runner.test(module, data, verbose=False)
    leak = module.evidence.summary()["leak"]
    tested = {r.pid for r in split.query}
    assert leak["seen"]["identities"] == len(tested & module.seen) > 0
    assert leak["unseen"]["identities"] == len(tested - module.seen) > 0


def test_closed_set_accuracy_has_a_meaning_by_image(records: Records, trainer: Trainer) -> None:
    split = Resplit(0.6, 0.0, 0, by="image")(records)
    module, data = tiny_module(split.labels), data_of(split)
    runner = trainer(max_epochs=1)
    runner.fit(module, data)
    runner.test(module, data, verbose=False)
    identity = module.evidence.summary()["identity"]
    known = [r for r in (*split.query, *split.gallery) if r.pid > 0]
    assert identity["coverage"] == pytest.approx(len(known) / identity["images"])
    assert 0 <= identity["accuracy"] <= 1
