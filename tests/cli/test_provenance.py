"""The origin of numbers and checkpoints."""

import subprocess
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from camreid.cli import provenance


def git(folder: Path, *command: str) -> str:
    identity = ("-c", "user.name=a", "-c", "user.email=a@example.org")
    found = subprocess.run(
        ["git", "-C", folder, *identity, *command], capture_output=True, text=True, check=True
    )
    return found.stdout.strip()


def test_the_commit_is_that_of_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commits = {}
    for name in ("package", "project"):
        git(tmp_path, "init", "-q", name)
        (tmp_path / name / "module.py").write_text(name)
        git(tmp_path / name, "add", "module.py")
        git(tmp_path / name, "commit", "-qm", name)
        commits[name] = git(tmp_path / name, "rev-parse", "HEAD")
    monkeypatch.chdir(tmp_path / "project")
    for place, commit in (("package/module.py", commits["package"]), ("project/site.py", None)):
        (tmp_path / place).touch()  # site.py is installed below a project that does not track it
        monkeypatch.setattr(provenance, "__file__", str(tmp_path / place))
        assert provenance.notes(OmegaConf.create({}))["commit"] == commit
