"""A folder of camreid-matrix as data: what is there, and how to get what is not."""

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from camreid.reporting.files import (
    feature_files,
    job_name,
    object_with,
    read_file,
    read_overrides,
    require_run,
)

_KEYS = ("experts", "combinations", "cameras", "best", "differences", "evaluation")


@dataclass(frozen=True)
class MatrixFolder:
    """What a matrix folder holds.

    Attributes:
        path: the folder.
        content: `matrix.json`, None where the command has not come to its end.
        features: files by the name of their row; they are large, and read one at a time.
        config: the resolved config as text, empty where it is not known.
        command: as it was typed, empty where it is not known.
        missing: what is not there, and how to get it, a sentence or two each.
    """

    path: Path
    content: dict[str, Any] | None
    features: Mapping[str, Path]
    config: str
    command: str
    missing: tuple[str, ...]

    @property
    def evaluation(self) -> Mapping[str, Any]:
        """How the command ranks; empty where it is not known."""
        return (self.content or _options(self.config)).get("evaluation") or {}


def is_matrix(path: Path) -> bool:
    """Whether camreid-matrix has written a folder, finished or not."""
    if (path / "matrix.json").is_file():
        return True
    if (path / "metrics.json").is_file():
        return False
    config = _options(read_file(path / "config.yaml", str) or "")
    return {"experts", "combine"} <= config.keys() or bool(feature_files(path))


def read_matrix(path: Path) -> MatrixFolder:
    """Read a matrix folder, whether it is finished or not; features are left in their files.

    Raises:
        InputError: the folder is not that of a run, or one of its files is broken.
    """
    require_run(path)
    content = read_file(path / "matrix.json", _content)
    overrides = read_overrides(path)
    command = shlex.join([job_name(path, "camreid-matrix"), *overrides]) if overrides else ""
    features = feature_files(path)
    missing = _unfinished(path, command, features) if content is None else _without(content, path)
    return MatrixFolder(
        path=path,
        content=content,
        features=features,
        config=read_file(path / "config.yaml", str) or "",
        command=command,
        missing=missing,
    )


def _content(text: str) -> dict[str, Any]:
    """`matrix.json`, whose rows all have numbers."""
    content = object_with(*_KEYS)(text)
    groups = [content.get(key) or {} for key in ("experts", "combinations", "controls")]
    rows = [row for group in groups for row in dict(group).values()]
    needed = {"retrieval", "by_camera"}
    if not content["experts"] or not all(needed <= dict(row).keys() for row in rows):
        raise ValueError(f"expected rows with {', '.join(sorted(needed))}")
    return content


def _options(config: str) -> Mapping[str, Any]:
    try:
        parsed = yaml.safe_load(config)
    except yaml.YAMLError:
        return {}
    return parsed if isinstance(parsed, dict) else {}


def _unfinished(path: Path, command: str, features: Mapping[str, Path]) -> tuple[str, ...]:
    """What can be shown without `matrix.json`, and how to finish."""
    finish = command or "camreid-matrix experts=... +split=..."
    if "run_dir=" not in finish:
        finish += f" run_dir={shlex.quote(str(path))}"
    shown = (
        f"shown are the numbers of {', '.join(features)} alone, ranked from their features"
        if features
        else "there are no features yet, so nothing but its config is shown"
    )
    return (
        f"This matrix is not finished, there is no matrix.json: {shown}. To finish it, type "
        f"{finish}",
    )


def _without(content: Mapping[str, Any], path: Path) -> tuple[str, ...]:
    """Experts whose features are not there."""
    lost = [
        n
        for n, e in content["experts"].items()
        if not (e.get("features") and (path / e["features"]).is_file())
    ]
    if not lost:
        return ()
    return (
        f"There are no features of {', '.join(lost)}, so their CMC curves are known at a few ranks "
        "only, and nothing checks their numbers. To have them, run camreid-matrix again with "
        "evaluation.save_features=true.",
    )
