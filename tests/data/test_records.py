from pathlib import Path

import pytest

from camreid.data import ImageRecord, read_market1501
from camreid.data.records import parse_name
from camreid.errors import InputError, MissingDataset

TRAIN = "bounding_box_train"


def touch(root: Path, *names: str) -> None:
    for path in map(root.joinpath, names):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "exp_1_c2" / "Market-1501-v15.09.15"
    touch(root, f"{TRAIN}/0704_c3s1_069626_01.jpg", f"{TRAIN}/0007_c1s2_000009_00.PNG")
    touch(root, f"{TRAIN}/-1_c1s1_000001_01.jpg", f"{TRAIN}/Thumbs.db")
    touch(root, "query/0005_c6s4_002902_00.jpg", "query/-1_c6s4_002902_00.jpg")
    for name in ("0005_c1s1_000451_03.JPG", "0000_c2s1_000001_01.jpg", "-1_c2s1_000001_02.jpg"):
        touch(root, f"bounding_box_test/{name}")
    return root


def test_reads_base_names_and_keeps_distractors_but_not_junk(root: Path) -> None:
    records = read_market1501(root)
    assert records.train == (
        ImageRecord(str(root / TRAIN / "0007_c1s2_000009_00.PNG"), 7, 1, 2, 9),
        ImageRecord(str(root / TRAIN / "0704_c3s1_069626_01.jpg"), 704, 3, 1, 69626),
    )
    assert [r.pid for r in records.query] == [5]
    assert [r.pid for r in records.gallery] == [0, 5]
    assert read_market1501(root.parent) == records


def test_a_missing_dataset_is_named_with_a_remedy(tmp_path: Path, root: Path) -> None:
    with pytest.raises(MissingDataset, match=r"no such folder.*data=synthetic"):
        read_market1501(tmp_path / "nowhere")
    for near in (root / TRAIN, root.parents[1]):
        with pytest.raises(MissingDataset, match=f"root={root}\\."):
            read_market1501(near)
    (tmp_path / "empty").mkdir()
    with pytest.raises(MissingDataset, match="found nothing"):
        read_market1501(tmp_path / "empty")
    (tmp_path / "empty" / TRAIN).mkdir()
    with pytest.raises(MissingDataset, match="holds no images"):
        read_market1501(tmp_path / "empty")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("query/photo.jpg", "photo.jpg is not named as in Market-1501"),
        (f"query/{2**63}_c2s1_000001_01.jpg", f"{2**63}_c2s1"),
        (f"query/0001_c1s{2**63}_000001_01.jpg", f"0001_c1s{2**63}"),
        ("bounding_box_test/0001_c0s1_000001_01.jpg", "0001_c0s1"),
        (f"{TRAIN}/0000_c2s1_000001_01.jpg", "1 train or query images have pid 0"),
        ("query/0000_c2s1_000001_01.jpg", "1 train or query images have pid 0"),
    ],
)
def test_a_name_without_identity_or_camera_is_refused(root: Path, name: str, message: str) -> None:
    touch(root, name)
    with pytest.raises(InputError, match=message):
        read_market1501(root)


def test_two_datasets_are_not_guessed_between(root: Path) -> None:
    touch(root.parent, f"other/{TRAIN}/0001_c1s1_000001_01.jpg")
    touch(root.parent, f".unfinished/{TRAIN}/0001_c1s1_000001_01.jpg")
    assert read_market1501(root.parent) == read_market1501(root)  # the official name comes first
    root.rename(root.parent / "another")
    assert len(read_market1501(root.parent / "other").train) == 1  # a train set alone
    with pytest.raises(InputError, match="holds 2 datasets"):
        read_market1501(root.parent)


def test_every_format_and_case_is_read_and_the_rest_is_counted(tmp_path: Path) -> None:
    suffixes = ("bmp", "webp", "tif", "JPG", "jpeg", "png")
    touch(tmp_path, *(f"Bounding_Box_Train/0001_c{n}.{s}" for n, s in enumerate(suffixes, 1)))
    touch(tmp_path, "Query/0002_c1.gif", "Query/labels.txt", "Query/.DS_Store")
    touch(tmp_path, f"__MACOSX/{TRAIN}/0001_c1.jpg")
    records = read_market1501(tmp_path)
    assert len(records.train) == len(suffixes)
    assert len(records.query) == 1
    assert records.notes == (
        f"1 files in {tmp_path} are not images and are left out, such as labels.txt.",
    )
    touch(tmp_path, f"up/Market/{TRAIN}/0001_c1.jpg", f"up/__MACOSX/{TRAIN}/0001_c1.jpg")
    assert len(read_market1501(tmp_path / "up").train) == 1


def test_another_layout_is_referred_to_csv_and_folder(tmp_path: Path) -> None:
    touch(tmp_path, "a/001_1_c11_015833.png", f"b/{TRAIN}/0000_c1.jpg", f"c/{TRAIN}/x_1.jpg")
    for place in "abc":
        with pytest.raises(InputError, match="data=csv"):
            read_market1501(tmp_path / place)


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("0002_c1s1_000451_03.jpg", (2, 1, 1, 451)),
        ("1501_c6s4_002902_05.jpg", (1501, 6, 4, 2902)),
        ("0001_c8_f0046182.jpg", (1, 8, None, 46182)),
        (f"{2**63 - 1}_c15s1_000001_00.jpg", (2**63 - 1, 15, 1, 1)),
        ("c1s1_000451.jpg", None),
        (f"{'9' * 5000}_c1s1_000451_03.jpg", None),
        ("abc.jpg", None),
    ],
)
def test_names(name: str, fields: tuple[int, ...] | None) -> None:
    assert parse_name(name) == (fields and ImageRecord(name, *fields))
