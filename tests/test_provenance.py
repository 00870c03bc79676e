"""Splits in words, and the origin of numbers and checkpoints."""

import subprocess
from pathlib import Path

import pytest

from camreid import provenance
from camreid.data import OriginalSplit, Records, Resplit
from camreid.provenance import SplitRecord


@pytest.mark.parametrize(
    ("strategy", "words"),
    [
        (OriginalSplit(camera=3), "original split, camera 3, seed 0"),
        (Resplit(), "re-split, half of the identities, 10 % held out for validation, seed 0"),
        (
            Resplit(0.3, 0.0, 2, by="image"),
            "re-split, 30 % of the images of each identity, seed 2, by image",
        ),
        (
            Resplit(pool="train"),
            "re-split, half of the identities, 10 % held out for validation, seed 0, pool train",
        ),
    ],
)
def test_a_strategy_is_described_in_words(
    strategy: OriginalSplit | Resplit, words: str, records: Records
) -> None:
    split = strategy(records)
    assert str(split.record) == f"{words}, digest {split.digest}"


def test_options_of_a_foreign_file_are_text() -> None:
    record = SplitRecord.from_json(
        {"kind": "custom", "options": {"{x}": "{y}", "train_fraction": "a"}, "digest": None}
    )
    assert str(record) == "custom, {x} {y}, a of the identities"


def test_the_commit_is_that_of_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def git(*command: str) -> str:
        identity = ("-c", "user.name=a", "-c", "user.email=a@example.org")
        command = ("git", "-C", str(tmp_path), *identity, *command)
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    git("init", "-q")
    for name in ("module.py", "site.py"):
        (tmp_path / name).touch()
    git("add", "module.py")
    git("commit", "-qm", "first")
    # site.py is installed below a project that does not track it
    for name, commit in (("module.py", git("rev-parse", "HEAD")), ("site.py", None)):
        monkeypatch.setattr(provenance, "__file__", str(tmp_path / name))
        assert provenance.source()["commit"] == commit
