import pytest
import torch

from camreid.errors import InputError
from camreid.labels import LabelMap
from camreid.training import read_batch

PATHS = ["a_c9s9/0704_c3s1_069626_01.jpg", "0002_c1s1_000451_03.jpg"]
IMAGES = torch.zeros(2, 3, 8, 4)


def test_ours_is_taken_as_it_is() -> None:
    batch = {"images": IMAGES, "pids": torch.tensor([5, 6]), "camids": torch.tensor([0, 2])}
    read = read_batch({**batch, "img_paths": PATHS, "index": torch.arange(2)})
    assert torch.equal(read.pids, batch["pids"])
    assert torch.equal(read.camids, batch["camids"])
    assert torch.equal(read.index, torch.arange(2))


def test_fastreids_targets_and_cameras_are_not_trusted() -> None:
    batch = {"images": IMAGES, "targets": torch.tensor([582, 0]), "camids": torch.tensor([0, 0])}
    read = read_batch({**batch, "img_paths": PATHS})
    assert read.pids.tolist() == [704, 2]
    assert read.camids.tolist() == [2, 0]


def test_targets_count_where_their_label_map_is_given() -> None:
    batch = {"images": IMAGES, "targets": torch.tensor([2, 0]), "camids": torch.tensor([1, 4])}
    read = read_batch({**batch, "img_paths": ["x.jpg", "y.jpg"]}, LabelMap((9, 8, 7)))
    assert read.pids.tolist() == [7, 9]
    assert read.camids.tolist() == [1, 4]


def test_test_targets_are_pids() -> None:
    batch = {"images": IMAGES, "targets": torch.tensor([704, 2]), "camids": torch.tensor([1, 4])}
    read = read_batch({**batch, "img_paths": ["x.jpg", "y.jpg"]}, training=False)
    assert read.pids.tolist() == [704, 2]
    assert read.camids.tolist() == [1, 4]


def test_targets_that_are_no_rows_are_refused() -> None:
    batch = {"images": IMAGES, "targets": torch.tensor([704, 2]), "camids": torch.tensor([1, 4])}
    with pytest.raises(InputError, match="from 2 to 704 are no rows of the label map of 3 people"):
        read_batch(batch, LabelMap((9, 8, 7)))


def test_images_without_numbers_are_told_apart_by_path() -> None:
    batch = {"images": IMAGES, "targets": torch.tensor([0, 1]), "img_paths": PATHS}
    first, again = read_batch(batch).index, read_batch({**batch, "img_paths": PATHS[::-1]}).index
    assert first is not None
    assert first.tolist() == again.tolist()[::-1]
    assert first[0] != first[1]


def test_numbers_of_any_kind_are_int64() -> None:
    batch = {"images": IMAGES, "pids": [5, 6], "camids": torch.tensor([0, 2], dtype=torch.int32)}
    read = read_batch(batch)
    assert read.pids.dtype == read.camids.dtype == torch.int64


def test_people_who_can_not_be_told_are_refused() -> None:
    batch = {"images": IMAGES, "targets": torch.tensor([2, 0]), "camids": torch.tensor([1, 4])}
    with pytest.raises(InputError, match="0 of 2 names in img_paths"):
        read_batch({**batch, "img_paths": ["x.jpg", "y.jpg"]})
    with pytest.raises(InputError, match="keys img, pid has no 'images'"):
        read_batch({"img": IMAGES, "pid": torch.tensor([1, 2])})
