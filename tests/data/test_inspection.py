"""What a dataset has wrong is found in one go."""

import os
import shutil
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from camreid.data import OriginalSplit, Records, read_folder, read_market1501
from camreid.data.dataset import read_image
from camreid.data.inspection import Finding, inspect, without_bad_images
from camreid.data.layouts import find, scan
from camreid.errors import ImageError, MissingDataset

FOLDERS = ("bounding_box_train", "query", "bounding_box_test")


def save(path: Path, seed: int = -1, **options: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    seed = seed if seed >= 0 else abs(hash(path.name)) % 2**32
    pixels = np.random.default_rng(seed).integers(0, 256, (8, 4, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path, **options)
    return path


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """Two train and two test identities under two cameras, without a fault."""
    for pid in (1, 2):
        for camera in (1, 2):
            save(tmp_path / FOLDERS[0] / f"000{pid}_c{camera}s1_000001_00.png")
            save(tmp_path / FOLDERS[2] / f"000{pid + 2}_c{camera}s1_000001_00.png")
        save(tmp_path / FOLDERS[1] / f"000{pid + 2}_c1s1_000002_00.png")
    return tmp_path


def findings(home: Path, is_fault: bool = True) -> dict[str, Finding]:
    place = find(home, "market1501")
    found = inspect(scan(*place)[0], *place)
    return {f.what.partition(":")[0]: f for f in found if f.is_fault == is_fault}


def test_a_clean_dataset_has_no_fault(home: Path) -> None:
    assert findings(home) == {}
    (counts,) = findings(home, is_fault=False)
    assert counts == "images of train, query and gallery"


def test_each_fault_is_found(home: Path) -> None:
    train, query, gallery = (home / folder for folder in FOLDERS)
    name = "_c1s1_000009_0"
    (train / f"0001{name}1.png").touch()
    content = save(train / f"0001{name}2.png").read_bytes()
    (train / f"0001{name}2.png").write_bytes(content[:-50])
    (train / f"0001{name}3.png").write_bytes(b"no image")
    os.symlink(f"0001{name}4.png", train / f"0001{name}4.png")
    os.symlink(home, gallery / "loop")
    save(train / "nested" / "0001_c1s1_000001_07.png")
    for number in range(7):
        save(train / f"photo{number}.png")
    shutil.copy(train / "0001_c1s1_000001_00.png", query / "0001_c1s1_000003_00.png")
    shutil.copy(train / "0001_c1s1_000001_00.png", train / "0002_c1s1_000003_00.png")
    shutil.copy(train / "0001_c2s1_000001_00.png", train / "0001_c2s1_000003_00.png")
    save(query / "0009_c1s1_000001_00.png")
    found = findings(home)
    counts = {what: finding.count for what, finding in found.items()}
    unreadable = {what: counts.pop(what) for what in list(counts) if "unreadable" in what}
    assert counts == {
        "files of zero bytes": 1,
        "files that are no images": 1,
        "links to folders": 1,
        "images in nested folders": 1,
        "images without a record": 7,
        "equal files in train and query, of several identities": 1,
        "equal files in train": 1,
        "identities in train and test": 1,
    }
    assert findings(home, is_fault=False)["queries without a match"].count == 2
    assert len(found["images without a record"].examples) == 5
    assert sum(unreadable.values()) == 2
    assert any("symbolic links" in what for what in unreadable)


def test_images_that_are_shown_in_another_way_are_noted(home: Path) -> None:
    save(home / FOLDERS[0] / "0001_c1s1_000002_00.tif", exif=turned())
    for number, mode in enumerate(("L", "I;16", "RGBA", "CMYK")):
        array = np.full((8, 4), 9 + number, np.uint16 if mode == "I;16" else np.uint8)
        image = Image.fromarray(array)
        if mode != "I;16":
            image = image.convert(mode)
        image.save(home / FOLDERS[0] / f"0001_c1s1_000003_0{number}.tif")
    frames = [Image.new("RGB", (4, 8), colour) for colour in ("red", "blue")]
    path = home / FOLDERS[0] / "0001_c1s1_000004_00.webp"
    frames[0].save(path, save_all=True, append_images=frames[1:])
    (home / "readme.txt").touch()
    save(home / "gt_bbox" / "0001_c1s1_000001_00.png")
    save(home / FOLDERS[2] / "-1_c1s1_000001_00.png")
    found = findings(home, is_fault=False)
    assert findings(home) == {}
    assert sorted(f.count for f in found.values()) == [1, 1, 1, 1, 1, 1, 1, 2, 16]


def turned() -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = 6
    return exif


def test_counts_and_cameras_stand_beside_the_official_ones(home: Path) -> None:
    home = home.rename(home.parent / "Market-1501-v15.09.15")
    save(home / FOLDERS[0] / "0001_c7s1_000001_00.png")
    found = findings(home)
    assert sorted(f.count for f in found.values()) == [1, 11]
    assert any("(5, 2, 4). Market-1501 has (12936, 3368, 15913)" in f.what for f in found.values())


def test_a_copy_of_a_query_in_the_gallery_is_no_fault(home: Path) -> None:
    name = "0003_c1s1_000002_00.png"
    shutil.copy(home / FOLDERS[1] / name, home / FOLDERS[2] / name)
    assert findings(home) == {}


def test_unreadable_images_are_left_out_of_a_split(home: Path) -> None:
    split = OriginalSplit()(read_market1501(home))
    assert without_bad_images(split) is split
    bad = home / FOLDERS[2] / "0003_c2s1_000001_00.png"
    bad.write_bytes(bad.read_bytes()[:-50])
    found = without_bad_images(split)
    assert found.skipped == 1
    assert found.gallery == tuple(r for r in split.gallery if r.path != str(bad))
    assert replace(found, gallery=split.gallery) == split
    assert found.record.digest == found.digest != split.digest


def test_records_without_a_folder_are_inspected(home: Path) -> None:
    records = read_market1501(home)
    (size,) = inspect(Records(records.train, (), ()), home / "gone.csv", None)
    assert (size.count, size.is_fault) == (4, False)


def test_links_are_followed_and_loops_are_not(tmp_path: Path) -> None:
    root = tmp_path / "all"
    for pid in (1, 2):
        for camera in (1, 2):
            save(tmp_path / "real" / f"{pid}" / f"{camera}" / "0.png", seed=4 * pid + camera)
    root.mkdir()
    for pid in (1, 2):
        os.symlink(tmp_path / "real" / f"{pid}", root / f"{pid}")
    os.symlink(root, tmp_path / "real" / "1" / "1" / "loop")
    os.symlink("..", tmp_path / "real" / "2" / "up")
    records = read_folder(root)
    assert len(records.train) == 4
    assert [f.what for f in inspect(records, root, None) if f.is_fault] == []


def test_a_pipe_or_device_is_named_and_not_read(home: Path) -> None:
    names = [home / FOLDERS[0] / f"0001_c1s1_000009_0{n}.png" for n in range(3)]
    os.mkfifo(names[0])
    names[1].symlink_to("/dev/zero")
    names[2].mkdir()
    (found,) = findings(home).values()
    assert found.examples == (*map(str, names),)
    assert without_bad_images(OriginalSplit()(read_market1501(home))).skipped == 3
    for name in names:
        with pytest.raises(ImageError, match="a folder, a pipe or a device"):
            read_image(name)


def test_missing_folders_are_named_beside_other_faults(home: Path) -> None:
    shutil.rmtree(home / FOLDERS[0])
    (home / FOLDERS[1]).rename(home / "queries")
    (home / FOLDERS[1]).touch()
    (home / FOLDERS[2] / "0003_c1s1_000009_00.png").touch()
    found = findings(home)
    assert found["missing folders"].examples == (*(str(home / name) for name in FOLDERS[:2]),)
    assert found["files of zero bytes"].count == 1
    with pytest.raises(MissingDataset, match=FOLDERS[0]):
        read_market1501(home)


def test_an_unreadable_folder_is_named_beside_other_faults(home: Path) -> None:
    (home / FOLDERS[1]).chmod(0)
    (home / FOLDERS[2] / "0003_c1s1_000009_00.png").touch()
    try:
        if os.access(home / FOLDERS[1], os.R_OK):
            pytest.skip("root reads all")
        found = findings(home)
        with pytest.raises(PermissionError, match=FOLDERS[1]):
            read_market1501(home)
    finally:
        (home / FOLDERS[1]).chmod(0o700)
    assert found["files of zero bytes"].count == 1
    assert found["unreadable folders (Permission denied)"].examples == (str(home / FOLDERS[1]),)


def test_a_folder_of_misnamed_or_nested_images_is_still_a_subset(home: Path) -> None:
    query, gallery = home / FOLDERS[1], home / FOLDERS[2]
    for path in [*query.iterdir()]:
        path.rename(query / f"x{path.name}")
    (gallery / "in").mkdir()
    for path in [*gallery.glob("*.png")]:
        path.rename(gallery / "in" / path.name)
    found = findings(home)
    assert found["images without a record"].count == 2
    assert found["images in nested folders"].count == 4


def test_broken_links_and_names_that_are_not_utf8_are_faults(home: Path) -> None:
    (home / FOLDERS[0] / "loop").symlink_to("loop")
    name = os.fsencode(home / FOLDERS[0]) + b"/0001_c1s1_000009_\xff.png"
    os.rename(save(home / FOLDERS[0] / "a.png"), name)
    found = findings(home)
    assert found["broken links"].examples == (str(home / FOLDERS[0] / "loop"),)
    assert any("UTF-8" in what for what in found)


def test_cameras_beyond_the_public_ones_are_noted_in_other_datasets(home: Path) -> None:
    path = save(home / FOLDERS[0] / "0001_c7s1_000001_00.png")
    assert findings(home) == {}
    notes = findings(home, is_fault=False)
    assert notes["cameras that the public dataset does not have"].examples == (str(path),)


@pytest.mark.parametrize(("channels", "kind"), [(1, 0), (3, 2)])
def test_images_of_16_bits_are_noted_once(home: Path, channels: int, kind: int) -> None:
    def chunk(name: bytes, content: bytes) -> bytes:
        body = name + content
        return len(content).to_bytes(4, "big") + body + zlib.crc32(body).to_bytes(4, "big")

    header = (4).to_bytes(4, "big") + (8).to_bytes(4, "big") + bytes([16, kind, 0, 0, 0])
    pixels = zlib.compress(8 * (b"\0" + 4 * channels * b"\x12\x34"))
    chunks = chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")
    (home / FOLDERS[0] / "0001_c1s1_000009_00.png").write_bytes(b"\x89PNG\r\n\x1a\n" + chunks)
    notes = [f for what, f in findings(home, is_fault=False).items() if "16 bits" in what]
    assert [f.count for f in notes] == [1]
