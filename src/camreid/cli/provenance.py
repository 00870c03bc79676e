"""Command, commit and versions of a run."""

import subprocess
import sys
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from camreid.provenance import versions


def notes(config: DictConfig) -> dict[str, Any]:
    """For every checkpoint: config as text, command, commit."""
    return {"config": OmegaConf.to_yaml(config, resolve=True), **_source()}


def origin() -> dict[str, Any]:
    """For a file of numbers: command, commit, versions."""
    return {**_source(), "versions": versions()}


def _source() -> dict[str, Any]:
    command = " ".join([Path(sys.argv[0]).name, *sys.argv[1:]])
    return {"command": command, "commit": _commit()}


def _commit() -> str | None:
    """The commit of camreid, if it runs from a repository that holds it."""
    here = Path(__file__)
    known = _git(here.parent, "ls-files", here.name)
    return _git(here.parent, "rev-parse", "HEAD") if known else None


def _git(folder: Path, *command: str) -> str | None:
    try:
        found = subprocess.run(["git", "-C", folder, *command], capture_output=True, text=True)
    except FileNotFoundError:
        return None
    return found.stdout.strip() or None
