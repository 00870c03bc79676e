"""Seconds and memory of the work on file names, before an image is decoded.

Claim: each step takes less than two seconds for 100,000 images. Trees hold empty files named as in
Market-1501: 5 of 12 in bounding_box_train, 1 in query, and 6 in bounding_box_test. An identity has
18 train images, in 6 cameras. Memory is the peak of tracemalloc; seconds are medians of 3 rounds.

    python scripts/bench/startup.py [--images 12936 500000] [--json FILE]
"""

import argparse
import tempfile
import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from measure import median_times, report, row

from camreid.data import IdentitySampler, OriginalSplit, read_market1501

ROUNDS, BATCH = 3, (16, 4)


def create(root: Path, images: int) -> None:
    """A tree of empty files; query and gallery share identities."""
    for part, first, share in (("train", 1, 5), ("query", images, 1), ("test", images, 6)):
        folder = root / (part if part == "query" else f"bounding_box_{part}")
        folder.mkdir()
        for n in range(images * share // 12):
            (folder / f"{first + n // 18:04d}_c{1 + n % 6}s1_{n:06d}_00.jpg").touch()


def steps(root: Path) -> dict[str, Callable[[], object]]:
    records = read_market1501(root)
    split = OriginalSplit()(records)
    return {
        "read_market1501": lambda: read_market1501(root),
        "OriginalSplit, with its digest": lambda: OriginalSplit()(records),
        "digest": lambda: replace(split),  # the copy computes its own
        "save of the manifest": lambda: split.save(root / "split.csv"),
        "draw of an epoch": lambda: list(IdentitySampler([r.pid for r in split.train], *BATCH)),
    }


def peak(call: Callable[[], object]) -> float:
    """Megabytes that a call allocates at most."""
    tracemalloc.start()
    call()
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return most / 1e6


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--images", type=int, nargs="+", default=[12_936, 500_000])
    parser.add_argument("--json", type=Path)
    options, rows = parser.parse_args(), []
    for images in options.images:
        with tempfile.TemporaryDirectory() as folder:
            create(Path(folder), images)
            work = steps(Path(folder))
            for what, seconds in median_times(work, ROUNDS).items():
                measured = {"s": seconds, "MB": peak(work[what])}
                rows += [row(f"{what}, {images:,}", v, unit) for unit, v in measured.items()]
    report("startup", rows, "Empty files", ROUNDS, options.json)


if __name__ == "__main__":
    main()
