"""Shared by the benchmarks: alternating timings and memory of this process."""

import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch

STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def machine() -> str:
    """Processor, cores, threads and torch version, for the first line of a result."""
    info = Path("/proc/cpuinfo").read_text().partition("model name\t: ")[2].partition("\n")[0]
    threads = torch.get_num_threads()
    return f"{info}, {os.cpu_count()} cores, {threads} threads, torch {torch.__version__}"


def median_times(work: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Median seconds of each call; the calls alternate, and a first round does not count."""
    times: dict[str, list[float]] = {name: [] for name in work}
    for number in range(rounds + 1):
        for name, run in work.items():
            start = time.perf_counter()
            run()
            if number:
                times[name].append(time.perf_counter() - start)
    return {name: statistics.median(seconds) for name, seconds in times.items()}


def memory_of(call: Callable[[], object]) -> int:
    """Bytes that a call holds at most above what is resident before it (Linux)."""
    CLEAR.write_text("5")  # proc(5): the largest resident set restarts at the present one
    before = _resident("VmRSS")
    call()
    return _resident("VmHWM") - before


def _resident(field: str) -> int:
    # not getrusage: its maximum includes the parent's, from before exec
    return int(STATUS.read_text().partition(f"{field}:")[2].split()[0]) * 1024
