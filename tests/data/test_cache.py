import hashlib
import os
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from camreid.data import ImageDataset, OriginalSplit, Records, ReIDDataModule, Resplit, cache
from camreid.data.cache import ImageCache
from camreid.data.dataset import read_image
from camreid.errors import InputError

SIZE = (32, 16)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A folder of 20 images of different sizes."""
    folder = tmp_path / "images"
    folder.mkdir()
    for number in range(20):
        save(folder / f"{number:04d}_c1s1_000001_00.png", number)
    return folder


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The images that were decoded for a cache."""
    names: list[str] = []

    def read(path: str, *options: object) -> torch.Tensor:
        names.append(Path(path).name)
        return read_image(path, *options)

    monkeypatch.setattr(cache, "read_image", read)
    return names


def save(path: Path, seed: int) -> None:
    pixels = np.random.default_rng(seed).integers(0, 256, (40 + seed % 7, 20, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


def cached(folder: Path, home: Path, **options: object) -> torch.Tensor:
    """The images of a folder by name, from a new cache object."""
    paths = sorted(str(path) for path in folder.iterdir())
    files, where = ImageCache(SIZE, "bicubic", home, **options).locate(paths)
    return torch.stack([torch.tensor(files[file][place]) for file, place in where.tolist()])


def read(folder: Path) -> torch.Tensor:
    return torch.stack([read_image(str(path), SIZE) for path in sorted(folder.iterdir())])


@pytest.mark.parametrize(("kind", "interpolation"), [("disk", "bicubic"), ("memory", "bilinear")])
def test_batches_are_those_of_the_image_files(
    kind: str, interpolation: str, records: Records, tmp_path: Path
) -> None:
    for split in (OriginalSplit(3)(records), Resplit(0.5, 0.2, 0)(records)):
        loaders = []
        for chosen in ("none", kind):
            data = ReIDDataModule(
                split, SIZE, identities=3, instances=2, workers=0, interpolation=interpolation,
                cache=chosen, cache_dir=str(tmp_path / "cache"),
            )  # fmt: skip
            data.setup("fit")
            loaders.append([data.train_dataloader(), *data.test_dataloader()])
        for plain, fast in zip(*loaders, strict=True):
            for ours, theirs in zip(plain, fast, strict=True):
                assert ours.keys() == theirs.keys()
                assert ours["img_paths"] == theirs["img_paths"]
                for name in ours.keys() - {"img_paths"}:
                    assert torch.equal(ours[name], theirs[name]), name
    files = list((tmp_path / "cache").glob("*.images"))
    assert len(files) == (3 if kind == "disk" else 0)  # train, query, gallery
    assert not list(Path("/dev/shm").glob("camreid-*"))


def test_workers_and_a_plain_loader_see_the_same(records: Records, tmp_path: Path) -> None:
    split = OriginalSplit()(records)
    data = ReIDDataModule(split, SIZE, workers=1, cache="disk", cache_dir=str(tmp_path))
    batch = next(iter(data.eval_dataloader(split.query)))
    plain = next(iter(torch.utils.data.DataLoader(ImageDataset(split.query, SIZE), 128)))
    assert torch.equal(batch["images"], plain["images"])
    assert batch["img_paths"] == plain["img_paths"]


def test_only_what_changed_is_decoded_again(tree: Path, tmp_path: Path, reads: list[str]) -> None:
    home = tmp_path / "cache"
    first = cached(tree, home)
    assert len(reads) == 20
    some = sorted(str(path) for path in tree.iterdir())[5:9]
    ImageCache(SIZE, "bicubic", home).locate(some)  # a part is in the file of all
    assert torch.equal(cached(tree, home), first)
    assert len(reads) == 20
    changed, removed, added = (tree / f"{n:04d}_c1s1_000001_00.png" for n in (3, 7, 30))
    shutil.copy(tree / "0005_c1s1_000001_00.png", changed)
    removed.unlink()
    save(added, 30)
    assert torch.equal(cached(tree, home), read(tree))
    assert sorted(reads[20:]) == [changed.name, added.name]
    stamp = added.stat()
    shutil.copy(tree / "0002_c1s1_000001_00.png", added)
    os.utime(added, ns=(stamp.st_atime_ns, stamp.st_mtime_ns + 1))
    assert torch.equal(cached(tree, home), read(tree))
    assert len(list(home.glob("*.images"))) == 1


@pytest.mark.parametrize("fault", ["short", "head", "pixel", "sum", "other", "empty"])
def test_a_cache_that_is_not_of_these_images_is_not_read(
    fault: str, tree: Path, tmp_path: Path, reads: list[str]
) -> None:
    home, other = tmp_path / "cache", tmp_path / "other" / "images"
    expected = cached(tree, home)
    (file,) = home.glob("*.images")
    content = bytearray(file.read_bytes())
    if place := {"head": 100, "pixel": len(content) - 9000, "sum": len(content) - 5}.get(fault):
        content[place] ^= 1
    elif fault == "other":  # the same names, sizes and times; a file put at the wrong place
        shutil.copytree(tree, other)
        save(other / "0001_c1s1_000001_00.png", 50)
        cached(other, tmp_path / "cache2")
        content = bytearray(next((tmp_path / "cache2").glob("*.images")).read_bytes())
    file.write_bytes({"short": content[:-1], "empty": b""}.get(fault, content))
    reads.clear()
    assert torch.equal(cached(tree, home), expected)
    assert len(reads) == 20


def test_a_corrupt_image_is_named_and_the_cache_stays(tree: Path, tmp_path: Path) -> None:
    home = tmp_path / "cache"
    cached(tree, home)
    (file,) = home.glob("*.images")
    before = file.read_bytes()
    for broken in (b"\xff\xd8\xff\xe0 cut short", None):
        path = tree / "0099_c1s1_000001_00.png"
        path.write_bytes(broken) if broken else path.symlink_to("nowhere")
        with pytest.raises(InputError, match=path.name):
            cached(tree, home)
        path.unlink()
    assert file.read_bytes() == before
    assert [path.suffix for path in home.iterdir() if path != file] == [".lock"]


def test_a_small_disk_is_refused_with_the_bytes(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)._replace(free=12_345)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage)
    with pytest.raises(InputError, match=r"3\d,\d{3} bytes are needed, 12,345 are free") as caught:
        cached(tree, tmp_path / "cache")
    assert caught.value.remedy == {"cache": "memory"}
    assert not list((tmp_path / "cache").glob("*.images"))


def test_too_little_memory_is_refused() -> None:
    paths = [f"{number}.png" for number in range(100_000)]
    with pytest.raises(InputError, match=r"cache=memory: .*Unable to allocate") as caught:
        ImageCache((2**14, 2**14), "bicubic", in_memory=True).locate(paths)
    assert caught.value.remedy == {"cache": "none"}


def test_a_folder_that_cannot_be_written_is_refused(tree: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="cache=none"):
        cached(tree, tmp_path / "file" / "cache")


def test_one_builds_and_the_others_wait(tree: Path, tmp_path: Path, reads: list[str]) -> None:
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(lambda _: cached(tree, tmp_path / "cache"), range(4)))
    assert all(torch.equal(result, read(tree)) for result in results)
    assert len(reads) == 20


