"""camreid-import: a file of FastReID, torchreid or timm as a camreid checkpoint."""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf
from rich.table import Table

from camreid.checkpoints.foreign.importing import Import, import_file
from camreid.checkpoints.io import save
from camreid.cli.build import run_folder
from camreid.cli.terminal import be_quiet, say
from camreid.data import ImageDataset, OriginalSplit, Split, read_market1501
from camreid.data.records import ImageRecord
from camreid.errors import HeadMismatch, InputError
from camreid.labels import LabelMap, Order
from camreid.provenance import SplitRecord
from camreid.runs.table import percent
from camreid.training.module import ReIDModule

_CHECKED = 512  # training images for the check of the rows


def import_run(config: DictConfig) -> None:
    """Import, say what became of every key, check the rows, write the checkpoint."""
    be_quiet()
    if OmegaConf.is_missing(config, "path") or config.get("model") is None:
        raise InputError(
            "camreid-import needs path=FILE and model=NAME, a file of conf/model/ such as "
            "model=mgn_r50_ibn; see --help."
        )
    labels, images, split = read_labels(config.labels, config.source)
    name = HydraConfig.get().runtime.choices["model"]
    typed = [a.partition("=")[0].lstrip("+") for a in HydraConfig.get().overrides.task]
    keys = [key.removeprefix("model.") for key in typed if key.startswith("model.")]
    options = {key.replace(".", "__"): OmegaConf.select(config.model, key) for key in keys}
    imported = import_file(
        config.path,
        config.source,
        str(name),
        labels,
        stem_padding=config.stem_padding,
        allow_partial=config.allow_partial,
        **options,
    )
    lines = _account(f"{config.path} as {name}", imported)
    if labels is not None and images:
        lines += check_rows(imported.module, labels, images, bool(config.labels.root))
    folder = run_folder()
    out = folder / "checkpoints" / "imported.ckpt"
    notes = {"imported": str(config.path), "generation": imported.generation}
    imported.module.provenance = replace(imported.module.provenance, split=split)
    save(imported.module, out, notes)
    _keep_account(imported, folder)
    how = " model.unknown=reinit" if imported.module.labels.is_anonymous else ""
    say(*lines, f"Written to {out}", f"Train it with camreid-train +split=SPLIT init={out}{how}")


def read_labels(
    config: DictConfig, source: str
) -> tuple[LabelMap | None, tuple[ImageRecord, ...], SplitRecord | None]:
    """The identities of the rows; their training images and split where they are known.

    Args:
        config: the `labels` of the command.
        source: of the file, which has an order of its own.

    Raises:
        InputError: more than one source of labels, or one that can't be read.
    """
    if config.pids and (config.manifest or config.root):
        other = "manifest" if config.manifest else "root"
        raise InputError(
            f"labels.pids and labels.{other} both name the identities; type one of them."
        )
    idle = [key for key in ("camera", "order") if config[key]]
    if idle and (config.manifest or not config.root):
        raise InputError(
            f"{' and '.join(f'labels.{key}={config[key]}' for key in idle)} goes with a dataset "
            "and its official division: type labels.root=FOLDER with it, "
            "without labels.manifest or labels.pids, which have their own order."
        )
    order: Order = config.order or ("numeric" if source == "torchreid" else "fastreid")
    if order not in ("fastreid", "numeric"):
        raise InputError(f"labels.order={config.order}: type labels.order=fastreid or numeric.")
    if config.pids:
        return LabelMap(_read_pids(Path(config.pids))), (), None
    if config.manifest:
        split = Split.load(config.manifest, config.root)
        return split.labels, split.train, split.record
    if config.root:
        split = OriginalSplit(camera=config.camera)(read_market1501(config.root))
        labels = LabelMap.of((r.pid for r in split.train), order=order)
        return labels, split.train, split.record
    return None, (), None


def _read_pids(path: Path) -> tuple[int, ...]:
    try:
        pids = tuple(int(line) for line in path.read_text(encoding="utf-8").split())
    except (OSError, ValueError) as error:
        raise InputError(
            f"labels.pids={path} can't be read ({error}); expected one pid a line, in row order."
        ) from error
    twice = sorted(pid for pid, count in Counter(pids).items() if count > 1)
    if twice or min(pids, default=0) < 0 or not pids:
        what = f"{twice[:5]} twice" if twice else "none" if not pids else "pids below 0"
        raise InputError(
            f"labels.pids={path} names {what}; expected each identity of the head once, one pid a "
            "line, in row order."
        )
    return pids


