from pathlib import Path

import pytest

from camreid.data import ImageRecord, Records, read_market1501
from camreid.data.records import parse_name
from camreid.errors import InputError, MissingDataset


def touch(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "exp_1_c2" / "Market-1501-v15.09.15"
    touch(root, "bounding_box_train/0704_c3s1_069626_01.jpg", "bounding_box_train/Thumbs.db")
    touch(
        root,
        "bounding_box_train/-1_c1s1_000001_01.jpg",
        "bounding_box_train/0007_c1s2_000009_00.PNG",
    )
    touch(root, "query/0005_c6s4_002902_00.jpg", "query/-1_c6s4_002902_00.jpg")
    touch(
        root,
        "bounding_box_test/0005_c1s1_000451_03.JPG",
        "bounding_box_test/0000_c2s1_000001_01.jpg",
    )
    touch(root, "bounding_box_test/-1_c2s1_000001_02.jpg")
    return root


def test_reads_base_names_and_keeps_distractors_but_not_junk(root: Path) -> None:
    records = read_market1501(root)
    folder = root / "bounding_box_train"
    assert records.train == (
        ImageRecord(str(folder / "0007_c1s2_000009_00.PNG"), 7, 1, 2, 9),
        ImageRecord(str(folder / "0704_c3s1_069626_01.jpg"), 704, 3, 1, 69626),
    )
    assert [r.pid for r in records.query] == [5]
    assert [r.pid for r in records.gallery] == [0, 5]
    assert records.cameras == (1, 2, 3, 6)


def test_the_parent_folder_will_do(root: Path) -> None:
    assert read_market1501(root.parent) == read_market1501(root)


def test_a_train_set_alone_can_be_read(tmp_path: Path) -> None:
    touch(tmp_path, "bounding_box_train/0001_c1s1_000001_01.jpg")
    assert read_market1501(tmp_path) == Records(
        (ImageRecord(str(tmp_path / "bounding_box_train/0001_c1s1_000001_01.jpg"), 1, 1, 1, 1),),
        (),
        (),
    )


def test_a_missing_folder_says_where_to_put_the_dataset(tmp_path: Path) -> None:
    with pytest.raises(MissingDataset, match=r"no such folder.*data=synthetic"):
        read_market1501(tmp_path / "nowhere")


def test_one_level_too_deep_is_pointed_out(root: Path) -> None:
    with pytest.raises(MissingDataset, match=f"root={root}\\."):
        read_market1501(root / "bounding_box_train")


def test_one_level_too_high_is_pointed_out(root: Path) -> None:
    with pytest.raises(MissingDataset, match=f"root={root}\\."):
        read_market1501(root.parents[1])


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MissingDataset, match="found nothing"):
        read_market1501(tmp_path)
    (tmp_path / "bounding_box_train").mkdir()
    with pytest.raises(MissingDataset, match="holds no images"):
        read_market1501(tmp_path)


def test_a_foreign_name_is_refused(root: Path) -> None:
    touch(root, "query/person.jpg")
    with pytest.raises(InputError, match="not named as in Market-1501"):
        read_market1501(root)


@pytest.mark.parametrize("folder", ["bounding_box_train", "query"])
def test_identity_0_is_not_lost(root: Path, folder: str) -> None:
    touch(root, f"{folder}/0000_c2s1_000001_01.jpg")
    with pytest.raises(InputError, match="1 train or query images have pid 0"):
        read_market1501(root)


def test_a_pid_beyond_64_bits_is_refused(root: Path) -> None:
    touch(root, f"query/{2**63}_c2s1_000001_01.jpg")
    with pytest.raises(InputError, match=f"{2**63}_c2s1"):
        read_market1501(root)


def test_two_datasets_are_not_guessed_between(root: Path) -> None:
    touch(root.parent, "other/bounding_box_train/0001_c1s1_000001_01.jpg")
    touch(root.parent, ".unfinished/bounding_box_train/0001_c1s1_000001_01.jpg")
    assert read_market1501(root.parent) == read_market1501(root)  # the official name comes first
    root.rename(root.parent / "another")
    with pytest.raises(InputError, match="holds 2 datasets"):
        read_market1501(root.parent)


@pytest.mark.parametrize(
    ("name", "parsed"),
    [
        ("0002_c1s1_000451_03.jpg", (2, 1, 1, 451)),
        ("1501_c6s4_002902_05.jpg", (1501, 6, 4, 2902)),
        ("0001_c8_f0046182.jpg", (1, 8, None, 46182)),
        ("0005_c15s1_000001_00.jpg", (5, 15, 1, 1)),
        ("c1s1_000451.jpg", None),
        ("abc.jpg", None),
    ],
)
def test_names(name: str, parsed: tuple[int, ...] | None) -> None:
    assert parse_name(name) == parsed
