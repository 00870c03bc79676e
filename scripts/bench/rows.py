"""Which rows train: an expert's head fine-tuned on a re-split, rows by position and by identity.

Claim (README): the head of camera 3 has 694 rows. After a re-split of the official training
identities, FastReID's class positions train a wrong row for every image, without an error. Matched
by identity, every image of a known identity trains its own row. The counts do not depend on the
machine.

    python scripts/bench/rows.py DATASET [CAMERA]

DATASET is a Market-1501 folder; the official train file names are enough.
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
    print(f"head of camera {camera}: {len(head)} rows; {len(split.labels)} train identities,")
    print(f"{len(head & split.labels)} of them with a row; {len(pids)} images")
    print("| rows chosen by | images that train a row | the row of their own identity |")
    print("|---|---|---|")
    for name, order in (("FastReID's positions", "fastreid"), ("numeric positions", "numeric")):
        row = LabelMap.of(split.labels.pids, order=order).rows(pids)
        fits = row < len(head)
        print(f"| {name} | {int(fits.sum())} | {int((fits & (row == own)).sum())} |")
    print(f"| identity (camreid) | {int((own >= 0).sum())} | {int((own >= 0).sum())} |")


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:3]))
