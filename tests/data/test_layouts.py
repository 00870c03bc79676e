"""Public layouts, on trees of empty files with their exact names."""

from collections.abc import Callable
from pathlib import Path

import pytest

from camreid import data
from camreid.data import OriginalSplit, Records, Resplit, layouts, read_market1501, read_msmt17
from camreid.data.records import identities
from camreid.errors import InputError, MissingDataset

READERS: dict[str, Callable[[Path], Records]] = {
    name: getattr(data, f"read_{name}") for name in layouts.SIZES
}
# train, query, gallery: identities and cameras
IMAGES = (
    [(2, 1), (2, 2), (7, 1), (7, 12), (9, 1)],
    [(1, 1), (4, 2)],
    [(1, 1), (1, 2), (4, 1), (4, 12)],
)
BOXES = ("bounding_box_train", "query", "bounding_box_test")
MARKET = {
    "market1501": (BOXES, "{pid:04}_c{camera}s1_000451_03.jpg"),
    "dukemtmc": (BOXES, "{pid:04}_c{camera}_f0044158.jpg"),
    "occluded_duke": (BOXES, "{pid:04}_c{camera}_f0044158.jpg"),
    "cuhk03_np": (BOXES, "{pid:04}_c{camera}_1.png"),
    "veri": (
        ("image_train", "image_query", "image_test"),
        "{pid:04}_c{camera:03}_00016450_0.jpg",
    ),
}
LISTS = ("list_train.txt", "list_val.txt", "list_query.txt", "list_gallery.txt")
# numbers restart in test
MSMT = (
    ["0000/0000_000_01_0303morning_0008_0.jpg 0", "0001/0001_003_15_0113noon_0016_1.jpg 1"],
    ["0000/0000_001_14_0303morning_0009_0.jpg 0", "0010/0010_000_02_0302afternoon_0001_0.jpg 10"],
    ["0000/0000_000_01_0303morning_0015_0.jpg 0"],
    ["0000/0000_002_12_0303morning_0015_0.jpg 0", "0001/0001_000_02_0114noon_0700_0.jpg 1"],
)


