"""Whether imported rows belong to their identities, by accuracy on training images."""

from collections.abc import Sequence

import torch
from torch.utils.data import DataLoader

from camreid.data import ImageDataset
from camreid.data.records import ImageRecord
from camreid.errors import HeadMismatch
from camreid.labels import LabelMap, Order
from camreid.progress import Progress
from camreid.training.module import ReIDModule

_CHECKED, _BATCH = 96, 8  # images; small batches, for a bar that moves
_ORDERS: tuple[Order, ...] = ("fastreid", "numeric")


def check_rows(module: ReIDModule, labels: LabelMap, images: Sequence[ImageRecord]) -> str:
    """Closed-set accuracy on training images, as a line; HeadMismatch if another order fits.

    The module moves to a GPU if there is one.
    """
    count, ordered = min(len(images), _CHECKED), sorted(images, key=lambda r: r.pid)
    chosen = [ordered[place * len(images) // count] for place in range(count)]
    maps = {"given": labels} | {o: LabelMap.of(labels.pids, order=o) for o in _ORDERS}
    accuracy = _accuracy(module, chosen, maps)
    given, best = accuracy["given"], max(accuracy, key=accuracy.__getitem__)
    chance = 1 / len(labels)
    noise = 3 * (max(chance, 1 / count) / count) ** 0.5  # three standard deviations of a guess
    parts = ", ".join(f"{share:.1%} in {name} order" for name, share in accuracy.items())
    found = f"accuracy on {count} training images: {parts}; chance is {chance:.1%}"
    if accuracy[best] > max(2 * given, chance + noise):
        raise HeadMismatch(f"WRONG ROWS: {found}. Import again with labels.order={best}.")
    if given > chance + noise:
        return f"Rows   {found}"
    check = "Check the labels' dataset and camera and the image size, or leave the labels out"
    return f"UNSURE ROWS: {found}. {check}."


@torch.inference_mode()
def _accuracy(
    module: ReIDModule, images: Sequence[ImageRecord], maps: dict[str, LabelMap]
) -> dict[str, float]:
    dataset = ImageDataset(images, module.config.image_size, module.config.interpolation)
    hits = dict.fromkeys(maps, 0)
    network = module.to("cuda" if torch.cuda.is_available() else module.device).model
    for batch in Progress(DataLoader(dataset, _BATCH), "Checking the rows", unit="batch"):
        logits = network(batch["images"].to(module.device)).logits.values()
        rows = torch.stack(list(logits)).sum(0).argmax(1).cpu()
        for name, labels in maps.items():
            hits[name] += int((labels.rows(batch["pids"]) == rows).sum())
    return {name: found / len(images) for name, found in hits.items()}
