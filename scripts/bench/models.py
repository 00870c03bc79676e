"""Size and speed of the models of `conf/model/`.

Claim: none; the table helps to choose a model. Parameters and GFLOPs are those of the features,
without classifier rows. A multiply-add counts as two operations. A file is a checkpoint in float32
without rows. Images per second are of the features of uint8 batches in the image size of the model,
normalisation included, in evaluation mode: medians of the rounds.

    python scripts/bench/models.py [--models bot_r50 ...] [--batches 1 16 64] [--rounds 5]
        [--device cuda] [--json FILE]
"""

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from measure import median_times, report, row
from torch.utils.flop_counter import FlopCounterMode

from camreid import create_model
from camreid.checkpoints import save
from camreid.models.presets import model_names
from camreid.training import ReIDModule


def features(module: ReIDModule, images: torch.Tensor) -> Callable[[], None]:
    """A call that waits for the features."""

    @torch.inference_mode()
    def run() -> None:
        module.model(images)
        if images.is_cuda:
            torch.cuda.synchronize()

    return run


def measure(name: str, batches: list[int], rounds: int, device: str) -> list[dict[str, Any]]:
    """The rows of a model; `what` is the model, a bar, and the column."""
    module = create_model(name, labels=()).eval()
    height, width = module.config.image_size
    with tempfile.NamedTemporaryFile(suffix=".ckpt") as file:
        save(module, file.name)
        size = Path(file.name).stat().st_size
    parameters = sum(p.numel() for p in module.model.parameters())
    module.to(device)
    images = {
        n: torch.zeros(n, 3, height, width, dtype=torch.uint8, device=device) for n in batches
    }
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        module.model(torch.zeros(1, 3, height, width, dtype=torch.uint8, device=device))
    seconds = median_times({str(n): features(module, own) for n, own in images.items()}, rounds)
    found = [
        row(f"{name} | parameters", parameters / 1e6, "M"),
        row(f"{name} | operations", counter.get_total_flops() / 1e9, "GFLOPs"),
        row(f"{name} | file", size / 1e6, "MB"),
        row(f"{name} | image height", height, "pixels"),
        row(f"{name} | image width", width, "pixels"),
    ]
    speeds = ((n, n / seconds[str(n)]) for n in batches)
    return found + [row(f"{name} | batch of {n}", speed, "images/s") for n, speed in speeds]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--models", nargs="+", default=model_names())
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 16, 64])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    rows: list[dict[str, Any]] = []
    for name in options.models:
        rows += measure(name, options.batches, options.rounds, options.device)
    n = f"{len(options.models)} models on {options.device}, random weights"
    report("models", rows, n, options.rounds, options.json)


if __name__ == "__main__":
    main()
