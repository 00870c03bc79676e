"""The commands. Only this package imports Hydra."""

import os
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path

undo: list[Callable[[], None]] = []  # what Ctrl-C does first while a command is imported
stopped: list[int] = []  # the signals that asked to stop


def leave(number: int, frame: object) -> None:
    """End at once: an exception would break imports of C modules."""
    for step in undo:
        step()
    os.write(2, f"{Path(sys.argv[0]).name}: interrupted.\n".encode())
    os._exit(128 + number)


def interrupt(number: int, frame: object) -> None:
    """Stop as Ctrl-C does, and keep the number of the signal for the exit code."""
    stopped.append(number)
    raise KeyboardInterrupt


def handle(handler: Callable[[int, object], None]) -> None:
    """Handle the signals that are not ignored, as SIGHUP is by nohup, or someone else's."""
    known = (signal.default_int_handler, signal.SIG_DFL, leave, interrupt)
    if threading.current_thread() is threading.main_thread():
        for name in ("SIGINT", "SIGTERM", "SIGHUP"):  # Windows has no SIGHUP
            number = getattr(signal, name, signal.SIGINT)
            if signal.getsignal(number) in known:
                signal.signal(number, handler)


if Path(sys.argv[0]).name.startswith("camreid-"):
    handle(leave)
