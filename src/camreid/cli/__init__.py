"""The commands. Only this package imports Hydra."""

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

undo: list[Callable[[], None]] = []  # what Ctrl-C does first while a command is imported


def _leave(*_: object) -> None:
    """End at once: an exception would break imports of C modules."""
    for step in undo:
        step()
    os.write(2, f"{Path(sys.argv[0]).name}: interrupted.\n".encode())
    os._exit(130)


def is_imported() -> None:
    """Let Ctrl-C raise KeyboardInterrupt from here."""
    if signal.getsignal(signal.SIGINT) is _leave:
        signal.signal(signal.SIGINT, signal.default_int_handler)


_is_default = signal.getsignal(signal.SIGINT) is signal.default_int_handler
if _is_default and Path(sys.argv[0]).name.startswith("camreid-"):
    signal.signal(signal.SIGINT, _leave)
