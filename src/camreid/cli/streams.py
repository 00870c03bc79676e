"""The output of a command, where it is closed, full, or of an encoding without some characters."""

import io
import os
import signal
import sys
from typing import Any

lost: list[OSError] = []  # why standard output was not written


class _Output(io.FileIO):
    """Writes to the null device once its file cannot be written: a run goes on."""

    def write(self, data: Any) -> int:
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
            output, encoding = (
                _Output(number, "w", closefd=False),
                getattr(stream, "encoding", None),
            )
            by_line, whole = number == 2 or output.isatty(), io.BufferedWriter(output)
            text = io.TextIOWrapper(whole, encoding, "backslashreplace", line_buffering=by_line)
            setattr(sys, name, text)


def close_streams(name: str) -> None:
    """Write what is left; SystemExit where standard output was lost."""
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    error, lost[:] = lost[:1], []
    if error and isinstance(error[0], BrokenPipeError):
        raise SystemExit(128 + signal.SIGPIPE)
    if error:
        print(f"{name}: standard output cannot be written: {error[0].strerror}.", file=sys.stderr)
        raise SystemExit(1)
