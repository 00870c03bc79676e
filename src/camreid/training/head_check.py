"""The check of every head before the first step."""

from collections import Counter
from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import pytorch_lightning as pl

from camreid.errors import HeadMismatch, require_number
from camreid.models.head import RemapHead
from camreid.runs.folder import RunFolder
from camreid.runs.metrics import HeadCheckRecord
from camreid.training.batch import read_batch
from camreid.training.module import ReIDModule

Images = Mapping[tuple[int, int], int]  # by identity and camera, 1-based


@dataclass(frozen=True)
class HeadFit:
    """How a head fits the train identities: all, or those of its camera."""

    head: str  # its name
    camera: int | None  # of a head of one camera
    rows: int
    dim: int  # width of a row
    identities: int  # number of train identities
    shared: int  # those with a row from the starting weights, or any row of a fresh head
    unknown: int  # the others
    coverage: float  # shared / identities
    image_coverage: float  # the same by images


def check_head(name: str, head: RemapHead, images: Images, new: Container[int] = ()) -> HeadFit:
    """The fit of one head; `new` identities have no row in the starting weights."""
    counts: Counter[int] = Counter()
    for (pid, camera), count in images.items():
        if head.camera in (None, camera):
            counts[pid] += count
    shared = [pid for pid in counts if pid in head.labels and pid not in new]
    numbers = len(counts), len(shared), len(counts) - len(shared)
    by_image = sum(counts[pid] for pid in shared) / max(1, counts.total())
    shares = len(shared) / max(1, len(counts)), by_image
    return HeadFit(name, head.camera, len(head.weight), head.dim, *numbers, *shares)


class HeadCheck(pl.Callback):
    """Checks every head before the first step, prints a table and writes `head_check.json`.

    The train identities are those of the data module's `split`, or of a dataset's `records`, else
    of the first batch, without its coverage. HeadMismatch gives counts and overrides.
    `min_coverage` is the least share of train identities with a row, of `skip` and `drop`.
    """

    def __init__(self, min_coverage: float = 0.01) -> None:
        require_number("min_coverage", min_coverage, 0, 1)
        self.min_coverage = min_coverage

    def on_fit_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        """Check against the train identities of the data module or loader, if it has any."""
        data = getattr(trainer, "datamodule", None)
        records: Any = getattr(getattr(data, "split", None), "train", None)
        if records is None:
            trainer.fit_loop.setup_data()
            records = getattr(getattr(trainer.train_dataloader, "dataset", None), "records", ())
        self._is_checked = bool(records)
        if records:
            self._check(trainer, pl_module, Counter((r.pid, r.camera) for r in records), whole=True)

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: Any, *step: Any) -> None:
        """Check against the first batch, where no split or dataset gives the identities."""
        if not self._is_checked:
            self._is_checked = True
            read = read_batch(step[0], pl_module.target_labels)
            images = Counter(zip(read.pids.tolist(), read.cameras.tolist(), strict=True))
            self._check(trainer, pl_module, images, whole=False)

    def _check(self, trainer: pl.Trainer, module: ReIDModule, images: Images, whole: bool) -> None:
        heads, new = module.model.remap_heads(), module.new_rows
        fits = [check_head(name, head, images, new[name]) for name, head in heads.items()]
        faults = [fault for fit in fits for fault in self._faults(module, fit, whole)]
        record = HeadCheckRecord(module.config.unknown, [asdict(fit) for fit in fits])
        module.notes["head_check"] = record.to_json()
        if trainer.is_global_zero:
            RunFolder(trainer.default_root_dir).write(replace(record, faults=faults))
            for table in record.tables("" if whole else " of the first batch"):
                table.show()
        if faults:
            raise HeadMismatch(" ".join([*faults, _remedy(module, fits, self.min_coverage)]))

    def _faults(self, module: ReIDModule, fit: HeadFit, whole: bool) -> Iterator[str]:
        name, unknown = f"Head '{fit.head}'", module.config.unknown
        labels = len(module.model.remap_heads()[fit.head].pids)
        width = module.model.widths[fit.head]
        if fit.rows != labels:
            yield f"{name} has {fit.rows} rows, but its label map names {labels} identities."
        if fit.dim != width:
            yield f"{name} compares {fit.dim}-wide rows with {width}-wide features."
        if module.labels.is_anonymous and unknown != "reinit":
            yield f"{name} is anonymous: import it with labels.root=, or type model.unknown=reinit."
            return
        of = "" if fit.camera is None else f" of camera {fit.camera}"
        counts = f"{name} has {fit.rows} rows; {fit.shared} of the split's {fit.identities} train "
        counts += f"identities{of} are among them, {fit.unknown} are not"
        if unknown == "forbid" and fit.unknown:
            yield f"{counts}, and model.unknown=forbid."
        needs_coverage = whole and unknown in ("skip", "drop") and (fit.identities or not of)
        if needs_coverage and fit.coverage < self.min_coverage:
            least = f"callbacks.head_check.min_coverage={self.min_coverage}"
            yield f"{counts}: a coverage of {fit.coverage:.3f}, below {least}."


def _remedy(module: ReIDModule, fits: Sequence[HeadFit], min_coverage: float) -> str:
    """What to type, without what is typed already; names the split of the starting weights."""
    ways = {"skip": "train the known rows", "extend": "add rows", "reinit": "new head"}
    least = min((fit.coverage for fit in fits if fit.identities), default=0)
    if module.config.unknown == "drop" or least < min_coverage:
        ways.pop("skip")
    ways.pop(module.config.unknown, None)
    how = " or ".join(f"{name} ({effect})" for name, effect in ways.items())
    made = [p.split.overrides for p in module.provenance.parents if p.role == "init" and p.split]
    origin = next(filter(None, made), "+split=original (with split.camera=N for an expert)")
    return f"Fine-tune with model.unknown={how}, or train on the head's own split: {origin}."
