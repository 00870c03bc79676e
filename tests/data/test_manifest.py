import re
from pathlib import Path

import pytest

from camreid.data import OriginalSplit, Records, Resplit, Split
from camreid.errors import InputError

HEADER = "subset,path,pid,camera"


@pytest.mark.parametrize(
    "strategy", [OriginalSplit(3, 0.4, 1), Resplit(0.5, 0.2, 0), Resplit(0.5, by="image")], ids=str
)
def test_a_manifest_comes_back_the_same(
    strategy: OriginalSplit, records: Records, tmp_path: Path
) -> None:
    split, path = strategy(records), tmp_path / "split.csv"
    split.save(path)
    loaded = Split.load(path)
    assert loaded == split
    assert loaded.digest == split.digest
    assert (loaded.record.kind, loaded.record.digest) == ("manifest", split.digest)
    header, first, *_ = path.read_text().splitlines()
    assert header == f"{HEADER},row"
    assert first.startswith("train,")


def test_images_are_found_where_the_manifest_names_them_or_below_root(
    records: Records, market: Path, tmp_path: Path
) -> None:
    split, path = Resplit(0.5, 0.2, 0)(records), tmp_path / "split.csv"
    split.save(path)
    (tmp_path / "twin").mkdir()
    (tmp_path / "twin" / market.name).symlink_to(market)
    twin = Split.load(path, tmp_path / "twin")
    assert twin.digest == split.digest
    assert all(r.path.startswith(f"{tmp_path}/twin/{market.name}/") for r in twin.train)
    path.write_text(path.read_text().replace(str(market), "gone"))
    for root in (market, market.parent):
        loaded = Split.load(path, root)
        assert loaded == split
        assert loaded.digest == split.digest
    with pytest.raises(InputError, match=r"images that are not there, such as gone/.*root=FOLDER"):
        Split.load(path)


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["test,{0},1,1"], "line 2 of"),
        (["train,{0},one,1"], "line 2 of"),
        (["train,{0},1,1,0", "train,{0},2,1,5"], "without gaps"),
        (["train,{0},1,1", "train,{0},-1,1"], "line 3 .* pid -1 into train"),
        (["train,{0},0,1"], "pid 0 into train.* add 1"),
        (["val,{0},0,1"], "pid 0 into val"),
        (["query,{0},-1,1"], "pid -1 into query"),
        (["gallery,{0},-2,1"], "line 2 of"),
        ([f"train,{{0}},{2**63},1"], "line 2 of"),
        (["train,{0},1,0"], "line 2 of"),
        ([f"train,{{0}},1,{2**63}"], "line 2 of"),
    ],
)
def test_broken_lines_are_refused(lines: list[str], message: str, tmp_path: Path) -> None:
    path = tmp_path / "split.csv"
    path.write_text("\n".join([f"{HEADER},row", *lines]).format(path))
    with pytest.raises(InputError, match=message):
        Split.load(path)


def test_messages_are_short_and_name_a_root_only_where_one_is_typed(tmp_path: Path) -> None:
    path = tmp_path / "split.csv"
    path.write_text(f"{HEADER}\ntrain,{path},{'9' * 5000},1\n")
    with pytest.raises(InputError, match="line 2") as refused:
        Split.load(path)
    assert len(str(refused.value)) < 500 + len(str(path))
    path.write_text(f"{HEADER}\ntrain,gone.jpg,1,1\n")
    with pytest.raises(InputError, match=r"not there, such as gone\.jpg") as refused:
        Split.load(path)
    assert "None" not in str(refused.value)
    with pytest.raises(InputError, match=f"root={tmp_path}"):
        Split.load(path, tmp_path)


def test_another_file_is_no_manifest(tmp_path: Path) -> None:
    (tmp_path / "split.csv").write_text("path,pid\nx,1\n")
    with pytest.raises(InputError, match="lacks subset, camera"):
        Split.load(tmp_path / "split.csv")
    with pytest.raises(InputError, match=re.escape(f"no split manifest at {tmp_path}/gone.csv")):
        Split.load(tmp_path / "gone.csv")


def test_a_manifest_by_hand_may_leave_out_rows_and_hold_junk_in_the_gallery(tmp_path: Path) -> None:
    path = tmp_path / "split.csv"
    images = [("train", 2), ("train", 10), ("train", 100), ("gallery", 0), ("gallery", -1)]
    path.write_text("\n".join([HEADER, *(f"{subset},{path},{pid},1" for subset, pid in images)]))
    split = Split.load(path)
    assert split.labels.pids == (10, 100, 2)  # the order of FastReID
    assert [r.pid for r in split.gallery] == [0, -1]


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """An image outside of the folder data, and a link in it to its folder."""
    for image in ("data/in/a.jpg", "secret/b.jpg"):
        (tmp_path / image).parent.mkdir(parents=True)
        (tmp_path / image).touch()
    (tmp_path / "data/link").symlink_to(tmp_path / "secret")
    (tmp_path / "data/in/c.jpg").symlink_to(tmp_path / "secret/b.jpg")
    return tmp_path


@pytest.mark.parametrize(
    "place",
    ["{}/secret/b.jpg", "../secret/b.jpg", "in/../../secret/b.jpg", "link/b.jpg", "in/c.jpg",
     "{}/data/link/b.jpg", "{}/data/in/../../secret/b.jpg", "link/../secret/b.jpg"],
)  # fmt: skip
def test_images_outside_of_root_are_refused(
    place: str, outside: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(outside / "data")
    path, image = outside / "split.csv", place.format(outside)
    path.write_text(f"{HEADER}\ntrain,in/a.jpg,1,1\ntrain,{image},2,1\n")
    with pytest.raises(InputError, match=r"1 images outside root=.*outside_root=True"):
        Split.load(path, outside / "data")
    found = Split.load(path, outside / "data", outside_root=True)
    assert [r.path for r in found.train] == ["in/a.jpg", image]
    assert [r.path for r in Split.load(path).train] == ["in/a.jpg", image]


def test_root_is_searched_before_the_paths_of_the_manifest(outside: Path) -> None:
    twin = outside / "data/secret/b.jpg"
    twin.parent.mkdir()
    twin.touch()
    path = outside / "split.csv"
    path.write_text(f"{HEADER}\ntrain,{outside}/secret/b.jpg,2,1\n")
    for free in (False, True):
        assert Split.load(path, outside / "data", outside_root=free).train[0].path == str(twin)


def test_two_images_are_not_taken_for_one(outside: Path) -> None:
    path = outside / "split.csv"
    lines = [HEADER, f"train,{outside}/data/in/a.jpg,1,1", "train,old/in/a.jpg,2,1"]
    path.write_bytes("\r".join(lines).encode("utf-8-sig"))
    with pytest.raises(InputError, match="images of equal names"):
        Split.load(path, outside / "data")
