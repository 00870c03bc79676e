"""Files of a run folder: what they say, or what is wrong with them."""

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import yaml

from camreid.errors import InputError

T = TypeVar("T")
# any of these makes a folder a run
_MARKS = (
    "config.yaml",
    "metrics.json",
    "matrix.json",
    "metrics.csv",
    "features.safetensors",
    "head_check.json",
)


def require_run(path: Path) -> None:
    """Refuse what is no folder of a run.

    Raises:
        InputError: it is not there, is a file, or holds nothing that a run writes.
    """
    if not path.is_dir():
        found = "is a file" if path.exists() else "is not there"
        raise InputError(f"{path} {found}; type the folder of a run, such as runs/RUN.")
    if any((path / mark).exists() for mark in (*_MARKS, "checkpoints")) or feature_files(path):
        return
    inside = sorted(p.name for p in path.iterdir() if any((p / mark).exists() for mark in _MARKS))
    if inside:
        typed = " ".join(str(path / name) for name in inside[:6])
        raise InputError(f"{path} is no run, but holds {len(inside)} of them; type {typed}.")
    raise InputError(
        f"{path} is no run: none of {', '.join(_MARKS)} is in it. Type the folder that "
        "camreid-train, camreid-evaluate or camreid-matrix wrote to, such as runs/RUN."
    )


def feature_files(path: Path) -> dict[str, Path]:
    """The features that camreid-matrix has kept, by the name of their row."""
    return {p.stem: p for p in sorted((path / "features").glob("*.safetensors"))}


def read_file(path: Path, parse: Callable[[str], T]) -> T | None:
    """What a file says, None where there is none.

    Raises:
        InputError: it can't be read or parsed.
    """
    if not path.is_file():
        return None
    try:
        return parse(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError, csv.Error) as error:
        raise InputError(
            f"{path} ({path.stat().st_size} bytes) can't be read ({type(error).__name__}): it is "
            "cut short, or not what a run writes. Put it right, or move it away to report on the "
            "rest."
        ) from error


def object_with(*keys: str) -> Callable[[str], dict[str, Any]]:
    """Reads JSON objects that have these keys."""

    def parse(text: str) -> dict[str, Any]:
        content = json.loads(text)
        if not isinstance(content, dict) or not set(keys) <= content.keys():
            raise ValueError(f"expected {', '.join(keys)}")
        return content

    return parse


def read_overrides(folder: Path) -> tuple[str, ...]:
    """What was typed for a run, empty where it is not known."""
    return read_file(folder / ".hydra" / "overrides.yaml", _overrides) or ()


def _overrides(text: str) -> tuple[str, ...]:
    return tuple(map(str, yaml.safe_load(text) or ()))


def job_name(folder: Path, default: str) -> str:
    """The command that a run is of."""
    hydra = read_file(folder / ".hydra" / "hydra.yaml", yaml.safe_load) or {}
    return str(hydra.get("hydra", {}).get("job", {}).get("name", default))
