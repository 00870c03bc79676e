"""Shared by the benchmarks: alternating timings, memory of this process, a peer's file."""

import importlib.util
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import torch

STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def machine() -> str:
    """Processor, cores, threads and torch version, for the first line of a result."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    model = next((x.partition(":")[2].strip() for x in lines if x.startswith("model name")), "CPU")
    threads = torch.get_num_threads()
    return f"{model}, {os.cpu_count()} cores, {threads} threads, torch {torch.__version__}"


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
    for line in STATUS.read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) * 1024
    raise SystemExit(f"no {field} in {STATUS}: memory is measured on Linux only.")


def load_module(path: Path) -> ModuleType:
    """One file of a peer; importing its package would need all that it depends on."""
    spec = importlib.util.spec_from_file_location(path.stem.split(".")[0], path)
    if spec is None or spec.loader is None or not path.exists():
        raise SystemExit(f"{path} is missing: is this a checkout of deep-person-reid?")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
