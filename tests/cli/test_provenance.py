"""The origin of numbers and checkpoints."""

import subprocess
from pathlib import Path

import pytest

from camreid import provenance


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
