"""Train batches per second and core: camreid beside torchreid and torchvision, in one process.

Claim (docs): from its cache, camreid makes at least 10 times torchreid's images per second and
core, for the same work: decode, resize to 256 x 128, flip, pad and crop, random erasing. A loader
runs without processes and torch with one thread, so that a rate is one of a core, augmentation
included. Medians of alternating rounds.

    python scripts/bench/pipeline.py [--root DATASET] [--torchreid CHECKOUT] [--copies 1 4 16]
        [--json FILE]

DATASET is a tree in the layout of Market-1501; without it, crops of 60 x 160 to 91 x 323 pixels are
rendered. CHECKOUT is a clone of github.com/KaiyangZhou/deep-person-reid; it crops half of its
images, from a larger resize. --copies also measures trees with so many copies of each image.
"""

import argparse
import io
import os
import random
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from runpy import run_path
from typing import Any

import torch
from measure import median_times, report, row
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2

from camreid.data import Augment, OriginalSplit, ReIDDataModule, Split, read_market1501
from camreid.data.records import parse_name
from camreid.data.rendering import render_jpeg
from camreid.data.transforms import stream

SIZE, BATCH, BATCHES = (256, 128), 64, 6
IDENTITIES, IMAGES = 40, 20  # of rendered crops
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class PerImage(Dataset[Any]):
    """Images of paths, each through a transform, as most pipelines read them."""

    def __init__(self, paths: list[str], transform: Callable[[Image.Image], Any]) -> None:
        self.paths, self.transform = paths, transform

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Any:
        return self.transform(Image.open(self.paths[index]).convert("RGB"))


def render(root: Path) -> None:
    """Crops of the sizes of a real detector."""
    rng, folder = random.Random(0), root / "bounding_box_train"
    folder.mkdir(parents=True)
    for number in range(IDENTITIES * IMAGES):
        pid, camera = 1 + number // IMAGES, 1 + number % 6
        path = folder / f"{pid:04d}_c{camera}s1_{number:06d}_01.jpg"

        crop = Image.open(io.BytesIO(render_jpeg(0, parse_name(path))))  # type: ignore[arg-type]
        size = (rng.randint(60, 91), rng.randint(160, 323))
        crop.resize(size, Image.Resampling.BICUBIC).save(path, quality=95)


def torchvision_transform() -> Callable[[Image.Image], Any]:
    parts = [
        v2.Resize(SIZE),
        v2.RandomHorizontalFlip(),
        v2.Pad(10),
        v2.RandomCrop(SIZE),
        v2.ToImage(),
        v2.ToDtype(torch.float32, scale=True),
        v2.Normalize(MEAN, STD),
        v2.RandomErasing(),
    ]
    return v2.Compose(parts)


def torchreid_transform(checkout: Path) -> Callable[[Image.Image], Any]:
    build = run_path(str(checkout / "torchreid" / "data" / "transforms.py"))["build_transforms"]
    chosen: Callable[[Image.Image], Any]
    chosen, _ = build(*SIZE, ["random_flip", "random_crop", "random_erase"])
    return chosen


def camreid(split: Split, cache: str, folder: str, floats: bool = False) -> Iterator[torch.Tensor]:
    """Endless train batches."""
    data = ReIDDataModule(split, SIZE, workers=0, cache=cache, cache_dir=folder)  # type: ignore[arg-type]
    augment, mean, std = Augment(), torch.tensor(MEAN), torch.tensor(STD)
    mean, std = (255 * values.view(1, 3, 1, 1) for values in (mean, std))
    loader, number = data.train_dataloader(), 0
    while True:
        for batch in loader:
            number += 1
            images = augment(batch["images"], stream(0, number))
            yield (images - mean) / std if floats else images


def plain(paths: list[str], transform: Callable[[Image.Image], Any]) -> Iterator[torch.Tensor]:
    loader = DataLoader(PerImage(paths, transform), BATCH, shuffle=True, drop_last=True)
    while True:
        yield from loader


def rates(sides: dict[str, Iterator[torch.Tensor]], rounds: int) -> dict[str, float]:
    """Images per second of each side."""

    def draw(batches: Iterator[torch.Tensor]) -> Callable[[], None]:
        def run() -> None:
            for _ in range(BATCHES):
                assert next(batches).shape == (BATCH, 3, *SIZE)

        return run

    times = median_times({name: draw(side) for name, side in sides.items()}, rounds)
    return {name: BATCHES * BATCH / seconds for name, seconds in times.items()}


def copied(root: Path, images: Split, copies: int) -> Split:
    """The train images under `copies` names each."""
    folder = root / f"copies-{copies}" / "bounding_box_train"
    folder.mkdir(parents=True)
    for record in images.train:
        for copy in range(copies):
            name = Path(record.path).name.replace("_c", f"_c{record.camera}s{copy + 1}_c", 1)
            os.link(record.path, folder / name)
    return OriginalSplit()(read_market1501(folder.parent))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--root", type=Path)
    parser.add_argument("--torchreid", type=Path)
    parser.add_argument("--copies", type=int, nargs="*", default=[])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        root = options.root or Path(folder) / "rendered"
        if options.root is None:
            render(root)
        split = OriginalSplit()(read_market1501(root))
        paths = [record.path for record in split.train]
        start = time.perf_counter()
        next(camreid(split, "disk", folder))
        first = len(paths) / (time.perf_counter() - start)
        sides = {"torchvision, per image": plain(paths, torchvision_transform())}
        if options.torchreid:
            sides["torchreid"] = plain(paths, torchreid_transform(options.torchreid))
        sides |= {
            "camreid, cache=none": camreid(split, "none", folder),
            "camreid, cache=disk": camreid(split, "disk", folder),
            "camreid, cache=disk, normalised too": camreid(split, "disk", folder, floats=True),
        }
        grown = {count: copied(Path(folder), split, count) for count in options.copies}
        for count, more in grown.items():
            sides[f"camreid, cache=disk, {len(paths) * count:,} images"] = camreid(
                more, "disk", folder
            )
        found = rates(sides, options.rounds)
    base = found.get("torchreid", found["torchvision, per image"])
    rows = [row(name, rate, "images/s", base) for name, rate in found.items()]
    rows.append(row(f"filling the cache, {os.cpu_count()} cores", first, "images/s", base))
    n = f"{len(paths):,} images, 256 x 128, batches of {BATCH}, a core"
    report("pipeline", rows, n, options.rounds, options.json)


if __name__ == "__main__":
    main()
