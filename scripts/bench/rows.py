"""Which rows train: a per-camera head fine-tuned on a re-split, by position and by person.

Claim (README): with a head of camera 3's 694 identities and a re-split of the official train
people, FastReID's class positions train the wrong row for all but a few images, without an error;
translated by person, every image whose person has a row trains that row. Counts, not timings: the
same on any machine.

    python scripts/bench/rows.py DATASET [CAMERA]

DATASET is a Market-1501 folder; the official train names alone will do.
"""

import sys

import torch

from camreid.data import OriginalSplit, Resplit, read_market1501
from camreid.labels import LabelMap


def main(root: str, camera: int = 3) -> None:
    records = read_market1501(root)
    head = OriginalSplit(camera=camera)(records).labels
    split = Resplit(train_fraction=0.5, val_fraction=0.1, seed=0, pool="train")(records)
    pids = torch.tensor([r.pid for r in split.train])
    own = head.rows(pids)
    print(
        f"head of camera {camera}: {len(head)} rows, {len(split.labels)} train identities, of whom"
    )
    print(f"{len(head & split.labels)} have a row; {len(pids)} images")
    print("| rows taken | images that train | on their own person's row |")
    print("|---|---|---|")
    for name, order in (("FastReID's positions", "fastreid"), ("numeric positions", "numeric")):
        row = LabelMap.of(split.labels.pids, order=order).rows(pids)
        fits = row < len(head)
        right = fits & (row == own)
        print(f"| by {name} | {int(fits.sum())} | {int(right.sum())} |")
    print(f"| by person (camreid) | {int((own >= 0).sum())} | {int((own >= 0).sum())} |")


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:3]))
