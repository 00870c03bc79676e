"""Training beside torchreid's engine and beside a plain step: images per second, waits, memory.

Targets: on a CPU, OSNet x0.25 at 1.5 times the images per second of torchreid's softmax engine,
and a step 1.7 times as fast as a plain float32 one. On a GPU, ResNet-50 with the loader at 95 % of
the rate of a batch on the device.

    python scripts/bench/train.py --root DATASET [--size 256 128] [--torchreid CHECKOUT] [--json F]

DATASET is any tree in the layout of Market-1501. Each measurement is a process of its own; the
sides alternate. Each side flips, crops and erases, trains by the identity loss alone, and on the
same number of batches. torchreid has its random crop in place of pad and crop.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

SKIPPED = 3  # first batches, which fill caches and start workers
# TFLOP/s of dense bf16; multiply-adds of a ResNet-50 with last stride 1 at 256x128, in units of 1e9
PEAKS = {"H100": 989.0, "H200": 989.0, "A100": 312.0, "4090": 165.0}
RESNET50 = 4.06


def camreid_side(
    o: argparse.Namespace, bare: bool = False, plain: bool = False
) -> dict[str, float]:
    """The trainer with its loader, or `bare` steps on one batch; `plain` in float32, contiguous."""
    import pytorch_lightning as pl
    import torch

    from camreid import create_model
    from camreid.data import Augment, OriginalSplit, ReIDDataModule, read_market1501
    from camreid.training.step import resolve_precision

    class Clock(pl.Callback):
        def __init__(self) -> None:
            self.marks: list[tuple[float, float]] = []

        def on_train_batch_start(self, *_: Any) -> None:
            start = time.perf_counter()
            self.marks.append((self.marks[-1][1] if self.marks else start, start))

        def on_train_batch_end(self, *_: Any) -> None:
            if torch.cuda.is_available() and len(self.marks) in (SKIPPED, o.batches):
                torch.cuda.synchronize()
            self.marks.append((self.marks[-1][1], time.perf_counter()))

    device = "cuda" if torch.cuda.is_available() else "cpu"
    split = OriginalSplit()(read_market1501(o.root))
    options = {"image_size": list(o.size), "loss__triplet_weight": 0.0}  # as torchreid
    module = create_model(o.model, split.labels, **options)
    data = ReIDDataModule(split, o.size, cache="disk", augment=Augment())
    loader: Any = None
    if plain:
        module.setup = lambda stage: None  # type: ignore[method-assign]
        build = type(module.optimizer_config).build
        type(module.optimizer_config).build = lambda c, p, fused: build(c, p)  # type: ignore[assignment, misc]
    if bare:
        data.setup("fit")
        batch = next(iter(data.train_dataloader()))
        batch = {k: v.to(device) if hasattr(v, "to") else v for k, v in batch.items()}
        loader = torch.utils.data.DataLoader([batch] * o.batches, batch_size=None)
    clock = Clock()
    trainer = pl.Trainer(
        max_epochs=1, limit_train_batches=o.batches, limit_val_batches=0, callbacks=[clock],
        precision="32-true" if plain else resolve_precision("auto", device), benchmark=True,
        logger=False, enable_checkpointing=False, enable_model_summary=False,
        enable_progress_bar=False, use_distributed_sampler=False,
    )  # fmt: skip
    trainer.fit(module, loader) if bare else trainer.fit(module, data)
    waits = [end - start for start, end in clock.marks[2 * SKIPPED :: 2]]
    seconds = clock.marks[-1][1] - clock.marks[2 * SKIPPED - 1][1]
    return {"rate": 64 * len(waits) / seconds, "wait": sum(waits) / len(waits)}


def torchreid_side(o: argparse.Namespace) -> dict[str, float]:
    """The softmax engine of torchreid with its own loader."""
    from peer import softmax_engine

    waits: list[float] = []
    ends: list[float] = []

    class Timed:
        def __init__(self, loader: Any) -> None:
            self.loader = loader

        def __len__(self) -> int:
            return int(o.batches)

        def __iter__(self) -> Iterator[Any]:
            start = time.perf_counter()
            for batch in islice(self.loader, o.batches):
                waits.append(time.perf_counter() - start)
                yield batch
                start = time.perf_counter()
                ends.append(start)

    engine = softmax_engine(
        o.torchreid, o.root, o.model, height=o.size[0], width=o.size[1], batch_size_train=64,
        workers=os.cpu_count(), transforms=["random_flip", "random_crop", "random_erase"],
    )  # fmt: skip
    engine.train_loader = Timed(engine.train_loader)
    engine.train(print_freq=10**9)
    waits = waits[SKIPPED:]
    return {
        "rate": 64 * len(waits) / (ends[-1] - ends[SKIPPED - 1]),
        "wait": sum(waits) / len(waits),
    }


def measured(o: argparse.Namespace, side: str) -> dict[str, float]:
    """One measurement, in a process of its own."""
    done = subprocess.run(
        [sys.executable, *sys.argv, "--side", side], capture_output=True, text=True
    )
    if done.returncode:
        raise SystemExit(f"{side} fails: {done.stderr[-1500:]}")
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def run_side(o: argparse.Namespace) -> None:
    sides = {
        "plain step": lambda: camreid_side(o, bare=True, plain=True),
        "step": lambda: camreid_side(o, bare=True),
        "camreid": lambda: camreid_side(o),
        "torchreid": lambda: torchreid_side(o),
    }
    found = sides[o.side]()
    usage = (resource.getrusage(who).ru_maxrss for who in (0, resource.RUSAGE_CHILDREN))
    print(json.dumps({**found, "memory": sum(usage) / 1000}))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--root", required=True)
    parser.add_argument("--size", type=int, nargs=2, default=(256, 128))
    parser.add_argument("--model", default="osnet_x0_25", help="bot_r50 for the claim on a GPU")
    parser.add_argument("--batches", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--torchreid", type=Path)
    parser.add_argument("--peak", type=float, help="TFLOP/s of bf16 of an unknown GPU")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--side", help=argparse.SUPPRESS)
    o = parser.parse_args()
    if o.batches <= SKIPPED:
        raise SystemExit(f"--batches {o.batches}: the first {SKIPPED} do not count; type more.")
    if o.side:
        run_side(o)
        return
    from measure import machine, report, row

    names = ["plain step", "step", "camreid", *["torchreid"] * bool(o.torchreid)]
    rounds = [{name: measured(o, name) for name in names} for _ in range(o.rounds)]
    found = {
        name: {key: statistics.median(r[name][key] for r in rounds) for key in rounds[0][name]}
        for name in names
    }
    base = {"step": "plain step", "camreid": "torchreid" if o.torchreid else "step"}
    rows = []
    for name in names:
        other = found.get(base.get(name, ""), {})
        rows.append(row(name, found[name]["rate"], "images/s", other.get("rate")))
        rows.append(row(f"{name}: wait for data", 1000 * found[name]["wait"], "ms/batch"))
        rows.append(row(f"{name}: peak memory with workers", found[name]["memory"], "MB"))
    peak = o.peak or next((v for k, v in PEAKS.items() if k in machine()), None)
    if peak and o.model == "bot_r50" and tuple(o.size) == (256, 128):
        share = 6 * RESNET50 * 1e9 * found["camreid"]["rate"] / (peak * 1e12)  # backward is twice
        rows.append(row("camreid: share of the bf16 peak", 100 * share, "%"))
    size = "x".join(map(str, o.size))
    report("train", rows, f"{o.model}, {size}, {o.batches} batches of 64", o.rounds, o.json)


if __name__ == "__main__":
    main()
