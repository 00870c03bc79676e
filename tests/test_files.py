"""Files are written whole, on a disk that is full as well."""

import json
import os
import resource
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from camreid.errors import CannotWrite, InputError
from camreid.evaluation import FeatureTable, Images
from camreid.files import lock, read_plain, unlock, write_text, write_whole

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


def test_a_folder_that_is_removed_meanwhile_is_named(tmp_path: Path) -> None:
    with pytest.raises(CannotWrite, match=r"gone.*was moved or removed"):
        write_whole(tmp_path / "gone" / "x", lambda draft: shutil.rmtree(draft.parent))


def test_files_have_the_rights_of_this_user_s_other_files(tmp_path: Path) -> None:
    write_text(tmp_path / "text", "x")
    features(tmp_path / "features")
    assert len({path.stat().st_mode for path in tmp_path.iterdir()}) == 1


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


def test_a_link_at_the_place_of_a_draft_is_not_written_through(tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    mine.write_text("mine")
    (tmp_path / f".file.{os.getpid()}.part").symlink_to(mine)
    (tmp_path / "file").symlink_to(mine)
    write_text(tmp_path / "file", "new")
    assert (mine.read_text(), (tmp_path / "file").read_text()) == ("mine", "new")
    assert not (tmp_path / "file").is_symlink()


BOMB = "\n".join(f"x{n}: &x{n} [{', '.join([f'*x{n - 1}'] * 9)}]" for n in range(1, 20))


@pytest.mark.parametrize(
    ("text", "read"),
    [
        ("[" * 100_000, json.loads),
        ("[" * 900 + "]" * 900, json.loads),
        ('{"a":' * 40 + "1" + "}" * 40, json.loads),
        (f"x0: &x0 [1]\n{BOMB}", yaml.safe_load),
        ("&x [*x]", yaml.safe_load),
        ("[" * 3000, yaml.safe_load),
    ],
)
def test_data_with_too_many_levels_or_parts_are_refused(text: str, read: Any) -> None:
    with pytest.raises(ValueError, match="levels"):
        read_plain(text, read)


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=8,
)


@settings(max_examples=40, deadline=None, derandomize=True, database=None)
@given(values)
def test_other_data_are_read_as_they_are(value: object) -> None:
    assert read_plain(json.dumps(value)) == value


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="processes are found in /proc")
def test_the_next_writing_removes_the_draft_of_a_killed_process(tmp_path: Path) -> None:
    killed, alive = (tmp_path / f".[a] b.csv.{pid}.part" for pid in (2**22 + 1, os.getppid()))
    other = tmp_path / f".c.csv.{2**22 + 1}.part"
    for path in (killed, alive, other):
        path.touch()
    write_text(tmp_path / "[a] b.csv", "text")
    assert {*tmp_path.iterdir()} == {tmp_path / "[a] b.csv", alive, other}
