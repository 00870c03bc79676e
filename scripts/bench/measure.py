"""Shared by the benchmarks: alternating timings, memory of this process, and their result.

A result is one JSON file: `{name, hardware, versions, load, n, rounds, rows}`. `n` is the size of
the work as text. `load` is the load average before the benchmark. A row is `{what, value, unit,
ratio}`; its ratio is to the row that the benchmark compares with, or null. Where each `what` is
`LINE | COLUMN`, the table has these lines and columns.
"""

import json
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
LOAD = os.getloadavg()[0]


def machine() -> str:
    """Processor, cores, threads, and the GPU if there is one."""
    import torch

    info = Path("/proc/cpuinfo").read_text().partition("model name\t: ")[2].partition("\n")[0]
    gpu = f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ""
    return f"{info}, {os.cpu_count()} cores, {torch.get_num_threads()} threads{gpu}"


def row(what: str, value: float, unit: str, base: float | None = None) -> dict[str, Any]:
    """A row of a result, with its ratio to the value of another row."""
    ratio = None if base is None else round(value / base, 3)
    return {"what": what, "value": float(f"{value:.4g}"), "unit": unit, "ratio": ratio}


def report(
    name: str, rows: list[dict[str, Any]], n: str, rounds: int, path: Path | None = None
) -> None:
    """Print the table of a result, and write its JSON where `path` names a file."""
    from camreid.provenance import versions

    head = {"name": name, "hardware": machine(), "versions": versions(), "load": round(LOAD, 2)}
    result = {**head, "n": n, "rounds": rounds, "rows": rows}
    print(table(result))
    if path is not None:
        path.write_text(json.dumps(result, indent=1) + "\n")


def table(result: dict[str, Any]) -> str:
    """A result as Markdown: its table, then hardware, versions, load and n."""
    if all(" | " in line["what"] for line in result["rows"]):
        lines = crossed(result["rows"])
    else:
        lines = ["| | value | unit | ratio |", "|---|---|---|---|"]
        for line in result["rows"]:
            ratio = "" if line["ratio"] is None else f"{line['ratio']:.2f}"
            lines.append(f"| {line['what']} | {line['value']:,.6g} | {line['unit']} | {ratio} |")
    used = ", ".join(f"{package} {version}" for package, version in result["versions"].items())
    about = f"{result['n']}. Median of {result['rounds']} rounds. {result['hardware']}. Load at the"
    return "\n".join([*lines, "", f"{about} start: {result['load']}. {used}.", ""])


def crossed(rows: list[dict[str, Any]]) -> list[str]:
    """A Markdown table of rows with `LINE | COLUMN`; a unit stands in the head of its column."""
    cells: dict[str, dict[str, float]] = {}
    for row in rows:
        name, _, column = row["what"].partition(" | ")
        cells.setdefault(name, {})[f"{column} ({row['unit']})"] = row["value"]
    columns = list(dict.fromkeys(column for own in cells.values() for column in own))
    lines = [f"| | {' | '.join(columns)} |", "|---" * (1 + len(columns)) + "|"]
    for name, own in cells.items():
        values = (f"{own[column]:,.6g}" if column in own else "" for column in columns)
        lines.append(f"| {name} | {' | '.join(values)} |")
    return lines


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