def touch(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()


def make(name: str, home: Path, v2: bool = False) -> Path:
    """A tree of a layout, with what other systems leave in it."""
    if name == "msmt17":
        train, test = ("mask_train_v2", "mask_test_v2") if v2 else ("train", "test")
        for file, lines, folder in zip(LISTS, MSMT, (train, train, test, test), strict=True):
            for line in lines:
                touch(home / folder / line.split()[0])
            (home / file).write_text("\n".join(lines) + "\n")
        touch(home / train / "0000" / "._0000_000_01_0303morning_0008_0.jpg")
        return home
    folders, grammar = MARKET[name]
    for folder, images in zip(folders, IMAGES, strict=True):
        for pid, camera in images:
            touch(home / folder / grammar.format(pid=pid, camera=camera))
        for stray in ("Thumbs.db", f"._{grammar.format(pid=2, camera=1)}", ".DS_Store"):
            touch(home / folder / stray)
    touch(home.parent / "__MACOSX" / folders[0] / f"._{grammar.format(pid=2, camera=1)}")
    return home


@pytest.mark.parametrize("name", MARKET)
def test_folders_and_names_are_read_below_the_root_or_its_parent(name: str, tmp_path: Path) -> None:
    home = make(name, tmp_path / "some folder")
    records = READERS[name](home)
    parts = (records.train, records.query, records.gallery)
    assert tuple(sorted((r.pid, r.camera) for r in part) for part in parts) == IMAGES
    assert READERS[name](tmp_path) == records
    assert len(OriginalSplit()(records).labels) == 3


@pytest.mark.parametrize("v2", [False, True])
def test_msmt17_is_read_by_its_lists_and_numbers_never_merge(v2: bool, tmp_path: Path) -> None:
    home = make("msmt17", tmp_path / "MSMT17_V1" / "MSMT17_V1", v2)
    records = read_msmt17(home)
    assert [(r.pid, r.camera, r.frame) for r in records.train] == [
        (10, 1, 8), (10, 14, 9), (11, 15, 16), (110, 2, 1)
    ]  # fmt: skip
    assert [(r.pid, r.camera) for r in records.query] == [(20, 1)]
    assert [(r.pid, r.camera) for r in records.gallery] == [(20, 12), (21, 2)]
    assert all(Path(r.path).is_file() for r in (*records.train, *records.query, *records.gallery))
    assert read_msmt17(home.parent) == records
    Resplit(val_fraction=0)(records)  # pool=all, with identities of both parts


def test_rows_of_msmt17_are_those_of_fastreid(tmp_path: Path) -> None:
    records = read_msmt17(make("msmt17", tmp_path))
    strings = sorted(f"msmt17_{number}" for number in (0, 1, 10))  # of its pid, an int of the list
    pids = OriginalSplit()(records).labels.pids
    assert [f"msmt17_{str(pid)[1:]}" for pid in pids] == strings


@pytest.mark.parametrize("absent", [LISTS, LISTS[2:3]])
def test_lists_that_msmt17_lacks_are_named(absent: tuple[str, ...], tmp_path: Path) -> None:
    home = make("msmt17", tmp_path / "MSMT17_V2", v2=True)
    for file in absent:
        (home / file).unlink()
    with pytest.raises(MissingDataset, match=f"lacks {', '.join(absent)}\\..*mask_train_v2"):
        read_msmt17(tmp_path)


@pytest.mark.parametrize(
    "line",
    [
        "0000/0000_000_01_0303morning_0008_0.jpg",
        "0000/x.jpg 0",
        "0000/0000_000_00_0303morning_0008_0.jpg 0",
        "\xff\xfe1",
    ],
)
def test_a_line_without_camera_or_identity_is_named(line: str, tmp_path: Path) -> None:
    home = make("msmt17", tmp_path)
    file = home / "list_query.txt"
    file.write_text(f"\n{line}\n", encoding="latin-1")
    with pytest.raises(InputError, match=f"line 2 of {file}"):
        read_msmt17(home)


def test_listed_images_that_are_missing_are_counted_and_the_first_named(tmp_path: Path) -> None:
    home = make("msmt17", tmp_path)
    for image in (*home.glob("train/000*/0*.jpg"), *home.glob("test/0000/*_002_*.jpg")):
        image.unlink()
    with pytest.raises(InputError, match=r"name 4 images .*0008_0.jpg, .*0009_0.jpg, .*0016_1.jpg"):
        read_msmt17(home)


@pytest.mark.parametrize("name", READERS)
def test_the_market_reader_names_the_layout_it_meets(name: str, tmp_path: Path) -> None:
    make(name, tmp_path / "there")
    if MARKET.get(name, ("",))[0] == BOXES:  # its grammar holds for these names too
        assert len(read_market1501(tmp_path).train) == 5
    else:
        with pytest.raises(MissingDataset, match="looks like") as error:
            read_market1501(tmp_path)
        assert error.value.remedy == {"data": name}


def test_another_layout_of_the_same_folders_is_not_taken(tmp_path: Path) -> None:
    make("market1501", tmp_path / "Market-1501-v15.09.15")
    for name in ("dukemtmc", "cuhk03_np"):
        with pytest.raises(MissingDataset, match="looks like Market-1501"):
            READERS[name](tmp_path)


def test_among_several_datasets_the_name_of_the_folder_decides(tmp_path: Path) -> None:
    homes = {
        "market1501": "Market-1501-v15.09.15",
        "dukemtmc": "DukeMTMC-reID",
        "occluded_duke": "Occluded_Duke",
        "veri": "VeRi",
        "msmt17": "MSMT17_V1",
    }
    for name, folder in homes.items():
        make(name, tmp_path / folder)
    for name, folder in homes.items():
        train = READERS[name](tmp_path).train
        assert train[0].path.startswith(str(tmp_path / folder))


def test_cuhk03_np_asks_for_detected_or_labeled(tmp_path: Path) -> None:
    for boxes in ("detected", "labeled"):
        make("cuhk03_np", tmp_path / "cuhk03-np" / boxes)
    with pytest.raises(InputError, match="2 datasets: detected, labeled") as error:
        READERS["cuhk03_np"](tmp_path / "cuhk03-np")
    assert error.value.remedy["root"] == tmp_path / "cuhk03-np" / "detected"
    with pytest.raises(MissingDataset, match="no dataset at") as error:
        READERS["cuhk03_np"](tmp_path)
    assert error.value.remedy["root"] == tmp_path / "cuhk03-np" / "detected"


@pytest.mark.parametrize("name", READERS)
def test_no_dataset_and_an_image_of_another_name_are_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(MissingDataset, match="no such folder"):
        READERS[name](tmp_path / "nowhere")
    if name in MARKET:
        touch(make(name, tmp_path) / MARKET[name][0][1] / "photo.jpg")
        with pytest.raises(InputError, match=r"photo\.jpg is not named as in"):
            READERS[name](tmp_path)


def test_a_copy_of_a_query_in_the_gallery_is_not_divided_again(tmp_path: Path) -> None:
    records = READERS["veri"](make("veri", tmp_path))
    assert len(records.gallery) == 4  # with the copy, as in the official protocol
    split = Resplit(val_fraction=0, train_fraction=0.4)(records)
    images = [*split.train, *split.query, *split.gallery]
    assert len(images) == len({Path(r.path).name for r in images}) == 10
    assert set(identities(images)) == {1, 2, 4, 7, 9}


def test_an_incomplete_dataset_has_one_note(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = make("dukemtmc", tmp_path / "DukeMTMC-reID")
    (note,) = READERS["dukemtmc"](home).notes
    assert "(5, 2, 4)" in note
    assert "(16522, 2228, 17661)" in note
    monkeypatch.setitem(layouts.SIZES, "dukemtmc", ((5, 2, 4),))
    assert not READERS["dukemtmc"](home).notes
    assert not read_market1501(make("market1501", tmp_path / "own cameras")).notes
