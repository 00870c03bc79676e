"""Accuracy per minute: a network from scratch beside torchreid, in the same wall time.

Target: on two cores, `+experiment=from_scratch` with 3 times the mAP of torchreid's softmax engine
at its defaults, with OSNet x0.25 at 128x64.

    python scripts/bench/from_scratch.py --root DATASET --torchreid CHECKOUT [--minutes 8] [--parts]

DATASET is any tree in the layout of Market-1501. torchreid trains for the whole time; loading its
packages and data does not count. The time of camreid is that of the whole command, which fills its
cache. `--parts` also trains without each part of the recipe, in the same time.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

SIZE = (128, 64)
COMMANDS = Path(sys.executable).parent
TRAIN = [f"{COMMANDS}/camreid-train", "+split=original", "+experiment=from_scratch"]
PARTS = {
    "the recipe": [],
    "hard triplets in place of supervised contrast": [
        "model.loss.pair=null", "model.loss.triplet_weight=1.0"
    ],
    "identity loss alone": ["model.loss.pair=null"],
    "learning rate 3.5e-4 in place of 3e-2": ["model.optimizer.lr=3.5e-4"],
    "constant learning rate in place of cosine": ["model.schedule.decay=constant"],
    "with random erasing": ["data.augment.erase=0.5"],
    "with EMA": ["callbacks=ema", "callbacks.ema.decay=0.98"],
    "BoT's losses and optimiser": [
        "model.loss.pair=null", "model.loss.triplet_weight=1.0", "model.optimizer.name=adam",
        "model.optimizer.lr=3.5e-4", "model.optimizer.weight_decay=5e-4", "data.augment.erase=0.5",
    ],
}  # fmt: skip


def train_torchreid(root: str, checkout: Path, seconds: float) -> dict[str, float]:
    """Scores and images of torchreid's softmax engine after a time, at torchreid's defaults."""
    import torch
    from peer import softmax_engine

    from camreid.data import read_market1501
    from camreid.data.dataset import read_image
    from camreid.evaluation import rank

    records = read_market1501(root)
    engine = softmax_engine(checkout, root, "osnet_x0_25", height=SIZE[0], width=SIZE[1])
    model = engine.model
    start, steps, step = time.perf_counter(), 0, engine.forward_backward

    def until_the_end(batch: Any) -> Any:
        nonlocal steps
        if time.perf_counter() - start > seconds:
            raise TimeoutError
        steps += 1
        return step(batch)

    engine.forward_backward = until_the_end
    with suppress(TimeoutError):
        for engine.epoch in range(10**6):
            engine.train(print_freq=10**9)
    model.eval()
    normal = torch.tensor([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]]).view(2, 3, 1, 1)
    columns = []
    for part in (records.query, records.gallery):
        images = torch.stack([read_image(r.path, SIZE, "bilinear") for r in part])
        with torch.inference_mode():
            own = [model((i / 255 - normal[0]) / normal[1]) for i in images.split(128)]
        columns.append([torch.cat(own), *torch.tensor([(r.pid, r.camera) for r in part]).T])
    sides = [side for pair in zip(*columns, strict=True) for side in pair]
    result = rank(*sides)
    return {"mAP": float(result.mAP), "rank1": float(result.cmc[0]), "images": 32 * steps}


def seconds_of(command: list[str]) -> float:
    start = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} fails: {done.stdout[-1500:]}{done.stderr[-1500:]}")
    return time.perf_counter() - start


def train_camreid(root: str, options: list[str], seconds: float) -> dict[str, float]:
    """Scores and images of a recipe whose command ends within `seconds`, its cache included."""
    with tempfile.TemporaryDirectory() as folder:

        def train(steps: int, name: str, cache: str = "calibration") -> float:
            return seconds_of([
                *TRAIN, f"data.root={root}", "split.val_fraction=0", "test=false", *options,
                "trainer.max_epochs=-1", f"trainer.max_steps={steps}", f"run_dir={folder}/{name}",
                f"data.cache_dir={folder}/{cache}",
            ])  # fmt: skip

        few, more = 20, 200
        first, short, long = train(few, "first"), train(few, "short"), train(more, "long")
        if long < 1.2 * short:
            raise SystemExit(f"{more} steps take {long:.1f} s, {few} take {short:.1f} s: too busy.")
        steps = int(0.95 * (seconds - first) / (long - short) * (more - few))
        taken = train(steps, "run", cache="empty")
        found = evaluate(root, f"{folder}/run/checkpoints/last.ckpt", f"{folder}/test")
    return {**found, "images": 64 * steps, "seconds": taken}


def evaluate(root: str, checkpoint: str, folder: str) -> dict[str, float]:
    command = [
        f"{COMMANDS}/camreid-evaluate", f"checkpoint={checkpoint}", "+split=original",
        f"data.root={root}", "data.cache=none", f"run_dir={folder}",
    ]  # fmt: skip
    seconds_of(command)
    values = json.loads(Path(folder, "metrics.json").read_text())
    return {name: values["retrieval"][name] for name in ("mAP", "rank1")}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--root", required=True)
    parser.add_argument("--torchreid", type=Path)
    parser.add_argument("--minutes", type=float, default=8.0)
    parser.add_argument("--parts", action="store_true")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--side", help=argparse.SUPPRESS)
    o = parser.parse_args()
    if o.side:
        print(json.dumps(train_torchreid(o.root, o.torchreid, 60 * o.minutes)))
        return
    from measure import report, row

    found = {}
    if o.torchreid:
        peer = subprocess.run(
            [sys.executable, *sys.argv, "--side", "torchreid"], capture_output=True, text=True
        )
        if peer.returncode:
            raise SystemExit(f"torchreid fails: {peer.stderr[-1500:]}")
        found["torchreid"] = json.loads(peer.stdout.splitlines()[-1])
    for name, options in list(PARTS.items())[: None if o.parts else 1]:
        found[name] = train_camreid(o.root, options, 60 * o.minutes)
        print(name, found[name], file=sys.stderr)
    rows, base = [], found.get("torchreid", found["the recipe"])["mAP"]
    for name, of in found.items():
        rows.append(row(f"{name}: mAP", 100 * of["mAP"], "%", base=100 * base))
        rows.append(row(f"{name}: Rank-1", 100 * of["rank1"], "%"))
        rows.append(row(f"{name}: images", of["images"], "images"))
    about = f"OSNet x0.25, 128x64, from scratch, {o.minutes:g} minutes, one run each"
    report("from_scratch", rows, about, 1, o.json)


if __name__ == "__main__":
    main()
