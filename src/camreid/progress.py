"""Signs of life of long steps, of rank 0 alone: a bar on a terminal, lines elsewhere."""

import logging
import os
import sys
import time
from typing import Any

from tqdm import tqdm

_EVERY = 30.0  # seconds between two lines
_LINE = "{desc}{n_fmt}/{total_fmt} [{elapsed}<{remaining}, {rate_fmt}{postfix}]"
_RANKS = ("RANK", "LOCAL_RANK", "NODE_RANK", "GROUP_RANK", "SLURM_PROCID")


def is_first() -> bool:
    """Whether this is the process of rank 0, by torchrun, Lightning or SLURM."""
    return all(os.environ.get(name, "0") in ("", "0") for name in _RANKS)


def printable(text: str) -> str:
    """A text without codes that control a terminal, as names of files may hold."""
    return "".join(c if c.isprintable() or c in "\n\t" else ascii(c)[1:-1] for c in text)


def note(line: str) -> None:
    """Print a line at once, above the bars, and keep it in the log."""
    if is_first():
        line = printable(line)
        (tqdm.write if sys.stderr.isatty() else print)(line, file=sys.stdout)
        sys.stdout.flush()
        logging.getLogger("camreid").info(line)


class Progress(tqdm):  # type: ignore[type-arg]
    """The items of an iterable, with a bar on a terminal; elsewhere a note every 30 seconds."""

    monitor_interval = 0  # no thread, as loaders fork

    def __init__(self, items: Any, title: str, late: bool = False, **options: Any) -> None:
        self._is_bar = sys.stderr.isatty()
        self._due = time.monotonic() + _EVERY * late  # of the first note
        options |= {"dynamic_ncols": True} if self._is_bar else {"bar_format": _LINE, "miniters": 1}
        title = f"{printable(title)}: "
        super().__init__(items, title, leave=False, disable=not is_first(), **options)

    def display(self, msg: str | None = None, pos: int | None = None) -> Any:
        """Draw the bar, or note the line if it is due."""
        if self._is_bar:
            return super().display(msg, pos)
        if msg is None and time.monotonic() >= self._due:
            self._due = time.monotonic() + _EVERY
            note(str(self))
        return False
