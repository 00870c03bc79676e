"""What camreid-compare does, step by step."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path

from camreid.cli.terminal import be_quiet, say
from camreid.errors import InputError
from camreid.runs.comparing import Comparison, compare_runs, grids, markdown, rich_table


def compare_run(folders: Sequence[str], outputs: Sequence[str]) -> None:
    """Print the comparison and write it.

    Raises:
        InputError: what was typed is wrong, or a run lacks numbers; the rest is shown first.
    """
    be_quiet()
    for path in outputs:
        _require_output(path, folders)
    comparison = compare_runs(folders)
    say(*map(rich_table, grids(comparison)))
    say("What this does not show", *(f"  {text}" for text in comparison.caveats), "")
    say(*comparison.verdicts)
    for path in outputs:
        _write(comparison, Path(path))
    if comparison.lacks:
        raise InputError(comparison.lacks)


def _as_json(comparison: Comparison) -> str:
    return json.dumps(comparison.summary(), indent=1, default=str) + "\n"


FORMATS: dict[str, Callable[[Comparison], str]] = {".json": _as_json, ".md": markdown}


def _require_output(path: str, folders: Sequence[str]) -> None:
    """Refuse a file of another kind, and to write over what a run has left."""
    if Path(path).suffix not in FORMATS:
        raise InputError(
            f"-o {path}: expected a .json or .md file, such as -o compare.md; give the option "
            "twice for both."
        )
    if Path(path).is_file() and any(
        Path(f).resolve() in Path(path).resolve().parents for f in folders
    ):
        raise InputError(
            f"-o {path} is a file of a run that is compared, and would be lost. Type another name."
        )


def _write(comparison: Comparison, path: Path) -> None:
    text = FORMATS[path.suffix](comparison)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise InputError(
            f"-o {path} can't be written ({error.strerror}). Type a file in a folder that can be."
        ) from error
    say(f"Written to {path}")
