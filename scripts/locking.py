"""One program at a time in a folder, for as long as any process that it has started."""

import fcntl
import os
import sys
from pathlib import Path
from types import TracebackType


class Lock:
    """A lock on a folder that children inherit, so that it outlives a program that was killed.

    Args:
        folder: that is there.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.file = (folder / ".lock").open("a+", encoding="utf-8")

    def __enter__(self) -> "Lock":
        try:
            fcntl.flock(self.file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self.file.seek(0)
            pids = [pid for pid in self.file.read().split() if _is_alive(int(pid))]
            sys.exit(f"{self.folder} is still running (pid {', '.join(pids)}); wait, or end it.")
        self.file.truncate(0)
        self.add(os.getpid())
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.file.close()

    def fileno(self) -> int:
        """What a child must be given to hold the lock, too."""
        return self.file.fileno()

    def add(self, pid: int) -> None:
        """Note a process that holds the lock."""
        self.file.write(f"{pid}\n")
        self.file.flush()


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass  # another user's
    return True
