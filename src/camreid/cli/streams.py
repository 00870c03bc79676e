"""The output of a command, where it is closed, full, or of an encoding without some characters."""

import io
import os
import signal
import sys
from typing import Any

lost: list[OSError] = []  # why standard output was not written


class _Output(io.FileIO):
    def write(self, data: Any) -> int:
        """Write, from the first failure on to nowhere: a run goes on."""
        try:
            return super().write(data)
        except OSError as error:
            lost.extend([error] * (self.fileno() == 1))
            os.dup2(os.open(os.devnull, os.O_WRONLY), self.fileno())
            return len(data)


def open_streams() -> None:
    """Replace the streams of this process, unless a test or notebook has; open closed ones."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        stream = getattr(sys, name)
        if stream is None:  # else the next file that is opened would get its number
            os.dup2(os.open(os.devnull, os.O_RDWR), number)
        if number and stream is getattr(sys, f"__{name}__"):
            file = io.BufferedWriter(_Output(number, "w", closefd=False))
            by_line, encoding = number == 2 or file.isatty(), stream and stream.encoding
            text = io.TextIOWrapper(file, encoding, "backslashreplace", line_buffering=by_line)
            setattr(sys, name, text)


def close_streams(name: str) -> None:
    """Write what is left; SystemExit where standard output was lost."""
    print(end="", flush=True)
    if lost:
        if isinstance(error := lost.pop(), BrokenPipeError):
            raise SystemExit(128 + signal.SIGPIPE)
        print(f"{name}: standard output cannot be written: {error.strerror}.", file=sys.stderr)
        raise SystemExit(1)
