"""Images of CSV files and folders: names become numbers, and nothing merges or is lost."""

from pathlib import Path

import pytest

from camreid.data import OriginalSplit, Records, Resplit, Split, read_csv, read_folder
from camreid.data.named import numbers
from camreid.errors import InputError, MissingDataset

HEADER = "path,identity,camera"


def touch(root: Path, *names: str) -> None:
    for path in map(root.joinpath, names):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def write_csv(root: Path, *lines: str, header: str = HEADER, encoding: str = "utf-8") -> Path:
    """A CSV file beside the images that it lists."""
    touch(root, *(line.replace(";", ",").split(",")[0] for line in lines))
    (root / "all.csv").write_text("\n".join([header, *lines]), encoding=encoding)
    return root / "all.csv"


def names(records: Records) -> set[tuple[str, int, int]]:
    images = (*records.train, *records.val, *records.query, *records.gallery)
    return {(Path(r.path).name, r.pid, r.camera) for r in images}


def test_names_of_a_csv_are_numbered_in_sorted_order(tmp_path: Path) -> None:
    lines = ["b/1.jpg,bob,yard", "b/2.webp,bob,gate", "a/1.jpg,anna,yard", "a/2.png,anna,gate"]
    records = read_csv(write_csv(tmp_path, *lines))
    assert names(records) == {
        ("1.jpg", 2, 2), ("2.webp", 2, 1), ("1.jpg", 1, 2), ("2.png", 1, 1)
    }  # fmt: skip
    assert records.datasets[0].identities == {"anna": 1, "bob": 2}
    assert read_csv(write_csv(tmp_path, *reversed(lines))) == records
    assert not (*records.query, *records.gallery)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (["7", "0002"], {"0002": 2, "7": 7}),
        (["0", "1"], {"0": 1, "1": 2}),
        (["-1", "1"], {"1": 1, "-1": 2}),
        (["cam10", "cam2"], {"cam2": 1, "cam10": 2}),
        (["9" * 5000, "7"], {"7": 1, "9" * 5000: 2}),
        (["20231105001", "7"], {"7": 1, "20231105001": 2}),  # beyond the range of a dataset
    ],
)
def test_numbers(given: list[str], expected: dict[str, int]) -> None:
    assert numbers(given, "a.csv") == expected


def test_subsets_of_a_csv_make_the_original_split(tmp_path: Path) -> None:
    rows = [
        f"{subset}/{i}{c}.jpg;{subset[0]}{i};{c};{subset}"
        for subset in ("train", "Val", "query", "gallery") for i in (1, 2) for c in (1, 2)
    ]  # fmt: skip
    rows = [row.replace(";g", ";q") if "gallery" in row.split(";")[3] else row for row in rows]
    path = write_csv(tmp_path, *rows, header="Path;Identity;Camera;Subset", encoding="utf-8-sig")
    text = path.read_text("utf-8-sig").replace(";qallery", ";gallery")
    path.write_text(text, encoding="utf-8-sig")
    split = OriginalSplit()(read_csv(path))
    assert [len(part) for part in (split.train, split.val, split.query, split.gallery)] == [4] * 4
    assert split.datasets[0].cameras == {"1": 1, "2": 2}
    with pytest.raises(InputError, match="val of its own"):
        OriginalSplit(val_fraction=0.2)(read_csv(path))
    again = Resplit(0.5, 0.0)(read_csv(path))
    assert sum(len(part) for part in (again.train, again.query, again.gallery)) == 16


@pytest.mark.parametrize(
    ("lines", "header", "message"),
    [
        (["1.jpg,bob"], "path,identity", r"lacks camera.*path,identity"),
        (["1.jpg,bob,"], HEADER, r"line 2 of .*1\.jpg,bob"),
        (["1.jpg,Smith, John,1", "2.jpg,bob,2"], HEADER, "line 2 of .*Smith,John,1"),
        (["1.jpg,bob,1,test"], HEADER + ",subset", "line 2 .*gallery"),
        (["1.jpg,bob,1,train", "2.jpg,bob,2,"], HEADER + ",subset", "with and without a subset"),
        (["1.jpg,bob,1,train", "2.jpg,bob,2,query"], HEADER + ",subset", "1 identities .*bob"),
        (["1.jpg,1,1", "2.jpg,01,2"], HEADER, "'01' and '1'"),
        (["1.jpg,e\u0301va,1", "2.jpg,\u00e9va,2"], HEADER, "spelling"),
        (["1.jpg,bob,1", "./1.jpg,bob,2"], HEADER, r"twice, such as .*1\.jpg"),
        ([], HEADER, "lists no images"),
    ],
)
def test_a_csv_with_a_fault_is_refused(
    lines: list[str], header: str, message: str, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=message):
        read_csv(write_csv(tmp_path, *lines, header=header))


def test_a_csv_of_missing_files_or_another_encoding_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MissingDataset, match="expected a header"):
        read_csv(tmp_path / "none.csv")
    path = write_csv(tmp_path, "1.jpg,bob,1", "2.jpg,bob,2")
    (tmp_path / "2.jpg").unlink()
    with pytest.raises(InputError, match=r"1 images that are not there.*2\.jpg"):
        read_csv(path)
    with pytest.raises(InputError, match="UTF-8"):
        read_csv(write_csv(tmp_path, "1.jpg,bob,1", encoding="utf-16"))


