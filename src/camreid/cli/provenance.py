"""Command, commit and versions of a run, and its metrics in one file."""

import csv
import io
import shutil
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
    if shutil.which("git") is None:
        return None
    here = Path(__file__)
    known = _git(here.parent, "ls-files", here.name)
    return _git(here.parent, "rev-parse", "HEAD") if known else None


def _git(folder: Path, *command: str) -> str | None:
    found = subprocess.run(
        ["git", "-C", str(folder), *command], capture_output=True, text=True, check=False
    )
    return found.stdout.strip() or None


@rank_zero_only
def keep_metrics(folder: Path) -> None:
    """Keep the metrics of a resumed run: the logger starts its file anew."""
    path = folder / "metrics.csv"
    if path.is_file():
        path.rename(folder / f"metrics.{max(map(_number, _parts(folder)), default=-1) + 1}.csv")


@rank_zero_only
def join_metrics(folder: Path) -> None:
    """One `metrics.csv` of the parts of a resumed run."""
    parts = _parts(folder)
    if not parts:
        return
    lines: list[dict[str, str]] = []
    for path in (*parts, *folder.glob("metrics.csv")):
        with path.open(newline="", encoding="utf-8") as file:
            lines += csv.DictReader(file)
    columns = sorted({name for line in lines for name in line})
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, columns, restval="")
    writer.writeheader()
    writer.writerows(lines)
    write_text(folder / "metrics.csv", text.getvalue())
    for part in parts:
        part.unlink()


def _parts(folder: Path) -> list[Path]:
    numbered = (p for p in folder.glob("metrics.*.csv") if p.name.split(".")[1].isdecimal())
    return sorted(numbered, key=_number)


def _number(path: Path) -> int:
    return int(path.name.split(".")[1])
