"""Command, commit and versions of a run."""

import subprocess
import sys
from datetime import datetime
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from camreid.provenance import versions


def notes(config: DictConfig) -> dict[str, Any]:
    """For every checkpoint: config as text, command, commit."""
    return {"config": OmegaConf.to_yaml(config, resolve=True), **_source()}


def origin() -> dict[str, Any]:
    """For a file of numbers: command, date, commit, versions."""
    date = datetime.now().astimezone().isoformat(" ", "minutes")
    return {**_source(), "date": date, "versions": versions()}


def _source() -> dict[str, Any]:
    command = " ".join([Path(sys.argv[0]).name, *sys.argv[1:]])
    return {"command": command, "commit": _commit()}


def _commit() -> str | None:
    """The commit of camreid, if it runs from a repository that holds it."""
    here = Path(__file__)
    git = ("git", "-C", here.parent)
    try:
        known = subprocess.run([*git, "ls-files", here.name], capture_output=True).stdout
        head = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True).stdout
    except FileNotFoundError:
        return None
    return head.strip() or None if known else None
