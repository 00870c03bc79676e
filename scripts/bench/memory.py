"""Memory of this process, on Linux."""

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")
STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def held_by(call: Callable[[], T]) -> tuple[int, T]:
    """Bytes that a call holds at the most above what is resident before it, and what it gives."""
    CLEAR.write_text("5")  # proc(5): the largest resident set is that of now
    before = resident("VmRSS")
    result = call()
    return resident("VmHWM") - before, result


def resident(field: str) -> int:
    """Bytes that the process holds now (VmRSS), or has held at the most (VmHWM)."""
    # not getrusage: its maximum includes the parent's, from before exec
    for line in STATUS.read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) * 1024
    raise SystemExit(f"no {field} in {STATUS}: memory is measured on Linux only.")
