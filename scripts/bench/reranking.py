"""Re-ranking at Market-1501 size: camreid beside torchreid, in one run.

Claim: `camreid.evaluation.rerank` from features gives what torchreid's `re_ranking` gives from
their distances, to 1e-5, at least 10 times faster and in at most a fifth of its memory above the
inputs; it takes little more than the matrix products that it needs. Each side runs in a process of
its own, in turn; times are medians.

    python scripts/bench/reranking.py [--torchreid CHECKOUT] [--queries 3368] [--gallery 15913]

CHECKOUT is a clone of github.com/KaiyangZhou/deep-person-reid; without it, only camreid is timed.
On a machine that others use too, `--threads 1` is faster: threads then wait for each other at each
step. torchreid's function has one thread in any case.
The features are synthetic: groups around a common centre, and distractors that belong to none.
Memory is the process's largest resident set over the one before the call (Linux).
"""

import argparse
import importlib.util
import json
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from memory import held_by

from camreid.evaluation import rerank

INPUTS = ("query_gallery", "query_query", "gallery_gallery")


def main() -> None:
    options = parse()
    torch.set_num_threads(options.threads)
    if options.side:
        return measure(options)
    with tempfile.TemporaryDirectory() as folder:
        write_inputs(options, Path(folder))
        sides = ["product", "features"] + ["torchreid"] * bool(options.torchreid)
        found: dict[str, list[dict[str, float]]] = {side: [] for side in sides}
        for repeat in range(options.repeats):
            for side in sides:
                if side != "torchreid" or repeat < options.torchreid_repeats:
                    found[side].append(in_own_process(side, folder))
        report(options, found, Path(folder))
    return None


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--torchreid", help="a checkout of deep-person-reid")
    parser.add_argument("--queries", type=int, default=3368)
    parser.add_argument("--gallery", type=int, default=15913)
    parser.add_argument("--dim", type=int, default=2048)
    parser.add_argument("--identities", type=int, default=750)
    parser.add_argument("--distractors", type=float, default=0.17, help="share of the gallery")
    parser.add_argument("--spread", type=float, default=1.0, help="of a group, over all groups'")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--torchreid-repeats", type=int, default=1)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--side", help=argparse.SUPPRESS)
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    return parser.parse_args()


def write_inputs(options: argparse.Namespace, folder: Path) -> None:
    """Features, and plain euclidean distances of unit features, as .npy files."""
    generator = torch.Generator().manual_seed(0)
    centres = torch.randn(options.identities, options.dim, generator=generator)
    features = {}
    for name, count in (("query", options.queries), ("gallery", options.gallery)):
        group = torch.randint(0, options.identities, (count,), generator=generator)
        noise = torch.randn(count, options.dim, generator=generator)
        alone = torch.rand(count, 1, generator=generator) < options.distractors
        belongs = centres[group] * ~(alone & (name == "gallery"))
        features[name] = torch.nn.functional.normalize(belongs + options.spread * noise, dim=1)
        np.save(folder / f"{name}.npy", features[name].numpy())
    for name in INPUTS:
        first, second = (features[part] for part in name.split("_"))
        squares = (2 - 2 * first @ second.T).clamp_(min=0)
        if name != "query_gallery":
            squares.fill_diagonal_(0)
        np.save(folder / f"{name}.npy", squares.sqrt_().numpy())
        del squares


def in_own_process(side: str, folder: str) -> dict[str, float]:
    """Seconds, processor seconds and GB of one call; the result is left in the folder."""
    command = [sys.executable, __file__, *sys.argv[1:], "--side", side, "--folder", folder]
    run = subprocess.run(command, check=True, capture_output=True, text=True)
    answer: dict[str, float] = json.loads(run.stdout.splitlines()[-1])
    return answer


def measure(options: argparse.Namespace) -> None:
    folder = Path(options.folder)
    if options.side == "torchreid":
        peer = torchreid_function(Path(options.torchreid))
        matrices = [np.load(folder / f"{name}.npy") for name in INPUTS]
        measured, result = timed(lambda: peer(*matrices))
    else:
        query, gallery = (
            torch.from_numpy(np.load(folder / f"{name}.npy")) for name in ("query", "gallery")
        )
        if options.side == "features":
            measured, result = timed(lambda: rerank(query, gallery).numpy())
        else:
            measured, result = timed(lambda: upper_triangle(query, gallery))
    np.save(folder / f"{options.side}-result.npy", result)
    print(json.dumps(measured))


def upper_triangle(query: torch.Tensor, gallery: torch.Tensor, size: int = 1024) -> np.ndarray:
    """Products of all pairs, each once: what no exact re-ranking of features can do without."""
    features = torch.cat([query, gallery])
    for start in range(0, len(features), size):
        features[start : start + size] @ features[start:].T
    return np.zeros(0)


def torchreid_function(checkout: Path) -> Callable[..., np.ndarray]:
    """The file by itself: importing the package would need all that it depends on."""
    spec = importlib.util.spec_from_file_location("peer", checkout / "torchreid/utils/rerank.py")
    if spec is None or spec.loader is None:
        raise SystemExit(f"{checkout} is no checkout of deep-person-reid.")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    function: Callable[..., np.ndarray] = module.re_ranking
    return function


def timed(call: Callable[[], np.ndarray]) -> tuple[dict[str, float], np.ndarray]:
    """Seconds, processor seconds, GB above what was resident before; and the result."""
    start, work = time.perf_counter(), time.process_time()
    memory, result = held_by(call)
    seconds, work = time.perf_counter() - start, time.process_time() - work
    return {"seconds": seconds, "work": work, "GB": memory / 1e9}, result


def report(
    options: argparse.Namespace, found: dict[str, list[dict[str, float]]], folder: Path
) -> None:
    print(f"{processor()}, {torch.get_num_threads()} threads, torch {torch.__version__}")
    print(f"{options.queries} x {options.gallery} x {options.dim}, k1=20, k2=6, lambda=0.3")
    names = {
        "product": "products of all pairs, alone",
        "features": "camreid, from features",
        "torchreid": "torchreid, from distances",
    }
    print("| | median | all runs, s | processor, s | GB above inputs |\n|---|---|---|---|---|")
    for side, runs in found.items():
        seconds = [run["seconds"] for run in runs]
        each = " ".join(f"{s:.1f}" for s in seconds)
        memory = max(run["GB"] for run in runs)
        work = statistics.median(run["work"] for run in runs)
        median = statistics.median(seconds)
        print(f"| {names[side]} | {median:.2f} s | {each} | {work:.1f} | {memory:.2f} |")
    compare(found, folder)


def compare(found: dict[str, list[dict[str, float]]], folder: Path) -> None:
    if "torchreid" in found:
        ours, theirs = (
            np.load(folder / f"{side}-result.npy") for side in ("features", "torchreid")
        )
        apart = np.abs(ours - theirs)
        print(f"at most {apart.max():.1e} apart, ", end="")
        print(f"{np.count_nonzero(apart > 1e-5)} of {apart.size} by more than 1e-5")
        seconds, work, memory = (
            statistics.median(run[key] for run in found["torchreid"])
            / statistics.median(run[key] for run in found["features"])
            for key in ("seconds", "work", "GB")
        )
        print(f"torchreid takes {seconds:.1f} times as long, {work:.1f} times the processor time")
        print(f"(which says more where other programs run too) and {memory:.1f} times the memory")


def processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor()


if __name__ == "__main__":
    main()
