from collections import Counter
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from camreid.data import Augment, ImageRecord, OriginalSplit, Records, ReIDDataModule, Resplit
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
    data.augment = Augment(flip=1.0)  # of train batches only
    for loader, part in zip([data.val_dataloader(), *data.test_dataloader()], parts, strict=True):
        batches = list(loader)
        assert [path for batch in batches for path in batch["img_paths"]] == [r.path for r in part]
        assert data.on_after_batch_transfer(batches[0], 0) is batches[0]
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


def test_within_camera_the_images_of_a_group_are_of_one_camera(records: Records) -> None:
    split = OriginalSplit()(records)
    for within in (True, False):
        data = ReIDDataModule(
            split, (64, 32), identities=4, instances=3, workers=0, within_camera=within
        )
        batches = list(data.train_dataloader())
        pids, cameras = (torch.cat([b[k] for b in batches]) for k in ("pids", "camids"))
        pids, cameras = pids.view(-1, 3), cameras.view(-1, 3) + 1
        assert (pids == pids[:, :1]).all()
        assert bool((cameras == cameras[:, :1]).all()) is within
        if within:
            used = set(zip(pids[:, 0].tolist(), cameras[:, 0].tolist(), strict=True))
            assert used == {(r.pid, r.camera) for r in split.train}


@pytest.mark.parametrize(
    ("images", "within", "identities", "world_size", "shape"),
    [
        ([9] * 40, False, 16, 1, (16, 4)),
        ([3, 3, 3, 9] * 10, False, 16, 1, (21, 3)),
        ([1] * 39 + [50], False, 16, 1, (32, 2)),
        ([9] * 5, False, 16, 1, (5, 4)),  # a camera with fewer than P identities
        ([9] * 5, False, 16, 2, (2, 4)),
        ([6] * 40, True, 16, 1, (21, 3)),  # three images under each of two cameras
    ],
)
def test_auto_instances_follow_the_images_of_an_identity(
    images: list[int], within: bool, identities: int, world_size: int, shape: tuple[int, int]
) -> None:
    train = tuple(
        ImageRecord(f"{pid}_{n}.jpg", pid, 1 + n % 2, 1, n)
        for pid, count in enumerate(images, start=1)
        for n in range(count)
    )
    split = SimpleNamespace(train=train)
    data = ReIDDataModule(
        split, (32, 16), identities=identities, instances="auto", within_camera=within
    )
    data.setup("fit")
    sampler = data.train_sampler(0, world_size)
    assert (sampler.identities, sampler.instances) == shape
