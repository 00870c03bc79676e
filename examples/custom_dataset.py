"""A dataset of one's own: a function from a folder to `Records` of train, query and gallery.

From the folder of this file, with images in `mydata`:

    PYTHONPATH=. camreid-train +split=original data.root=mydata \
        data.read._target_=custom_dataset.read_pairs
"""

from pathlib import Path

from camreid.data import ImageRecord, OriginalSplit, Records, ReIDDataModule, SyntheticMarket


def read_pairs(root: str | Path) -> Records:
    """Files `<pid>_c<camera>...jpg`: even identities train, of the others camera 1 is the query."""
    parts: dict[str, list[ImageRecord]] = {"train": [], "query": [], "gallery": []}
    for path in sorted(Path(root).rglob("*.jpg")):
        pid, _, rest = path.name.partition("_c")
        record = ImageRecord(str(path), pid=int(pid), camera=int(rest[0]))
        test = "query" if record.camera == 1 else "gallery"
        if record.pid > 0:  # 0 is a distractor, -1 is junk
            parts[test if record.pid % 2 else "train"].append(record)
    return Records(**{name: tuple(images) for name, images in parts.items()})


if __name__ == "__main__":
    root = SyntheticMarket(people=12, images_per_person=6).render("datasets")
    split = OriginalSplit()(read_pairs(root))
    data = ReIDDataModule(split, (64, 32), identities=2, workers=0)
    batch = next(iter(data.train_dataloader()))
    print(len(split.labels), "identities,", tuple(batch["images"].shape))
