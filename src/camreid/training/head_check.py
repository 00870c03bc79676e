"""The check of every head before the first step."""

from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities import rank_zero_only

from camreid.errors import HeadMismatch, InputError
from camreid.models.head import RemapHead
from camreid.runs.folder import RunFolder
from camreid.runs.metrics import HeadCheckRecord
from camreid.training.batch import read_batch
from camreid.training.module import ReIDModule

Images = Mapping[tuple[int, int], int]  # by identity and camera, 1-based


@dataclass(frozen=True)
class HeadFit:
    """How a head fits the train identities: all, or those of its camera.

    Attributes:
        head: its name.
        camera: of a head of one camera; None for all.
        rows: rows of its weight.
        dim: width of its rows.
        identities: number of train identities.
        shared: those with a row from the starting weights, or any row of a fresh head.
        unknown: the others.
        coverage: `shared` / `identities`.
        image_coverage: the same by images.
    """

    head: str
    camera: int | None
    rows: int
    dim: int
    identities: int
    shared: int
    unknown: int
    coverage: float
    image_coverage: float


def check_head(
    name: str, head: RemapHead, images: Images, inherited: Collection[int] | None = None
) -> HeadFit:
    """Measure the fit of one head.

    Args:
        name: the head's name.
        head: the head.
        images: number of train images by identity and camera.
        inherited: identities with a row from the starting weights; None for all.
    """
    counts: Counter[int] = Counter()
    for (pid, camera), count in images.items():
        if head.camera in (None, camera):
            counts[pid] += count
    pids = torch.tensor(list(counts), dtype=torch.int64)
    known = pids[head.rows(pids) >= 0].tolist()
    shared = [pid for pid in known if inherited is None or pid in inherited]
    return HeadFit(
        head=name,
        camera=head.camera,
        rows=len(head.weight),
        dim=head.dim,
        identities=len(counts),
        shared=len(shared),
        unknown=len(counts) - len(shared),
        coverage=len(shared) / max(1, len(counts)),
        image_coverage=sum(counts[pid] for pid in shared) / max(1, counts.total()),
    )


class HeadCheck(pl.Callback):
    """Checks every head before the first step, prints a table and writes `head_check.json`.

    The train identities are those of the data module's `split`, or of a dataset's `records`. Other
    loaders, such as FastReID's, are checked on their first batch, without its coverage.

    Args:
        min_coverage: least share of the train identities with a row, 0..1, of `skip` and `drop`.

    Raises:
        HeadMismatch: with the counts and the overrides that would fix it.
    """

    def __init__(self, min_coverage: float = 0.01) -> None:
        if not 0 <= min_coverage <= 1:
            raise InputError(
                f"min_coverage={min_coverage}: expected a share in 0..1.", min_coverage=0.01
            )
        self.min_coverage = min_coverage
        self._is_checked = False

    def on_fit_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        """Check against the split's train identities, if the data module or loader has any."""
        images = _train_images(trainer)
        self._is_checked = bool(images)
        if images:
            self._check(trainer, pl_module, images, whole=True)

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: Any, batch: Any, batch_idx: int
    ) -> None:
        """Check against the first batch, where no split or dataset gives the identities."""
        if not self._is_checked:
            self._is_checked = True
            read = read_batch(batch, pl_module.target_labels)
            images = Counter(zip(read.pids.tolist(), read.cameras.tolist(), strict=True))
            self._check(trainer, pl_module, images, whole=False)

    def _check(self, trainer: pl.Trainer, module: ReIDModule, images: Images, whole: bool) -> None:
        heads, inherited = module.model.remap_heads(), module.provenance.inherited
        fits = [
            check_head(
                name, head, images, None if inherited is None else set(inherited.get(name, ()))
            )
            for name, head in heads.items()
        ]
        faults = [fault for fit in fits for fault in self._faults(module, fit, whole)]
        record = HeadCheckRecord(module.config.unknown, [asdict(fit) for fit in fits], faults)
        _show(record, "" if whole else " of the first batch", RunFolder(trainer.default_root_dir))
        if faults:
            raise HeadMismatch(" ".join([*faults, _remedy(module)]))

    def _faults(self, module: ReIDModule, fit: HeadFit, whole: bool) -> list[str]:
        head, unknown = module.model.remap_heads()[fit.head], module.config.unknown
        width, faults = module.model.widths[fit.head], []
        name = f"Head '{fit.head}'"
        if fit.rows != len(head.pids):
            faults.append(
                f"{name} has {fit.rows} rows, but its label map names {len(head.pids)} identities."
            )
        if fit.dim != width:
            faults.append(f"{name} compares {fit.dim}-wide rows with {width}-wide features.")
        if module.labels.is_anonymous and unknown != "reinit":
            anonymous = (
                f"{name} is anonymous: the identities of its {fit.rows} rows are unknown, so they "
                "cannot be trained. Import the file again with its label map (labels.root= "
                "labels.camera=), or type model.unknown=reinit for a new head."
            )
            return [*faults, anonymous]
        of = "" if fit.camera is None else f" of camera {fit.camera}"
        counts = (
            f"{name} has {fit.rows} rows; {fit.shared} of the split's {fit.identities} train "
            f"identities{of} are among them, {fit.unknown} are not"
        )
        needs_coverage = whole and unknown in ("skip", "drop") and (fit.identities or not of)
        if unknown == "forbid" and fit.unknown:
            faults.append(f"{counts}, and model.unknown=forbid.")
        elif needs_coverage and fit.coverage < self.min_coverage:
            faults.append(
                f"{counts}: a coverage of {fit.coverage:.3f}, below "
                f"callbacks.head_check.min_coverage={self.min_coverage}."
            )
        return faults


def _train_images(trainer: pl.Trainer) -> Images:
    """Train images of each identity and camera; empty without a data module or dataset."""
    data = getattr(trainer, "datamodule", None)
    records: Any = getattr(getattr(data, "split", None), "train", None)
    if records is None:
        trainer.fit_loop.setup_data()
        records = getattr(getattr(trainer.train_dataloader, "dataset", None), "records", ())
    return Counter((r.pid, r.camera) for r in records)


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
def _show(record: HeadCheckRecord, where: str, folder: RunFolder) -> None:
    folder.write(record)
    for table in record.tables(where):
        table.show()
