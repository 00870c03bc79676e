"""Where a run comes from, and its metrics in one file."""

import csv
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning.utilities import rank_zero_only

from camreid.runs.report.files import metrics_parts
from camreid.versions import versions


def notes(config: DictConfig) -> dict[str, Any]:
    """For every checkpoint: config as text, command, commit."""
    typed = HydraConfig.get().overrides.task
    return {
        "config": OmegaConf.to_yaml(config, resolve=True),
        "command": " ".join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        "commit": _commit(),
        "split_overrides": " ".join(a for a in typed if a.lstrip("+").startswith("split")),
    }


def origin(config: DictConfig) -> dict[str, Any]:
    """For a file of numbers: command, commit, versions."""
    kept = notes(config)
    return {"command": kept["command"], "commit": kept["commit"], "versions": versions()}


def _commit() -> str | None:
    """The commit of the folder that the command runs in, if it is a repository."""
    if shutil.which("git") is None:
        return None
    command = ["git", "rev-parse", "HEAD"]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    return found.stdout.strip() or None


@rank_zero_only
def keep_metrics(folder: Path) -> None:
    """Put the metrics of a run that is continued aside: the logger starts its file anew."""
    path = folder / "metrics.csv"
    if path.is_file():
        path.rename(folder / f"metrics.{len(list(folder.glob('metrics.*.csv')))}.csv")


@rank_zero_only
def join_metrics(folder: Path) -> None:
    """One `metrics.csv` of what was kept aside and what the logger wrote since."""
    parts = metrics_parts(folder)
    paths = [*parts, *folder.glob("metrics.csv")]
    if not parts:
        return
    lines: list[dict[str, str]] = []
    for path in paths:
        with path.open(newline="", encoding="utf-8") as file:
            lines += csv.DictReader(file)
    columns = sorted({name for line in lines for name in line})
    draft = folder / "metrics.part"
    with draft.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns, restval="")
        writer.writeheader()
        writer.writerows(lines)
    draft.replace(folder / "metrics.csv")
    for part in parts:
        part.unlink()
