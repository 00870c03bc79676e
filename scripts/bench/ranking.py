"""Ranking beside the bare matrix product and torchreid's: time and memory.

Claim (README): on features of Market-1501's size (3,368 queries, 15,913 images, 2,048 float32) the
exact ranking takes at most 1.25 times the product it is made of, is at least twice as fast as
torchreid's product and Cython ranking, and holds less than 400 MB besides the features, also at
MSMT17's size (11,659 x 82,161). Medians of rounds in which all take turns; the hardware, threads
and n are printed.

    python scripts/bench/ranking.py [--size market | msmt17] [--rounds 5] [--found]
                                    [--torchreid CHECKOUT] [--growth]

torchreid's Cython code is built in a temporary copy where Cython and a compiler are installed; its
Python code is measured elsewhere. `--found` gives each person's images much in common, as a trained
network does; random features put matches anywhere.
"""

import argparse
import importlib.util
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import torch
from memory import held_by
from torch import Tensor

from camreid.evaluation import intervals, rank, rank_protocols

# queries, gallery, people, cameras, distractors
SIZES = {"market": (3368, 15913, 750, 6, 2798), "msmt17": (11659, 82161, 3060, 15, 0)}
WIDTH, BLOCK = 2048, 512
Problem = tuple[Tensor, ...]


def problem(size: str, found: bool, share: float = 1.0) -> Problem:
    """Features and labels as `rank` takes them; `share` of the gallery."""
    queries, images, people, cameras, distractors = SIZES[size]
    images, distractors = int(images * share), int(distractors * share)
    torch.manual_seed(0)
    qp = torch.randint(1, people + 1, (queries,))
    gp = torch.randint(1, people + 1, (images,))
    gp[torch.randperm(images)[:distractors]] = 0
    qc, gc = (torch.randint(0, cameras, (n,)) for n in (queries, images))
    q, g = torch.randn(queries, WIDTH), torch.randn(images, WIDTH)
    if found:
        centres = torch.randn(people + 1, WIDTH)
        for features, pids in ((q, qp), (g, gp)):
            for some, whose in zip(features.split(BLOCK), pids.split(BLOCK), strict=True):
                some += 0.35 * centres[whose]
    return q, g, qp, gp, qc, gc


def product(q: Tensor, g: Tensor) -> None:
    out = torch.empty(BLOCK, len(g))
    for block in q.split(BLOCK):
        torch.mm(block, g.T, out=out[: len(block)])


def load(path: Path, name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def torchreid_ranking(checkout: Path, folder: Path) -> tuple[str, Callable[[Problem], float]]:
    """What it is called, and a function that gives torchreid's mAP."""
    metrics = checkout / "torchreid" / "metrics"
    distance = load(metrics / "distance.py", "distance")
    shutil.copy(metrics / "rank_cylib" / "rank_cy.pyx", folder)
    env = {**os.environ, "CFLAGS": f"-O2 -I{np.get_include()}"}
    build = [sys.executable, "-m", "Cython.Build.Cythonize", "-i", "rank_cy.pyx"]
    done = subprocess.run(build, cwd=folder, env=env, capture_output=True, text=True)
    built = sorted(folder.glob("rank_cy*.so"))
    if built:
        name, evaluate = "torchreid, Cython", load(built[0], "rank_cy").evaluate_cy
    else:
        print("no Cython build:", (done.stderr.strip().splitlines() or ["no message"])[-1])
        name, module = "torchreid, Python", load(metrics / "rank.py", "rank")
        evaluate = module.eval_market1501

    def run(p: Problem) -> float:
        distances = distance.compute_distance_matrix(p[0], p[1], "cosine").numpy()
        return float(evaluate(distances, *(column.numpy() for column in p[2:]), 50)[1])

    return name, run


def median_times(work: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Median seconds of each, taking turns, after one round that does not count."""
    times: dict[str, list[float]] = {name: [] for name in work}
    for number in range(rounds + 1):
        for name, run in work.items():
            start = time.perf_counter()
            run()
            if number:
                times[name].append(time.perf_counter() - start)
    return {name: statistics.median(seconds) for name, seconds in times.items()}


def peak_of(size: str) -> float:
    """MB that a ranking holds besides the features, in a process of its own."""
    command = [sys.executable, __file__, "--size", size, "--peak"]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def print_peak(size: str) -> None:
    p = problem(size, found=False)
    torch.mm(torch.ones(BLOCK, BLOCK), torch.ones(BLOCK, BLOCK))  # a library's first use
    print(held_by(lambda: rank(*p))[0] / 1e6)


def print_times(size: str, found: bool, rounds: int, checkout: Path | None) -> None:
    p = problem(size, found)
    result = rank(*p)
    work: dict[str, Callable[[], object]] = {
        "product": lambda: product(p[0], p[1]),
        "rank": lambda: rank(*p),
        "rank_protocols": lambda: rank_protocols(*p),
        "intervals": lambda: intervals(result),
    }
    with tempfile.TemporaryDirectory() as folder:
        if checkout is not None:
            name, theirs = torchreid_ranking(checkout, Path(folder))
            print(f"mAP {result.mAP:.6f}, torchreid's {theirs(p):.6f}")
            work[name] = lambda: theirs(p)
        times = median_times(work, rounds)
    print(f"{'':20s} {'median s':>9s} {'of product':>11s}")
    for name, seconds in times.items():
        print(f"{name:20s} {seconds:9.3f} {seconds / times['product']:11.2f}")


def print_growth(size: str, rounds: int) -> None:
    print("images   rank s   us for each query-image pair")
    for share in (0.25, 0.5, 1.0):
        p = problem(size, found=False, share=share)
        seconds = median_times({"rank": lambda p=p: rank(*p)}, rounds)["rank"]
        print(f"{len(p[1]):6d} {seconds:8.3f}   {1e6 * seconds / len(p[0]) / len(p[1]):.4f}")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--size", choices=SIZES, default="market")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--found", action="store_true")
    parser.add_argument("--torchreid", type=Path)
    parser.add_argument("--growth", action="store_true")
    parser.add_argument("--peak", action="store_true", help="print the peak memory alone")
    options = parser.parse_args()
    if options.peak:
        print_peak(options.size)
        return
    queries, images, *_ = SIZES[options.size]
    print(f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores,")
    print(f"{torch.get_num_threads()} threads, torch {torch.__version__}, {options.rounds} rounds")
    print(f"{queries} x {images} x {WIDTH} float32, {'found' if options.found else 'random'}")
    print(f"rank holds {peak_of(options.size):.0f} MB besides the features")
    print_times(options.size, options.found, options.rounds, options.torchreid)
    if options.growth:
        print_growth(options.size, options.rounds)


if __name__ == "__main__":
    main()
