"""Files that a user names; files of other programs are never replaced."""

from collections.abc import Iterable
from pathlib import Path

from camreid.errors import InputError
from camreid.files import write_text


def require_existing(paths: Iterable[str | Path]) -> None:
    """Refuse runs that are not there."""
    for path in paths:
        if not Path(path).exists():
            raise InputError(f"there is no {path}: expected the folder of a run or a checkpoint.")


def check_output(command: str, path: Path, *suffixes: str) -> None:
    """Refuse a file of another kind, or one that the command did not write."""
    if path.suffix not in suffixes or path.is_dir():
        raise InputError(f"-o {path}: expected a {' or '.join(suffixes)} file.")
    if path.is_file() and command not in path.read_text("utf-8", "replace")[:600]:
        raise InputError(f"-o {path} was not written by {command}: expected another name.")


def write_output(path: Path, text: str) -> None:
    """Write a file whole, and print its path."""
    try:
        write_text(path, text)
    except OSError as error:
        raise InputError(f"-o {path} cannot be written ({error.strerror}).") from error
    print(f"Written to {path}")
