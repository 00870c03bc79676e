"""Files are written whole, on a disk that is full as well."""

import os
import resource
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from camreid.errors import CannotWrite, InputError
from camreid.evaluation import FeatureTable, Images
from camreid.files import lock, unlock, write_text, write_whole

BIG = torch.zeros(100_000)


@pytest.fixture
def full_disk() -> Iterator[None]:
    """No file can be larger than 4 KB."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def features(path: Path) -> None:
    query, gallery = (Images(torch.ones(99, 100), *torch.ones(2, 99).long()) for _ in range(2))
    FeatureTable(query, gallery).save(path)


@pytest.mark.usefixtures("full_disk")
@pytest.mark.parametrize(
    "write",
    [
        lambda path: write_text(path, "x" * 100_000),
        lambda path: write_whole(path, lambda draft: torch.save(BIG, draft)),
        features,
    ],
)
def test_a_full_disk_keeps_the_file_before(write: Callable[[Path], None], tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("before")
    with pytest.raises(CannotWrite, match=r"bytes are free.*kept"):
        write(path)
    assert [p.name for p in tmp_path.iterdir()] == ["file"]
    assert path.read_text() == "before"


def test_a_place_that_is_no_folder_and_a_long_name_are_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for path in (tmp_path / "file" / "x", tmp_path / ("x" * 300), tmp_path / ("y/" * 3000)):
        with pytest.raises(InputError, match="can't be written"):
            write_text(path, "x")


def test_a_fault_of_the_writer_is_not_one_of_the_disk(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError):
        write_whole(tmp_path / "x", lambda _: 1 / 0)
    assert not list(tmp_path.iterdir())


def test_a_folder_has_one_holder(tmp_path: Path) -> None:
    held = lock(tmp_path)
    with pytest.raises(BlockingIOError):
        lock(tmp_path)
    unlock(held)
    os.close(lock(tmp_path))
    assert not list(tmp_path.iterdir())
