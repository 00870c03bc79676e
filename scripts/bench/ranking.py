"""Ranking beside the bare matrix product and torchreid's ranking: time and memory.

Claim (README): on features of Market-1501's size (3,368 queries, 15,913 images, 2,048 float32) the
exact ranking takes at most 1.25 times its matrix product, is at least twice as fast as torchreid's
product and Cython ranking, and holds less than 400 MB above the features, also at MSMT17's size
(11,659 x 82,161). Medians of alternating rounds.

    python scripts/bench/ranking.py [--size msmt17] [--torchreid CHECKOUT] [--json FILE]

torchreid's Cython code is built in a temporary copy, which needs Cython and a compiler. Each
identity's features have a common centre, as a trained network gives them.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from runpy import run_path

import numpy as np
import torch
from measure import median_times, memory_of, report, row
from torch import Tensor

from camreid.evaluation import Images, intervals, rank, rank_protocols

# queries, gallery, identities, cameras, distractors
SIZES = {
    "market": (3368, 15913, 750, 6, 2798),
    "msmt17": (11659, 82161, 3060, 15, 0),
}
WIDTH, BLOCK = 2048, 512
Problem = tuple[Tensor, ...]


def problem(size: str) -> Problem:
    """Features and labels as `rank` takes them."""
    queries, images, identities, cameras, distractors = SIZES[size]
    torch.manual_seed(0)
    qp = torch.randint(1, identities + 1, (queries,))
    gp = torch.randint(1, identities + 1, (images,))
    gp[torch.randperm(images)[:distractors]] = 0
    qc, gc = (torch.randint(0, cameras, (n,)) for n in (queries, images))
    q, g = torch.randn(queries, WIDTH), torch.randn(images, WIDTH)
    centres = 0.35 * torch.randn(identities + 1, WIDTH)
    for features, pids in ((q, qp), (g, gp)):
        for block, block_pids in zip(features.split(BLOCK), pids.split(BLOCK), strict=True):
            block += centres[block_pids]
    return q, g, qp, gp, qc, gc


def product(q: Tensor, g: Tensor) -> None:
    out = torch.empty(BLOCK, len(g))
    for block in q.split(BLOCK):
        torch.mm(block, g.T, out=out[: len(block)])


def torchreid_ranking(checkout: Path, folder: Path) -> Callable[[Problem], float]:
    """A function that computes torchreid's mAP by its product and its Cython ranking."""
    metrics = checkout / "torchreid" / "metrics"
    distances_of = run_path(str(metrics / "distance.py"))["compute_distance_matrix"]
    shutil.copy(metrics / "rank_cylib" / "rank_cy.pyx", folder)
    env = {**os.environ, "CFLAGS": f"-O2 -I{np.get_include()}"}
    build = [sys.executable, "-m", "Cython.Build.Cythonize", "-i", "rank_cy.pyx"]
    done = subprocess.run(build, cwd=folder, env=env, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"torchreid's Cython code does not build: {done.stderr[-300:]}")
    sys.path.insert(0, str(folder))
    evaluate = import_module("rank_cy").evaluate_cy

    def run(p: Problem) -> float:
        distances = distances_of(p[0], p[1], "cosine").numpy()
        return float(evaluate(distances, *(column.numpy() for column in p[2:]), 50)[1])

    return run


def times_of(p: Problem, rounds: int, checkout: Path | None) -> dict[str, float]:
    result, parts = rank(*p), (Images(*p[::2]), Images(*p[1::2]))
    work: dict[str, Callable[[], object]] = {
        "matrix product alone": lambda: product(p[0], p[1]),
        "`camreid.rank`: mAP, mINP, CMC": lambda: rank(*p),
        "`rank_protocols`: all protocols": lambda: rank_protocols(*parts),
        "`intervals`: bootstrap": lambda: intervals(result),
    }
    with tempfile.TemporaryDirectory() as folder:
        if checkout is not None:
            theirs = torchreid_ranking(checkout, Path(folder))
            print(f"mAP {result.mAP:.6f}, torchreid's {theirs(p):.6f}")
            work["torchreid: product and Cython ranking"] = lambda: theirs(p)
        return median_times(work, rounds)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--size", choices=SIZES, default="market")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--torchreid", type=Path)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    queries, images, *_ = SIZES[options.size]
    p = problem(options.size)
    rank(*(column[:64] for column in p))  # a library's first use is not the ranking's memory
    memory = memory_of(lambda: rank(*p)) / 1e6
    times = times_of(p, options.rounds, options.torchreid)
    base = times["matrix product alone"]
    rows = [row(name, seconds, "s", base) for name, seconds in times.items()]
    rows.append(row("memory of `camreid.rank` above the features", memory, "MB"))
    n = f"{queries} queries x {images} images x {WIDTH} float32"
    report("ranking", rows, n, options.rounds, options.json)


if __name__ == "__main__":
    main()
