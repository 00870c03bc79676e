"""The check of every head before the first step, and notes for checkpoints."""

import json
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities import rank_zero_only

from camreid.errors import HeadMismatch, InputError
from camreid.files import write_text
from camreid.labels import Unknown
from camreid.models.head import RemapHead
from camreid.runs.folder import HeadCheckRecord
from camreid.runs.results import head_check_table
from camreid.training.batch import read_batch
from camreid.training.freeze import Freeze
from camreid.training.module import ReIDModule

__all__ = ["CheckpointNotes", "Freeze", "HeadCheck", "HeadFit", "HeadMismatch", "check_head"]

Images = Mapping[tuple[int, int], int]  # by identity and camera, 1-based


@dataclass(frozen=True)
class HeadFit:
    """How a head fits the identities of a training.

    Attributes:
        head: its name.
        rows: rows of its weight.
        labels: identities of its label map.
        dim: width of its rows.
        features: width of the features that it is given.
        identities: train identities of the split, of its camera for a head of one camera.
        shared: those of them whose row came with the starting weights.
        unknown: the others.
        coverage: `shared` / `identities`.
        image_coverage: the same by images.
        camera: of a head of one camera; None for all.
    """

    head: str
    rows: int
    labels: int
    dim: int
    features: int
    identities: int
    shared: int
    unknown: int
    coverage: float
    image_coverage: float
    camera: int | None = None


def check_head(
    name: str,
    head: RemapHead,
    features: int,
    images: Mapping[int, int],
    inherited: Collection[int] | None,
) -> HeadFit:
    """Measure the fit of one head.

    Args:
        name: the head's name.
        head: the head.
        features: width of the features that it is given.
        images: train images of each identity of the split.
        inherited: identities whose row came with the starting weights; None for all.
    """
    pids = torch.tensor(list(images), dtype=torch.int64)
    known = pids[head.rows(pids) >= 0].tolist()
    shared = [pid for pid in known if inherited is None or pid in inherited]
    return HeadFit(
        head=name,
        rows=head.weight.shape[0],
        labels=len(set(head.pids.tolist())),
        dim=head.dim,
        features=features,
        identities=len(images),
        shared=len(shared),
        unknown=len(images) - len(shared),
        coverage=len(shared) / max(1, len(images)),
        image_coverage=sum(images[pid] for pid in shared) / max(1, sum(images.values())),
        camera=head.camera,
    )