def _account(title: str, imported: Import) -> list[Table | str]:
    """A table of the keys, and the identities of the rows."""
    renamed = sum(old != new for old, new in imported.loaded.items())
    table = Table(title=title, title_justify="left")
    for column in ("names of", "max-pool padding", "loaded", "renamed", "not needed"):
        table.add_column(column, justify="right")
    table.add_column("left over", justify="right")
    table.add_column("missing", justify="right")
    padding = str(imported.module.config.network.get("stem_padding", "-"))
    counts = (len(imported.loaded), renamed, len(imported.needless))
    rest = (len(imported.left_over), len(imported.missing))
    table.add_row(imported.generation, padding, *map(str, (*counts, *rest)))
    rows = len(imported.module.labels)
    origin = "without labels" if imported.module.labels.is_anonymous else "with the labels given"
    if not rows:
        origin = "a trunk alone: training adds them"
    return [table, f"Head   {rows} rows, {origin}"]


def _keep_account(imported: Import, folder: Path) -> None:
    content = {
        "generation": imported.generation,
        "stem_padding": imported.module.config.network.get("stem_padding"),
        "rows": len(imported.module.labels),
        "anonymous": imported.module.labels.is_anonymous,
        "loaded": imported.loaded,
        "not_needed": imported.needless,
        "left_over": imported.left_over,
        "missing": imported.missing,
    }
    path = folder / "import.json"
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def check_rows(
    module: ReIDModule, labels: LabelMap, images: Sequence[ImageRecord], by_order: bool
) -> list[Table | str]:
    """Closed-set accuracy of the imported rows on their training images, in either order.

    Args:
        module: in evaluation mode.
        labels: identities of the rows.
        images: training images of these identities.
        by_order: whether `labels.order` chose the order of the labels.

    Returns:
        Lines to print; a warning where no order fits better than chance.

    Raises:
        HeadMismatch: another order fits far better.
    """
    orders: tuple[Order, ...] = ("fastreid", "numeric")
    maps = {"the labels given": labels} | {
        f"{order} order": LabelMap.of(labels.pids, order=order) for order in orders
    }
    accuracy = row_accuracy(module, images, maps)
    count, chance = min(len(images), _CHECKED), 1 / len(labels)
    given, best = accuracy["the labels given"], max(accuracy, key=accuracy.__getitem__)
    noise = 3 * (max(chance, 1 / count) / count) ** 0.5  # three standard deviations of a guess
    if accuracy[best] > max(2 * given, chance + noise):
        order = best.split()[0]
        remedy = f"labels.order={order}" if by_order else f"its rows in {order} order"
        raise HeadMismatch(
            f"WRONG ROWS: {percent(accuracy[best])} of {count} training images match the row of "
            f"their identity in {best}, {percent(given)} with the labels given (chance is "
            f"{percent(chance)}). Nothing was written; import again with {remedy}, or check "
            "labels.camera."
        )
    parts = ", ".join(f"{percent(share)} with {name}" for name, share in accuracy.items())
    lines: list[Table | str] = [
        f"Rows   accuracy on {count} training images: {parts}; chance is {percent(chance)}"
    ]
    if maps["fastreid order"] == maps["numeric order"]:
        lines.append("       For these identities, both orders are the same.")
    if given <= chance + noise:
        lines.append(
            "UNSURE ROWS: no order fits these images better than chance. Check labels.root, "
            "labels.camera and model.image_size, or type labels.pids=FILE with the identities in "
            "row order; to use the features alone, leave the labels out."
        )
    return lines


@torch.inference_mode()
def row_accuracy(
    module: ReIDModule, images: Sequence[ImageRecord], maps: dict[str, LabelMap]
) -> dict[str, float]:
    """How often the largest logit is the row of the identity, if the rows were those of each map.

    Args:
        module: in evaluation mode.
        images: training images of the head's identities; some of them are looked at, evenly.
        maps: label maps by name.
    """
    count = min(len(images), _CHECKED)
    chosen = [images[place * len(images) // count] for place in range(count)]
    dataset = ImageDataset(chosen, module.config.image_size, module.config.interpolation)
    loader = torch.utils.data.DataLoader(dataset, batch_size=64)
    hits = dict.fromkeys(maps, 0)
    for batch in loader:
        logits = torch.stack(list(module.model(batch["images"]).logits.values())).sum(0)
        guess = logits.argmax(1)
        for name, labels in maps.items():
            hits[name] += int((labels.rows(batch["pids"]) == guess).sum())
    return {name: count / len(dataset) for name, count in hits.items()}
