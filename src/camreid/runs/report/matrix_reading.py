"""A folder of camreid-matrix as data: what is there, and how to get what is not."""

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from camreid.errors import InputError
from camreid.runs.comparing.contents import MATRIX
from camreid.runs.comparing.forms import FormError
from camreid.runs.report.files import (
    Trying,
    feature_files,
    job_name,
    json_of,
    options_in,
    read_config,
    read_file,
    read_overrides,
    require_run,
)


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
        broken: what is wrong with files that can't be read, a paragraph each.
    """

    path: Path
    content: dict[str, Any] | None
    features: Mapping[str, Path]
    config: str
    command: str
    missing: tuple[str, ...]
    broken: tuple[str, ...] = ()

    @property
    def has_something(self) -> bool:
        """Whether there is anything to be shown but notes."""
        return any((self.content, self.features, self.config))

    @property
    def evaluation(self) -> Mapping[str, Any]:
        """How the command ranks; empty where it is not known."""
        found = (self.content or options_in(self.config)).get("evaluation")
        return found if isinstance(found, dict) else {}


def is_matrix(path: Path) -> bool:
    """Whether camreid-matrix has written a folder, finished or not."""
    if (path / "matrix.json").is_file():
        return True
    if (path / "metrics.json").is_file():
        return False
    try:
        config = options_in(read_config(path))
    except InputError:  # told when the folder is read
        config = {}
    return {"experts", "combine"} <= config.keys() or bool(feature_files(path))


def read_matrix(path: Path) -> MatrixFolder:
    """Read a matrix folder, whether it is finished or not; features are left in their files.

    Raises:
        InputError: the folder is not that of a run.
    """
    require_run(path)
    tried = Trying()
    content = tried(lambda: read_file(path / "matrix.json", _content))
    overrides = tried(lambda: read_overrides(path)) or ()
    job = tried(lambda: job_name(path, "camreid-matrix"))
    command = shlex.join([job, *overrides]) if job and overrides else ""
    features = feature_files(path)
    missing = _unfinished(path, command, features) if content is None else _without(content, path)
    return MatrixFolder(
        path=path,
        content=content,
        features=features,
        config=tried(lambda: read_config(path)) or "",
        command=command,
        missing=missing,
        broken=tried.broken,
    )


def _content(text: str) -> dict[str, Any]:
    """`matrix.json`, whose rows all have numbers."""
    content = json_of(MATRIX)(text)
    if not content["experts"]:
        raise FormError("experts is empty")
    return content


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
    if (path / "matrix.json").is_file():
        return (f"Without what matrix.json says, {shown}.",)
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
