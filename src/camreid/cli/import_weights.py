"""camreid-import: a file of FastReID, torchreid or timm as a camreid checkpoint."""

import json
from dataclasses import fields, replace
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from camreid.checkpoints.foreign.importing import import_file
from camreid.checkpoints.foreign.rows import check_rows
from camreid.checkpoints.io import save
from camreid.cli.build import run_folder
from camreid.cli.dataset import read_dataset
from camreid.cli.terminal import show
from camreid.data import OriginalSplit, Split
from camreid.errors import InputError
from camreid.files import write_text
from camreid.labels import LabelMap, Order
from camreid.runs.folder import RunFolder


def import_run(config: DictConfig) -> None:
    """Import, show the use of every key, check the rows, write the checkpoint."""
    if OmegaConf.is_missing(config, "path") or config.get("model") is None:
        raise InputError(
            "camreid-import needs path=FILE and model=NAME, such as model=mgn_r50_ibn; see --help."
        )
    labels, split = read_labels(config.labels, config.source, config.data)
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
    lines = [check_rows(module, labels, split.train)] if labels and split else []
    if split:
        module.provenance = replace(module.provenance, split=split.record, datasets=split.datasets)
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
    config: DictConfig, source: str, data: DictConfig
) -> tuple[LabelMap | None, Split | None]:
    """The identities of the rows; their split where it is known."""
    given = {str(key) for key, value in config.items() if value is not None}
    if not given:
        return None, None
    if given == {"pids"}:
        try:
            pids = map(int, Path(config.pids).read_text(encoding="utf-8").split())
            return LabelMap(tuple(pids)), None
        except (OSError, ValueError) as error:
            raise InputError(
                f"labels.pids={config.pids}: {error}; expected one pid per line, in row order."
            ) from error
    if "manifest" in given and given <= {"manifest", "root"}:
        datasets = RunFolder(Path(config.manifest).parent).datasets
        split = Split.load(config.manifest, config.root, datasets)
        return split.labels, split
    if "root" not in given or not given <= {"root", "camera", "order"}:
        raise InputError(
            f"{' '.join(f'labels.{key}={config[key]}' for key in sorted(given))} do not go "
            "together. Type labels.pids=FILE, or labels.manifest=FILE, or labels.root=FOLDER with "
            "labels.camera= and labels.order= as needed."
        )
    order: Order = config.order or ("numeric" if source == "torchreid" else "fastreid")
    split = OriginalSplit(camera=config.camera)(read_dataset(data, config.root))
    return LabelMap.of(split.labels.pids, order=order), split