@pytest.mark.slow
def test_a_killed_build_leaves_nothing_that_is_read(tree: Path, tmp_path: Path) -> None:
    home = tmp_path / "cache"
    slow = (
        "import sys, time; from pathlib import Path; from camreid.data import cache\n"
        "read = cache.read_image\n"
        "cache.read_image = lambda *a: (time.sleep(0.3), read(*a))[1]\n"
        "paths = sorted(map(str, Path(sys.argv[1]).iterdir()))\n"
        f"cache.ImageCache({SIZE}, 'bicubic', sys.argv[2]).locate(paths)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", slow, str(tree), str(home)])
    while not list(home.glob(".*.part")) and process.poll() is None:
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert [path.suffix for path in home.iterdir() if path.suffix != ".lock"] == [".part"]
    assert torch.equal(cached(tree, home), read(tree))
    assert not list(home.glob(".*.part"))


def test_the_default_folder_is_of_the_system(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for variable, folder in ((None, ".cache/camreid"), (str(tmp_path / "xdg"), "xdg/camreid")):
        if variable is None:
            monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
        else:
            monkeypatch.setenv("XDG_CACHE_HOME", variable)
        ImageCache(SIZE, "bicubic").locate([str(path) for path in tree.iterdir()])
        assert len(list((tmp_path / folder).glob("*.images"))) == 1


def test_many_folders_share_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("camreid.data.cache._MOST", 2)
    paths = []
    for number in range(6):
        folder = tmp_path / "images" / str(number // 2)
        folder.mkdir(parents=True, exist_ok=True)
        paths.append(str(folder / f"{number % 2}.png"))
        Image.new("RGB", (4, 8), (number, 0, 0)).save(paths[-1])
    cache = ImageCache((8, 4), "bicubic", tmp_path / "cache")
    for some in (paths, paths[3:5]):  # in the same file, also for a part of the folders
        files, where = cache.locate(some)
        found = [int(files[file][place][0, 0, 0]) for file, place in where]
        assert found == [paths.index(path) for path in some]
    assert len(list((tmp_path / "cache").glob("*.images"))) == 1


def test_a_folder_of_all_users_and_a_link_as_the_lock_are_refused(
    tree: Path, tmp_path: Path
) -> None:
    home = tmp_path / "cache"
    home.mkdir()
    home.chmod(0o777)
    with pytest.raises(InputError, match="all users may write there; type chmod o-w"):
        cached(tree, home)
    assert not list(home.iterdir())
    home.chmod(0o755)
    cached(tree, home)
    (lock,) = home.glob("*.lock")
    (file,) = home.glob("*.images")
    file.unlink()
    lock.unlink()
    (tmp_path / "mine").write_text("mine")
    lock.symlink_to(tmp_path / "mine")
    with pytest.raises(InputError, match="cache=memory"):
        cached(tree, home)
    assert (tmp_path / "mine").read_text() == "mine"


@pytest.mark.parametrize("head", ["3", "[1, 2]", "[[], 3]", "[" * 10**5, "[1, {}, 3]", '{"a": {}}'])
def test_a_head_of_another_form_is_not_read(head: str, tree: Path, tmp_path: Path) -> None:
    cached(tree, tmp_path / "cache")
    (file,) = (tmp_path / "cache").glob("*.images")
    text = head.encode() + b"\n"
    file.write_bytes(hashlib.sha256(text).hexdigest().encode() + b" " + text)
    assert torch.equal(cached(tree, tmp_path / "cache"), read(tree))


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no named pipes here")
def test_a_named_pipe_in_place_of_the_file_does_not_hang(tree: Path, tmp_path: Path) -> None:
    cached(tree, tmp_path / "cache")
    (file,) = (tmp_path / "cache").glob("*.images")
    file.unlink()
    os.mkfifo(file)
    assert torch.equal(cached(tree, tmp_path / "cache"), read(tree))
