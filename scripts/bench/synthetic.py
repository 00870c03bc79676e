"""How hard the synthetic data are: a colour histogram, an untrained and a trained network.

Claim (README): a colour histogram and an untrained network rank the unseen half of the synthetic
identities poorly, a small network trained for a minute or two ranks them well. One training, seed
0; n is the printed number of valid queries.

    camreid-train +split=resplit data=synthetic trainer=cpu run_dir=runs/demo
    python scripts/bench/synthetic.py runs/demo
"""

import sys
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from camreid import create_model
from camreid.checkpoints.io import load
from camreid.data import ReIDDataModule, Split
from camreid.evaluation import rank
from camreid.runs.table import percent
from camreid.training import ReIDModule


def histogram(images: Tensor) -> Tensor:
    """(B, 3, H, W) uint8 to (B, 512): square roots of the joint RGB histogram, 8 bins a channel."""
    bins = images.long() // 32
    joint = (bins[:, 0] * 64 + bins[:, 1] * 8 + bins[:, 2]).flatten(1)
    counts = torch.zeros(len(images), 512).scatter_add_(1, joint, torch.ones(joint.shape))
    return (counts / joint.shape[1]).sqrt()


def network(module: ReIDModule) -> Callable[[Tensor], Tensor]:
    return lambda images: module.eval().model(images).features


@torch.no_grad()
def row(name: str, features_of: Callable[[Tensor], Tensor], data: ReIDDataModule) -> str:
    parts = []
    for loader in data.test_dataloader():
        batches = [(features_of(b["images"]), b["pids"], b["camids"]) for b in loader]
        parts.append([torch.cat(column) for column in zip(*batches, strict=True)])
    (q, qp, qc), (g, gp, gc) = parts
    result = rank(q, g, qp, gp, qc, gc)
    cells = (name, percent(result.mAP), percent(float(result.cmc[0])), result.valid_queries)
    return f"| {' | '.join(map(str, cells))} |"


def main(run: str) -> None:
    trained = load(Path(run) / "checkpoints" / "best.ckpt")
    torch.manual_seed(0)
    untrained = create_model(trained.config.name, trained.labels)
    data = ReIDDataModule(Split.load(Path(run) / "split.csv"), trained.config.image_size, workers=0)
    print("| features | mAP | Rank-1 | queries |\n|---|---|---|---|")
    print(row("RGB histogram, 8 x 8 x 8", histogram, data))
    print(row("untrained network", network(untrained), data))
    print(row("trained network", network(trained), data))


if __name__ == "__main__":
    main(sys.argv[1])