def test_lines_without_values_and_columns_without_names_do_not_count(tmp_path: Path) -> None:
    path = write_csv(tmp_path, "1.jpg,bob,1,0", "", ",,,", "2.jpg,bob,2,1", "", header=HEADER + ",")
    assert names(read_csv(path)) == {("1.jpg", 1, 1), ("2.jpg", 1, 2)}


def test_folders_of_subsets_are_no_identities(tmp_path: Path) -> None:
    touch(tmp_path, *(f"{part}/{i}/1.jpg" for part in ("train", "test") for i in "ab"))
    with pytest.raises(InputError, match="in train, val, query, gallery"):
        read_folder(tmp_path)


def test_folders_may_be_links(tmp_path: Path) -> None:
    touch(tmp_path, *(f"real/{i}/c/1.jpg" for i in "ab"))
    (tmp_path / "links").mkdir()
    for name in "ab":
        (tmp_path / "links" / name).symlink_to(tmp_path / "real" / name)
    assert len(read_folder(tmp_path / "links").train) == 2


def test_equal_file_names_of_two_identities_are_two_images(tmp_path: Path) -> None:
    touch(tmp_path, *(f"train/{i}/000{c}_c{c}.jpg" for i in "ab" for c in (1, 2)))
    touch(tmp_path, *(f"query/{i}/0001_c1.jpg" for i in "cdef"))
    touch(tmp_path, *(f"gallery/{i}/000{c}_c{c}.jpg" for i in "cdef" for c in (1, 2)))
    split = Resplit(0.5, 0.0)(read_folder(tmp_path))
    assert sum(len(part) for part in (split.train, split.query, split.gallery)) == 4 + 4 + 8


def test_a_csv_of_query_and_gallery_can_be_tested(tmp_path: Path) -> None:
    lines = [f"{i}{c}.jpg,{i},{c},{'gallery' if c else 'query'}" for i in "ab" for c in (0, 1)]
    split = OriginalSplit()(read_csv(write_csv(tmp_path, *lines, header=HEADER + ",subset")))
    assert (len(split.train), len(split.labels), split.rankable["query"]) == (0, 0, 2)


def test_cameras_of_a_folder(tmp_path: Path) -> None:
    touch(
        tmp_path, "by/bob/gate/1.jpg", "by/bob/yard/1.BMP", "by/anna/gate/a/1.tif", "by/notes.txt"
    )
    touch(tmp_path, "by/__MACOSX/bob/1.jpg", "by/bob/gate/Thumbs.db", "by/bob/gate/._1.jpg")
    records = read_folder(tmp_path / "by")
    assert names(records) == {("1.jpg", 2, 1), ("1.BMP", 2, 2), ("1.tif", 1, 1)}
    assert records.notes == (
        f"1 files in {tmp_path / 'by'} are not images and are left out, such as notes.txt.",
    )
    touch(tmp_path, *(f"in/{i}/cam{c}_x.jpg" for i in ("0", "1") for c in (3, 12)))
    found = read_folder(tmp_path / "in", r"cam(\d+)")
    assert {(r.pid, r.camera) for r in found.train} == {(1, 3), (1, 12), (2, 3), (2, 12)}
    assert {r.camera for r in read_folder(tmp_path / "in").train} == {1, 2}  # one each


def test_images_without_cameras_are_ranked_across_cameras(tmp_path: Path) -> None:
    touch(tmp_path, *(f"{i}/{n}.jpg" for i in "abcdefghijkl" for n in range(4)))
    split = Resplit(0.5, 0.4)(read_folder(tmp_path))
    assert split.rankable == {"val": len(split.val), "query": 6}
    assert len(split.gallery) == 18


@pytest.mark.parametrize(
    ("files", "pattern", "message"),
    [
        (["1.jpg", "2.jpg"], None, r"0 folders.*data=csv"),
        (["all/bob/1.jpg", "all/anna/2.jpg"], None, r"root=\S+all"),
        (["bob/1.jpg", "anna/2.jpg"], "cam(", "no regular expression"),
        (["bob/cam1.jpg", "anna/2.jpg"], r"cam(\d+)", r"1 of 2 images .*2\.jpg.*cam\(\\d"),
        (["bob/1.jpg", "anna/c1/2.jpg"], None, r"1 of 2 images .* such as \S+bob/1\.jpg"),
        (["train/bob/1.jpg", "query/bob/2.jpg", "gallery/anna/3.jpg"], None, ": bob"),
    ],
)
def test_a_folder_with_a_fault_is_refused(
    files: list[str], pattern: str | None, message: str, tmp_path: Path
) -> None:
    touch(tmp_path, *files)
    with pytest.raises(InputError, match=message):
        read_folder(tmp_path, pattern)
    with pytest.raises(MissingDataset, match="one folder per identity"):
        read_folder(tmp_path / "none")


def test_equal_file_names_of_two_identities_stay_apart(tmp_path: Path) -> None:
    touch(tmp_path, *(f"old/{i}/cam{c}/1.jpg" for i in "abcd" for c in (1, 2)))
    split = Resplit(0.5, 0.0)(read_folder(tmp_path / "old"))
    assert Resplit(0.5, 0.0)(read_folder(tmp_path / "old")) == split
    split.save(tmp_path / "split.csv")
    (tmp_path / "old").rename(tmp_path / "new")
    with pytest.raises(InputError, match="equal names"):
        Split.load(tmp_path / "split.csv", tmp_path / "new")
