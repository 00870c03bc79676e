from collections import Counter
from dataclasses import replace

import pytest
import torch

from camreid.data import Augment, OriginalSplit, Records, ReIDDataModule, Resplit
from camreid.errors import InputError
from camreid.labels import LabelMap


@pytest.fixture
def data(records: Records) -> ReIDDataModule:
    split = Resplit(0.5, 0.2, 0)(records)
    return ReIDDataModule(split, (32, 16), identities=3, instances=4, eval_batch_size=7, workers=0)


def test_train_batches_are_p_by_k_and_uint8(data: ReIDDataModule) -> None:
    for batch in data.train_dataloader():
        assert batch["images"].shape == (12, 3, 32, 16)
        assert batch["images"].dtype == torch.uint8
        assert batch["pids"].dtype == batch["camids"].dtype == batch["index"].dtype == torch.int64
        assert list(Counter(batch["pids"].tolist()).values()) == [4, 4, 4]
        records = [data.train_records[i] for i in batch["index"]]
        assert batch["img_paths"] == [r.path for r in records]
        assert batch["camids"].tolist() == [r.camera - 1 for r in records]


def test_evaluation_loaders_show_every_image_once(data: ReIDDataModule) -> None:
    parts = [data.split.val, data.split.query, data.split.gallery]
    for loader, part in zip([data.val_dataloader(), *data.test_dataloader()], parts, strict=True):
        paths = [path for batch in loader for path in batch["img_paths"]]
        assert paths == [r.path for r in part]
    assert len(data.predict_dataloader()) == 2
    data.split = replace(data.split, val=())
    assert data.val_dataloader() == []


def test_drop_keeps_unknown_identities_out_of_the_loader(records: Records) -> None:
    split = Resplit(0.5, 0.0, 0)(records)
    known = LabelMap(split.labels.pids[:5])
    data = ReIDDataModule(split, (32, 16), identities=3, workers=0)
    data.keep_only(known)
    seen = {pid for batch in data.train_dataloader() for pid in batch["pids"].tolist()}
    assert seen == set(known.pids)


@pytest.mark.parametrize(("p", "k", "message"), [(64, 4, "identities="), (1, 1, "instances=1")])
def test_impossible_train_batches_are_refused_at_once(
    records: Records, p: int, k: int, message: str
) -> None:
    data = ReIDDataModule(OriginalSplit(4)(records), (32, 16), identities=p, instances=k)
    data.setup("test")  # evaluation needs no P x K
    with pytest.raises(InputError, match=message):
        data.setup("fit")


def test_only_train_batches_are_augmented(data: ReIDDataModule) -> None:
    data.augment = Augment(flip=1.0, pad=0, erase=0)
    batch = next(iter(data.train_dataloader()))
    assert data.on_after_batch_transfer(batch, 0) is batch  # no trainer: not training


def test_within_camera_the_images_of_a_group_are_of_one_camera(records: Records) -> None:
    split = OriginalSplit()(records)
    for within in (True, False):
        data = ReIDDataModule(
            split, (64, 32), identities=4, instances=3, workers=0, within_camera=within
        )
        mixed, used = 0, set()
        for batch in data.train_dataloader():
            pids, cameras = batch["pids"].view(4, 3), batch["camids"].view(4, 3)
            assert (pids == pids[:, :1]).all()
            mixed += int((cameras != cameras[:, :1]).sum())
            used |= set(zip(pids.flatten().tolist(), (cameras + 1).flatten().tolist(), strict=True))
        assert bool(mixed) is not within
        if within:
            assert used == {(r.pid, r.camera) for r in split.train}