class HeadCheck(pl.Callback):
    """Checks every head before the first step, prints a table and writes it as JSON.

    The train identities are those of the data module's `split`, or of a dataset's `records`. Other
    loaders, such as FastReID's, are checked on their first batch, without its coverage.

    Args:
        min_coverage: least share of the train identities that the head must have a row for, 0..1.
        path: the JSON file; by default `head_check.json` in the trainer's root folder.

    Raises:
        HeadMismatch: with the counts and the overrides that would fix it.
    """

    def __init__(self, min_coverage: float = 0.01, path: str | None = None) -> None:
        if not 0 <= min_coverage <= 1:
            raise InputError(
                f"min_coverage={min_coverage}: expected a share in 0..1.", min_coverage=0.01
            )
        self.min_coverage, self.path = min_coverage, path
        self._images: Images = {}

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Check against the split's train identities, if the data module or loader has any."""
        self._images = _train_images(trainer)
        if self._images:
            self._check(trainer, pl_module, self._images, whole=True)

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Check against the first batch, where no split or dataset gives the identities."""
        if not self._images and isinstance(pl_module, ReIDModule):
            read = read_batch(batch, pl_module.target_labels)
            self._images = Counter(zip(read.pids.tolist(), read.cameras.tolist(), strict=True))
            self._check(trainer, pl_module, self._images, whole=False)

    def _check(
        self,
        trainer: pl.Trainer,
        module: pl.LightningModule,
        images: Images,
        whole: bool,
    ) -> None:
        if not isinstance(module, ReIDModule):
            raise InputError("HeadCheck is for a camreid.models.ReIDModule.")
        heads, inherited = module.model.remap_heads(), module.provenance.inherited
        fits = [
            check_head(
                name,
                head,
                width,
                _images_of(head, images),
                None if inherited is None else frozenset(inherited[name]),
            )
            for (name, head), width in zip(heads.items(), module.model.widths.values(), strict=True)
        ]
        unknown, anonymous = module.config.unknown, module.labels.is_anonymous
        faults = [fault for fit in fits for fault in self._faults(fit, unknown, whole, anonymous)]
        path = Path(self.path or Path(trainer.default_root_dir) / "head_check.json")
        _show(fits, "" if whole else " of the first batch", unknown, faults, path)
        if faults:
            raise HeadMismatch(" ".join([*faults, _remedy(module)]))

    def _faults(self, fit: HeadFit, unknown: Unknown, whole: bool, anonymous: bool) -> list[str]:
        faults = []
        if fit.rows != fit.labels:
            faults.append(
                f"Head '{fit.head}' has {fit.rows} rows, but its label map names {fit.labels} "
                "identities."
            )
        if fit.dim != fit.features:
            faults.append(
                f"Head '{fit.head}' compares {fit.dim}-wide rows with {fit.features}-wide features."
            )
        if anonymous and unknown != "reinit":
            faults.append(
                f"Head '{fit.head}' is anonymous: the identities of its {fit.rows} rows are "
                "unknown, so they cannot be trained. Import the file again with its label map "
                "(labels.root= labels.camera=), or type model.unknown=reinit for a new head."
            )
            return faults
        of = "" if fit.camera is None else f" of camera {fit.camera}"
        counts = (
            f"Head '{fit.head}' has {fit.rows} rows; {fit.shared} of the split's {fit.identities} "
            f"train identities{of} are among them, {fit.unknown} are not"
        )
        if unknown == "forbid" and fit.unknown:
            faults.append(f"{counts}, and model.unknown=forbid.")
        elif fit.camera is not None and not fit.identities:
            pass  # no images of this camera
        elif whole and unknown in ("skip", "drop") and fit.coverage < self.min_coverage:
            faults.append(
                f"{counts}: a coverage of {fit.coverage:.3f}, below "
                f"callbacks.head_check.min_coverage={self.min_coverage}."
            )
        return faults


def _images_of(head: RemapHead, images: Images) -> dict[int, int]:
    """Train images of each identity, those of its camera for a head of one camera."""
    counts: Counter[int] = Counter()
    for (pid, camera), count in sorted(images.items()):
        if head.camera in (None, camera):
            counts[pid] += count
    return counts


def _train_images(trainer: pl.Trainer) -> Images:
    """Train images of each identity and camera; empty without a data module or dataset."""
    data = getattr(trainer, "datamodule", None)
    records: Any = getattr(getattr(data, "split", None), "train", None)
    if records is None:
        trainer.fit_loop.setup_data()
        records = getattr(getattr(trainer.train_dataloader, "dataset", None), "records", ())
    return Counter((r.pid, getattr(r, "camera", 0)) for r in records)


def _remedy(module: ReIDModule) -> str:
    """What to type; names the split of the starting weights where it is known."""
    known = [p.split for p in module.provenance.parents if p.role == "init" and p.split]
    origin = known[0].overrides if known else None
    return (
        "Fine-tune with model.unknown=skip (train the known rows), extend (add rows) or reinit "
        "(new head), or train on the split that the head was made for: "
        f"{origin or '+split=original (with split.camera=N for an expert)'}."
    )


@rank_zero_only
def _show(fits: list[HeadFit], where: str, unknown: Unknown, faults: list[str], path: Path) -> None:
    record = HeadCheckRecord(unknown, [asdict(fit) for fit in fits], faults)
    write_text(path, json.dumps(record.to_json(), indent=1) + "\n")
    title = f"Head check{where} (unknown={unknown})"
    head_check_table(title, {fit["head"]: fit for fit in record.heads}).show()


class CheckpointNotes(pl.Callback):
    """Writes notes into every checkpoint.

    Args:
        notes: primitives by name, such as the config as text and the command.
    """

    def __init__(self, notes: Mapping[str, Any]) -> None:
        self.notes = dict(notes)

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Add the notes under the key `camreid`."""
        checkpoint.setdefault("camreid", {}).update(self.notes)
