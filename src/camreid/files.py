"""Files that are written whole or not at all, and the folder of the configs."""

import json
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from glob import escape
from itertools import chain, islice
from pathlib import Path
from typing import Any

import yaml
from safetensors import SafetensorError

from camreid.errors import CannotWrite, InputError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

_PACKAGE = Path(__file__).resolve().parent
_MANY = (Mapping, list, tuple)
_LEVELS, _PARTS = 64, 10**7  # a mapping has two levels
# beside the package in a wheel, at the top of a checkout
CONF = next(p for p in (_PACKAGE / "conf", _PACKAGE.parents[1] / "conf") if p.is_dir())


def write_whole(path: str | Path, write: Callable[[Path], object]) -> None:
    """Let `write` fill a temporary file or folder, then rename it; a failure leaves nothing."""
    path = Path(path)
    draft = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        draft.unlink(missing_ok=True)
        draft.touch(exist_ok=False)  # never through a link to another file
        mode = draft.stat().st_mode
        write(draft)
        if draft.is_file() and draft.stat().st_mode != mode:  # safetensors makes its own file
            draft.chmod(mode)
        draft.replace(path)
    except (OSError, RuntimeError, SafetensorError) as error:
        of_torch = re.search("inline_container|StreamWriter|iostream", str(error))
        if isinstance(error, InputError) or (isinstance(error, RuntimeError) and not of_torch):
            raise
        there = os.path.isdir(path.parent)
        free = shutil.disk_usage(path.parent).free if there else 0
        full = "No space left" if free < 2**20 else "a quota, or a limit of file sizes"
        full = full if of_torch else " ".join(str(error).split())[:300]  # torch names its own line
        reason = getattr(error, "strerror", None) or full
        found = f"{free:,} bytes are free). What was there is kept. Free some space"
        found = found if there else "its folder was moved or removed). Make that folder again"
        found = f"{path} can't be written ({reason}; {found}, or name another place."
        raise CannotWrite(found) from error
    finally:
        with suppress(OSError):
            for left in (draft, *path.parent.glob(f".{escape(path.name)}.[0-9]*.part")):
                known, alive = map(os.path.exists, ("/proc/self", f"/proc/{left.suffixes[-2][1:]}"))
                if left == draft or (known and not alive):  # of a killed process
                    shutil.rmtree(left) if left.is_dir() else left.unlink(missing_ok=True)


def lock(folder: str | Path, wait: bool = False) -> int:
    """Lock a folder until `unlock`; -1 if unsupported, BlockingIOError if it is held already."""
    handle = -1 if fcntl is None else os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except (AttributeError, OSError) as error:
        unlock(handle)
        if isinstance(error, BlockingIOError):
            raise
        return -1
    return handle


def unlock(handle: int) -> None:
    """Let go of a folder."""
    with suppress(OSError):
        os.close(handle)


def read_plain(text: Any, read: Callable[[Any], Any] = json.loads) -> Any:
    """The content of JSON, or of YAML with `read`; ValueError as from `parts`."""
    try:
        content, *_ = parts(read(text))
    except (AttributeError, RecursionError, yaml.YAMLError) as error:  # !!timestamp x
        raise ValueError(f"no plain data of at most {_LEVELS} levels: {error}") from error
    return content


def parts(value: object) -> Iterator[object]:
    """A value and all parts of it; ValueError if they are too many or too deep, as by aliases."""
    level = [value]
    for _ in range(_LEVELS):
        yield from level
        held = (v.items() if isinstance(v, Mapping) else v for v in level if isinstance(v, _MANY))
        if not (level := list(islice(chain.from_iterable(held), _PARTS))):
            return
        if len(level) == _PARTS:
            break
    raise ValueError(f"parts nested deeper than {_LEVELS} levels, or {_PARTS:,} of them")


def write_text(path: str | Path, text: str) -> None:
    """Write a UTF-8 text file whole or not at all."""
    write_whole(path, lambda draft: draft.write_text(text, encoding="utf-8"))
