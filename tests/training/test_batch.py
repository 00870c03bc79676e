import pytest
import torch

from camreid.errors import InputError
from camreid.labels import LabelMap
from camreid.training import read_batch

PATHS = ["a_c9s9/0704_c3s1_069626_01.jpg", "0002_c1s1_000451_03.jpg"]
IMAGES = torch.zeros(2, 3, 8, 4)
UNNAMED = {"images": IMAGES, "camids": torch.tensor([1, 4]), "img_paths": ["x.jpg", "y.jpg"]}


def test_own_batches_are_taken_as_they_are() -> None:
    batch = {"images": IMAGES, "pids": torch.tensor([5, 6]), "camids": torch.tensor([0, 2])}
    read = read_batch({**batch, "img_paths": PATHS, "index": torch.arange(2)})
    found = torch.stack([read.pids, read.cameras, read.index])  # type: ignore[list-item]
    assert found.tolist() == [[5, 6], [1, 3], [0, 1]]


def test_file_names_count_before_fastreids_targets_and_cameras() -> None:
    batch = {"images": IMAGES, "targets": torch.tensor([582, 0]), "camids": torch.tensor([0, 0])}
    read = read_batch({**batch, "img_paths": PATHS})
    assert read.pids.tolist() == [704, 2]
    assert read.cameras.tolist() == [3, 1]


def test_targets_are_rows_of_their_label_map_in_training_and_pids_in_a_test() -> None:
    train = read_batch({**UNNAMED, "targets": torch.tensor([2, 0])}, LabelMap((9, 8, 7)))
    assert train.pids.tolist() == [7, 9]
    test = read_batch({**UNNAMED, "targets": torch.tensor([704, 2])}, training=False)
    assert test.pids.tolist() == [704, 2]
    assert train.cameras.tolist() == test.cameras.tolist() == [2, 5]


def test_images_without_numbers_are_numbered_by_path() -> None:
    batch = {"images": IMAGES, "targets": torch.tensor([0, 1]), "img_paths": PATHS}
    first, again = (read_batch({**batch, "img_paths": p}).index for p in (PATHS, PATHS[::-1]))
    assert first.tolist() == again.tolist()[::-1]
    assert first[0] != first[1]


def test_labels_of_any_type_become_int64_and_cameras_may_be_unknown() -> None:
    read = read_batch({"images": IMAGES, "pids": [5, 6], "camids": torch.tensor([0, 2]).int()})
    assert read.pids.dtype == read.cameras.dtype == torch.int64
    assert read_batch({"images": IMAGES, "pids": [5, 6]}).cameras.tolist() == [0, 0]


@pytest.mark.parametrize(
    ("batch", "labels", "part"),
    [
        ({**UNNAMED, "targets": torch.tensor([2, 0])}, None, "img_paths"),
        ({**UNNAMED, "targets": torch.tensor([704, 2])}, (9, 8, 7), "from 2 to 704 .* 3"),
        ({"img": IMAGES, "pid": torch.tensor([1, 2])}, None, "keys .*img.*pid.* has no 'images'"),
    ],
)
def test_batches_without_images_or_identities_are_refused(
    batch: dict[str, object], labels: tuple[int, ...] | None, part: str
) -> None:
    with pytest.raises(InputError, match=part):
        read_batch(batch, labels and LabelMap(labels))
