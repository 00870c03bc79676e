"""Command, commit and versions of a run, and its metrics in one file."""

import csv
import io
import subprocess
import sys
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from pytorch_lightning.utilities import rank_zero_only

from camreid.files import write_text
from camreid.versions import versions


def notes(config: DictConfig) -> dict[str, Any]:
    """For every checkpoint: config as text, command, commit."""
    return {
        "config": OmegaConf.to_yaml(config, resolve=True),
        "command": " ".join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        "commit": _commit(),
    }


def origin(config: DictConfig) -> dict[str, Any]:
    """For a file of numbers: command, commit, versions."""
    kept = notes(config)
    return {"command": kept["command"], "commit": kept["commit"], "versions": versions()}


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


@rank_zero_only
def set_metrics_aside(folder: Path) -> None:
    """Keep the metrics of a resumed run: the logger starts its file anew."""
    join_metrics(folder)
    if (folder / "metrics.csv").is_file():
        (folder / "metrics.csv").rename(folder / "metrics.0.csv")


@rank_zero_only
def join_metrics(folder: Path) -> None:
    """Put the metrics of a resumed run in front of the new ones."""
    before, after = folder / "metrics.0.csv", folder / "metrics.csv"
    if not before.is_file() or not after.is_file():
        return
    lines = [n for p in (before, after) for n in csv.DictReader(p.read_text().splitlines())]
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, sorted({name for line in lines for name in line}))
    writer.writeheader()
    writer.writerows(lines)
    write_text(after, text.getvalue())
    before.unlink()
