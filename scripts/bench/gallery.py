"""Search of one query in a gallery of 100,000 x 512: int8 codes and exact scores, beside a product.

Claim (guide on galleries): on two idle cores, the exact search of one query takes under 10 ms, and
less than half of the time of the float32 product. Medians of alternating rounds, a new query each.

    python scripts/bench/gallery.py [--json FILE]

Features have random directions, the hardest case for codes: all cosines are close. The index of
faiss is measured where it is installed.
"""

import argparse
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import torch
from measure import median_times, report, row

from camreid import Gallery, gallery

IMAGES, WIDTH, ROUNDS, BATCH = 100_000, 512, 50, 256


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path)
    path = parser.parse_args().json
    torch.set_num_threads(2)
    torch.manual_seed(0)
    made = Gallery()
    made.add(torch.randn(IMAGES, WIDTH), [str(n) for n in range(IMAGES)])

    def query(count: int = 1) -> torch.Tensor:
        return torch.randn(count, WIDTH)

    def product() -> None:
        (torch.nn.functional.normalize(query()) @ made.features.T).topk(10)

    work = {"Gallery.search": lambda: made.search(query()), "float32 product": product}
    if find_spec("faiss"):
        faiss = import_module("faiss")
        faiss.omp_set_num_threads(2)
        index = faiss.IndexFlatIP(WIDTH)
        index.add(made.features.numpy())
        work["faiss IndexFlatIP"] = lambda: index.search(query().numpy(), 10)
    times = median_times(work, ROUNDS)
    base = times["float32 product"]
    rows = [row(f"one query: {name}", 1e3 * t, "ms", 1e3 * base) for name, t in times.items()]
    gallery._MANY = BATCH + 1  # by products also where faiss is installed
    times = median_times({"Gallery.search": lambda: made.search(query(BATCH))}, 3)
    rows += [row(f"{BATCH} queries: {n}", 1e3 * t / BATCH, "ms/query") for n, t in times.items()]
    report("gallery", rows, f"{IMAGES:,} x {WIDTH}, random directions, k = 10", ROUNDS, path)


if __name__ == "__main__":
    main()
