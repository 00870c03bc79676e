"""k-reciprocal re-ranking at Market-1501 size: camreid beside torchreid, in one run.

Claim (docs): `camreid.evaluation.rerank` gives torchreid's `re_ranking` of the same features'
distances to 1e-5, but for neighbours whose order depends on rounding; faster, and in at most a
fifth of its memory above the inputs. Each side runs in its own process, in turn.

    python scripts/bench/reranking.py [--torchreid CHECKOUT] [--gallery 15913] [--json FILE]

CHECKOUT is a clone of github.com/KaiyangZhou/deep-person-reid; without it, only camreid is timed.
The features are synthetic: identities around common centres, and distractors without one. Memory is
the process's largest resident set over the one before the call (Linux).
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from runpy import run_path

import numpy as np
import torch
from measure import memory_of, report, row

from camreid.evaluation import rerank

MATRICES = ("query_gallery", "query_query", "gallery_gallery")
DIM, IDENTITIES, DISTRACTORS = 2048, 750, 0.17


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--torchreid", type=Path, help="a checkout of deep-person-reid")
    parser.add_argument("--queries", type=int, default=3368)
    parser.add_argument("--gallery", type=int, default=15913)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--side", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args()


def write_inputs(queries: int, gallery: int, folder: Path) -> None:
    """Unit features, and their plain euclidean distances for the peer, as .npy files."""
    generator = torch.Generator().manual_seed(0)
    centres = torch.randn(IDENTITIES, DIM, generator=generator)
    features = {}
    for name, count in (("query", queries), ("gallery", gallery)):
        identity = torch.randint(0, IDENTITIES, (count,), generator=generator)
        noise = torch.randn(count, DIM, generator=generator)
        distractor = torch.rand(count, 1, generator=generator) < DISTRACTORS * (name == "gallery")
        features[name] = torch.nn.functional.normalize(centres[identity] * ~distractor + noise)
        np.save(folder / f"{name}.npy", features[name].numpy())
    for name in MATRICES:
        first, second = (features[part] for part in name.split("_"))
        squares = (2 - 2 * first @ second.T).clamp_(min=0)
        if first is second:
            squares.fill_diagonal_(0)
        np.save(folder / f"{name}.npy", squares.sqrt_().numpy())


def products(features: torch.Tensor, block: int = 1024) -> np.ndarray:
    """Products of all pairs, each once: the least that an exact re-ranking needs."""
    for start in range(0, len(features), block):
        features[start : start + block] @ features[start:].T
    return np.zeros(0)


def measure_side(side: str, folder: Path, checkout: Path | None) -> None:
    """Time one side in this process; print seconds and GB, save its distances."""
    inputs = MATRICES if side == "torchreid" else ("query", "gallery")
    arrays = [np.load(folder / f"{name}.npy") for name in inputs]
    if side == "torchreid" and checkout is not None:
        peer = run_path(str(checkout / "torchreid" / "utils" / "rerank.py"))["re_ranking"]
        call = lambda: peer(*arrays)  # noqa: E731
    elif side == "camreid":
        call = lambda: rerank(*map(torch.from_numpy, arrays)).numpy()  # noqa: E731
    else:
        call = lambda: products(torch.from_numpy(np.concatenate(arrays)))  # noqa: E731
    results: list[np.ndarray] = []
    start = time.perf_counter()
    memory = memory_of(lambda: results.append(call()))
    print(json.dumps({"seconds": time.perf_counter() - start, "GB": memory / 1e9}))
    np.save(folder / f"{side}-result.npy", results[0])


def main() -> None:
    options = parse()
    if options.side:
        return measure_side(options.side, options.folder, options.torchreid)
    sides = ["products", "camreid"] + ["torchreid"] * bool(options.torchreid)
    with tempfile.TemporaryDirectory() as folder:
        write_inputs(options.queries, options.gallery, Path(folder))
        runs: dict[str, list[dict[str, float]]] = {side: [] for side in sides}
        for _ in range(options.repeats):
            for side in sides:
                words = [__file__, *sys.argv[1:], "--side", side, "--folder", folder]
                done = subprocess.run([sys.executable, *words], check=True, stdout=subprocess.PIPE)
                runs[side].append(json.loads(done.stdout))
        if "torchreid" in runs:
            ours, theirs = (np.load(f"{folder}/{side}-result.npy") for side in sides[1:])
            apart = np.abs(ours - theirs)
            print(f"largest difference {apart.max():.1e}; above 1e-5: {(apart > 1e-5).mean():.1e}")
    seconds = {side: statistics.median(r["seconds"] for r in done) for side, done in runs.items()}
    memory = {side: max(run["GB"] for run in done) for side, done in runs.items()}
    rows = [row(f"{side}, time", s, "s", seconds["camreid"]) for side, s in seconds.items()]
    rows += [
        row(f"{side}, memory above the inputs", memory[side], "GB", memory["camreid"])
        for side in sides[1:]
    ]
    n = f"{options.queries} x {options.gallery} x {DIM} features, k1=20, k2=6, lambda=0.3"
    report("reranking", rows, n, options.repeats, options.json)
    return None


if __name__ == "__main__":
    main()
