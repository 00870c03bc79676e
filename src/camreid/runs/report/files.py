"""Files of a run folder: what they say, or what is wrong with them."""

import csv
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml

from camreid.errors import InputError
from camreid.runs.comparing.forms import Form, FormError, having, many

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
        what = str(error) if isinstance(error, FormError) else type(error).__name__
        raise InputError(
            f"{path} ({path.stat().st_size} bytes) can't be read ({what}): it is "
            "cut short, or not what a run writes. Put it right, or move it away to report on the "
            "rest."
        ) from error


def metrics_parts(folder: Path) -> list[Path]:
    """The metrics that a continued run has put aside, `metrics.0.csv` and on, in that order."""
    parts = [p for p in folder.glob("metrics.*.csv") if p.suffixes[0][1:].isdigit()]
    return sorted(parts, key=lambda p: int(p.suffixes[0][1:]))


class Trying:
    """Reads what can be read, and keeps what is wrong with the rest.

    Attributes:
        broken: one paragraph for each file that could not be read.
    """

    def __init__(self) -> None:
        self.broken: tuple[str, ...] = ()

    def __call__(self, read: Callable[[], T]) -> T | None:
        """What is read, None where it is broken."""
        try:
            return read()
        except InputError as error:
            self.broken += (str(error),)
            return None


def require_something(folders: Sequence[tuple[bool, Sequence[str]]]) -> None:
    """Refuse folders of which nothing is left to be shown.

    Args:
        folders: of each, whether there is something, and what is wrong.

    Raises:
        InputError: there is nothing in all of them, for broken files.
    """
    broken = [text for _, texts in folders for text in texts]
    if broken and not any(something for something, _ in folders):
        raise InputError(" ".join(broken))


def json_of(form: Form) -> Callable[[str], dict[str, Any]]:
    """Reads JSON of this form."""

    def parse(text: str) -> dict[str, Any]:
        content: dict[str, Any] = json.loads(text)
        form(content, "")
        return content

    return parse


def read_config(folder: Path) -> str:
    """The resolved config as text, empty where there is none.

    Raises:
        InputError: it can't be read as options.
    """
    return read_file(folder / "config.yaml", _config) or ""


def _config(text: str) -> str:
    having({})(yaml.safe_load(text) or {}, "the config")
    return text


def options_in(config: str) -> Mapping[str, Any]:
    """The options of a config, none where they can't be read."""
    try:
        parsed = yaml.safe_load(config)
    except (ValueError, yaml.YAMLError):
        return {}
    return parsed if isinstance(parsed, dict) else {}


def read_overrides(folder: Path) -> tuple[str, ...]:
    """What was typed for a run, empty where it is not known.

    Raises:
        InputError: the file is broken.
    """
    return read_file(folder / ".hydra" / "overrides.yaml", _overrides) or ()


def _overrides(text: str) -> tuple[str, ...]:
    typed = yaml.safe_load(text) or []
    many(lambda value, where: None)(typed, "")
    return tuple(map(str, typed))


def job_name(folder: Path, default: str) -> str:
    """The command that a run is of.

    Raises:
        InputError: the file is broken.
    """
    return read_file(folder / ".hydra" / "hydra.yaml", _job) or default


def _job(text: str) -> str:
    content = yaml.safe_load(text) or {}
    job = having({}, {"name": lambda value, where: None})
    having({}, {"hydra": having({}, {"job": job})})(content, "")
    return str(((content.get("hydra") or {}).get("job") or {}).get("name") or "")
