"""camreid-import: a file of FastReID, torchreid or timm as a camreid checkpoint."""

import json
from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path

import torch
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from camreid.checkpoints.foreign.importing import import_file
from camreid.checkpoints.io import save
from camreid.cli.build import run_folder
from camreid.cli.terminal import show
from camreid.data import ImageDataset, OriginalSplit, Split, read_market1501
from camreid.data.records import ImageRecord
from camreid.errors import HeadMismatch, InputError
from camreid.files import write_text
from camreid.labels import LabelMap, Order
from camreid.provenance import SplitRecord
from camreid.runs.table import percent
from camreid.training.module import ReIDModule

_CHECKED = 512  # training images for the check of the rows


def import_run(config: DictConfig) -> None:
    """Import, show the use of every key, check the rows, write the checkpoint."""
    if OmegaConf.is_missing(config, "path") or config.get("model") is None:
        raise InputError(
            "camreid-import needs path=FILE and model=NAME, such as model=mgn_r50_ibn; see --help."
        )
    labels, images, split = read_labels(config.labels, config.source)
    name = str(HydraConfig.get().runtime.choices["model"])
    typed = [a.partition("=")[0].lstrip("+") for a in HydraConfig.get().overrides.task]
    keys = [key.removeprefix("model.") for key in typed if key.startswith("model.")]
    imported = import_file(
        config.path,
        config.source,
        name,
        labels,
        stem_padding=config.stem_padding,
        allow_partial=config.allow_partial,
        **{key.replace(".", "__"): OmegaConf.select(config.model, key) for key in keys},
    )
    module = imported.module
    lines = check_rows(module, labels, images, bool(config.labels.root)) if labels else []
    module.provenance = replace(module.provenance, split=split)
    out = run_folder() / "checkpoints" / "imported.ckpt"
    save(module, out, {"imported": str(config.path), "generation": imported.generation})
    anonymous = module.labels.is_anonymous
    account = {f.name: getattr(imported, f.name) for f in fields(imported) if f.name != "module"}
    account |= {"rows": len(module.labels), "anonymous": anonymous}
    write_text(run_folder() / "import.json", json.dumps(account, indent=1) + "\n")
    how = " model.unknown=reinit" if anonymous else ""
    show(
        f"Import {config.path} as {name}: names of {imported.generation}, max-pool padding "
        f"{module.config.network.get('stem_padding', '-')}",
        f"Keys   {len(imported.loaded)} loaded, {len(imported.needless)} not needed, "
        f"{len(imported.left_over)} left over, {len(imported.missing)} missing",
        f"Head   {len(module.labels)} rows{', without labels' if anonymous else ''}",
        *lines,
        f"Written to {out}",
        f"Train it with camreid-train +split=SPLIT init={out}{how}",
    )


def read_labels(
    config: DictConfig, source: str
) -> tuple[LabelMap | None, tuple[ImageRecord, ...], SplitRecord | None]:
    """The identities of the rows; their training images and split where they are known.

    Args:
        config: the `labels` of the command.
        source: of the file, which has an order of its own.

    Raises:
        InputError: labels that do not go together, or that cannot be read.
    """
    given = {str(key) for key, value in config.items() if value is not None}
    alone = any(given <= allowed for allowed in ({"pids"}, {"manifest", "root"}))
    if not alone and not {"root"} <= given <= {"root", "camera", "order"}:
        raise InputError(
            f"{' '.join(f'labels.{key}={config[key]}' for key in sorted(given))} do not go "
            "together. Type labels.pids=FILE, or labels.manifest=FILE, or labels.root=FOLDER with "
            "labels.camera= and labels.order= as needed."
        )
    if config.pids:
        try:
            pids = map(int, Path(config.pids).read_text(encoding="utf-8").split())
            return LabelMap(tuple(pids)), (), None
        except (OSError, ValueError) as error:
            raise InputError(
                f"labels.pids={config.pids}: {error}; expected one pid a line, in row order."
            ) from error
    if config.manifest:
        split = Split.load(config.manifest, config.root)
        return split.labels, split.train, split.record
    if config.root is None:
        return None, (), None
    order: Order = config.order or ("numeric" if source == "torchreid" else "fastreid")
    if order not in ("fastreid", "numeric"):
        raise InputError(f"labels.order={order}: type labels.order=fastreid or numeric.")
    split = OriginalSplit(camera=config.camera)(read_market1501(config.root))
    return LabelMap.of(split.labels.pids, order=order), split.train, split.record


def check_rows(
    module: ReIDModule, labels: LabelMap, images: Sequence[ImageRecord], by_order: bool
) -> list[str]:
    """Closed-set accuracy of imported rows on their training images, in either order, as lines.

    Args:
        module: in evaluation mode.
        labels: identities of the rows.
        images: training images of these identities; an empty list is not checked.
        by_order: whether `labels.order` chose the order of the labels.

    Raises:
        HeadMismatch: another order fits far better.
    """
    if not images:
        return []
    orders: tuple[Order, ...] = ("fastreid", "numeric")
    maps = {"given": labels} | {o: LabelMap.of(labels.pids, order=o) for o in orders}
    accuracy = row_accuracy(module, images, maps)
    given, best = accuracy["given"], max(accuracy, key=accuracy.__getitem__)
    count, chance = min(len(images), _CHECKED), 1 / len(labels)
    noise = 3 * (max(chance, 1 / count) / count) ** 0.5  # three standard deviations of a guess
    parts = ", ".join(f"{percent(share)} in {name} order" for name, share in accuracy.items())
    found = f"accuracy on {count} training images: {parts}; chance is {percent(chance)}"
    if accuracy[best] > max(2 * given, chance + noise):
        remedy = f"labels.order={best}" if by_order else f"its rows in {best} order"
        raise HeadMismatch(f"WRONG ROWS: {found}. Import again with {remedy} or labels.camera=.")
    if given > chance + noise:
        return [f"Rows   {found}"]
    return [
        f"UNSURE ROWS: {found}. Check labels.root, labels.camera and model.image_size, or leave "
        "the labels out to use the features alone."
    ]


@torch.inference_mode()
def row_accuracy(
    module: ReIDModule, images: Sequence[ImageRecord], maps: dict[str, LabelMap]
) -> dict[str, float]:
    """Share of at most 512 images with the largest logit in the row of their identity, by map."""
    count = min(len(images), _CHECKED)
    chosen = [images[place * len(images) // count] for place in range(count)]
    dataset = ImageDataset(chosen, module.config.image_size, module.config.interpolation)
    hits = dict.fromkeys(maps, 0)
    for batch in torch.utils.data.DataLoader(dataset, batch_size=64):
        logits = torch.stack(list(module.model(batch["images"]).logits.values())).sum(0)
        for name, labels in maps.items():
            hits[name] += int((labels.rows(batch["pids"]) == logits.argmax(1)).sum())
    return {name: found / count for name, found in hits.items()}
