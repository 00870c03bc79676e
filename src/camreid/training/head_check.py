"""Guards of a run: the head check, and what every checkpoint says of its origin."""

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.utilities import rank_zero_only

from camreid.errors import HeadMismatch, InputError
from camreid.files import write_text
from camreid.labels import Unknown
from camreid.runs.folder import HeadCheckRecord
from camreid.runs.head_table import head_check_table
from camreid.training.batch import read_batch
from camreid.training.freeze import Freeze
from camreid.training.head_fit import HeadFit, Images, check_head, images_of
from camreid.training.module import ReIDModule

__all__ = ["Freeze", "HeadCheck", "HeadFit", "HeadMismatch", "Provenance", "check_head"]


class HeadCheck(pl.Callback):
    """Checks every head before the first step, prints a table and writes it as JSON.

    Who is trained on is read from the data module's `split`, or from a dataset's `records`; of
    other loaders, such as FastReID's, the first batch is checked, without its coverage.

    Args:
        min_coverage: least share of the train identities that the head must have a row for, 0..1.
        path: the JSON file; by default `head_check.json` in the trainer's root folder.

    Raises:
        HeadMismatch: with the counts and the overrides that would fix it.
    """

    def __init__(self, min_coverage: float = 0.01, path: str | None = None) -> None:
        if not 0 <= min_coverage <= 1:
            raise InputError(
                f"callbacks.head_check.min_coverage={min_coverage}: expected a share in 0..1."
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
        """Check against the first batch, where nothing else says who is trained on."""
        if not self._images and isinstance(pl_module, ReIDModule):
            read = read_batch(batch, pl_module.target_labels)
            whose = zip(read.pids.tolist(), read.cameras.tolist(), strict=True)
            self._images = Counter(whose)
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
        heads = module.model.remap_heads()
        fits = [
            check_head(name, head, width, images_of(head, images), module.new_people, module.labels)
            for (name, head), width in zip(heads.items(), module.model.widths.values(), strict=True)
        ]
        unknown, anonymous = module.config.unknown, module.started_anonymous
        faults = [fault for fit in fits for fault in self._faults(fit, unknown, whole, anonymous)]
        path = Path(self.path or Path(trainer.default_root_dir) / "head_check.json")
        _show(fits, "" if whole else " of the first batch", unknown, faults, path)
        if faults:
            raise HeadMismatch(" ".join([*faults, _remedy(module)]))

    def _faults(self, fit: HeadFit, unknown: Unknown, whole: bool, anonymous: bool) -> list[str]:
        faults = []
        if fit.rows != fit.people:
            faults.append(
                f"Head '{fit.head}' has {fit.rows} rows, but its label map names {fit.people} "
                "people."
            )
        if fit.dim != fit.features:
            faults.append(
                f"Head '{fit.head}' compares {fit.dim}-wide rows with {fit.features}-wide features."
            )
        if anonymous and unknown != "reinit":
            faults.append(
                f"Head '{fit.head}' is anonymous: the file that it was imported from does not say "
                f"whose its {fit.rows} rows are, so none can be trained as anybody's. Import it "
                "again with its label map (labels.root= labels.camera=), or type "
                "model.unknown=reinit for a new head."
            )
            return faults
        if fit.misplaced:
            faults.append(f"Head '{fit.head}': {fit.misplaced} identities land on another's row.")
        if fit.left_out:
            faults.append(
                f"Head '{fit.head}' was not told that {fit.left_out} identities with a row are of "
                f"camera {fit.camera}, and would not train them: call set_cameras(pairs of pid and "
                "camera) of the train images before, or fit with a ReIDDataModule."
            )
        of, them = ("", "them") if fit.camera is None else (f" of camera {fit.camera}", "its own")
        counts = (
            f"Head '{fit.head}' has {fit.rows} rows; {fit.shared} of the split's {fit.identities} "
            f"train identities{of} are among {them}, {fit.unknown} are not"
        )
        if unknown == "forbid" and fit.unknown:
            faults.append(f"{counts}, and model.unknown=forbid.")
        elif fit.camera is not None and not fit.identities:
            pass  # nobody of this camera is trained on
        elif whole and unknown in ("skip", "drop") and fit.coverage < self.min_coverage:
            faults.append(
                f"{counts}: a coverage of {fit.coverage:.3f}, below "
                f"callbacks.head_check.min_coverage={self.min_coverage}."
            )
        return faults


def _train_images(trainer: pl.Trainer) -> Images:
    """Train images of each identity and camera; empty if no data module or dataset says."""
    data = getattr(trainer, "datamodule", None)
    records: Any = getattr(getattr(data, "split", None), "train", None)
    if records is None:
        trainer.fit_loop.setup_data()
        records = getattr(getattr(trainer.train_dataloader, "dataset", None), "records", ())
    return Counter((r.pid, getattr(r, "camera", 0)) for r in records)


def _remedy(module: ReIDModule) -> str:
    """What to type; names the division that the weights were trained on where it is known."""
    origin = module.started_on or "+split=original (with split.camera=N for an expert)"
    return (
        "Fine-tune with model.unknown=skip (train the known rows), extend (add rows) or reinit "
        f"(new head), or train on the division that the head was made for: {origin}."
    )


@rank_zero_only
def _show(fits: list[HeadFit], where: str, unknown: Unknown, faults: list[str], path: Path) -> None:
    record = HeadCheckRecord(unknown, [asdict(fit) for fit in fits], faults)
    write_text(path, json.dumps(record.to_json(), indent=1) + "\n")
    head_check_table(f"Head check{where} (model.unknown={unknown})", record.heads).show()


class Provenance(pl.Callback):
    """Writes into every checkpoint where it comes from, beside what the module says of itself.

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
