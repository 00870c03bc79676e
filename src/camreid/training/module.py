"""Training of a network: losses, optimiser and Lightning's hooks."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from camreid.errors import InputError
from camreid.evaluation.verification import Calibration
from camreid.labels import HeadLabels, LabelMap
from camreid.losses.identity import LossConfig, identity_loss_of_heads, weighed
from camreid.models.config import ModelConfig, build_options
from camreid.models.network import ReIDOutput, build_network
from camreid.models.presets import read_model
from camreid.parts import make
from camreid.provenance import Provenance, versions
from camreid.training.batch import (
    Batch,
    check_labels,
    feature_sums,
    gather,
    read_batch,
    share,
    unpack,
)
from camreid.training.callbacks import METRIC, separation
from camreid.training.checkpoint_io import conform_optimizer
from camreid.training.evaluation_loop import RetrievalModule
from camreid.training.loss_check import loss_check
from camreid.training.optim import OptimizerConfig, Schedule, ScheduleLR, clip_each, run_length
from camreid.training.progress import log_losses
from camreid.training.resuming import resume, seed_step
from camreid.training.step import compiled, keep_freed_memory, memory_format

ExtraLoss = Callable[[Batch, ReIDOutput], Mapping[str, tuple[float, Tensor]]]  # weight, value


class ReIDModule(RetrievalModule):
    """A network with its losses, optimiser and evaluation.

    Args:
        config: a `ModelConfig`, or a nested mapping of one.
        labels: the identities of the heads, in row order; those of each camera, such as
            `split.camera_labels`, for a model with heads per camera.
        target_labels: the identities of FastReID's `targets`, for file names without identities.
    """

    def __init__(
        self,
        config: ModelConfig | Mapping[str, Any],
        labels: HeadLabels,
        target_labels: LabelMap | None = None,
    ) -> None:
        super().__init__()
        config = config if isinstance(config, ModelConfig) else ModelConfig.read(config)
        self.config, self.target_labels = config, target_labels
        self.model = build_network(config.network, labels, config.image_size, config.pixels)
        self.model.register_forward_pre_hook(unpack, with_kwargs=True)
        self.loss = build_options(LossConfig, "model.loss", config.loss)
        self.optimizer_config = build_options(OptimizerConfig, "model.optimizer", config.optimizer)
        self.schedule = build_options(Schedule, "model.schedule", config.schedule)
        self.metric_losses = self.loss.metric_losses()
        self.provenance = Provenance(complete=not self.labels.is_anonymous)
        self.own_loss = make(Callable, self.loss.extra) if self.loss.extra else None  # may learn
        self.extra_losses: list[ExtraLoss] = [] if self.own_loss is None else [self.own_loss]
        self.notes: dict[str, Any] = {}  # primitives to save in checkpoints
        self.rows_started = self._reads_records = False  # whether `new_identities` have their rows
        self._compiled: Callable[..., ReIDOutput] | None = None
        self._check_loss: Callable[[], object] = bool  # of the last step; bool checks nothing
        rows = {camera: list(own.pids) for camera, own in self.camera_labels.items()}
        primitives = config.without_weights().primitives()
        self.save_hyperparameters({"config": primitives, "labels": rows or list(self.labels.pids)})

    @property
    def labels(self) -> LabelMap:
        """The identities of the heads: in row order, or camera by camera."""
        return self.model.labels

    @property
    def camera_labels(self) -> dict[int, LabelMap]:
        """The label map of each camera's head; empty where the heads are for all cameras."""
        return self.model.camera_labels

    @property
    def new_rows(self) -> dict[str, LabelMap]:
        """By head, the identities without a row in the starting weights."""
        heads, old = self.model.remap_heads(), self.provenance.inherited
        if old is None:
            return dict.fromkeys(heads, LabelMap(()))
        return {name: head.labels - LabelMap(old.get(name, ())) for name, head in heads.items()}

    @property
    def new_identities(self) -> LabelMap:
        """The identities of `new_rows`."""
        return LabelMap.union(self.new_rows.values())

    def add_identities(self, pids: Iterable[int]) -> None:
        """Record training identities; pids below 1 are none."""
        identities = self.provenance.identities.union(pid for pid in pids if pid > 0)
        self.provenance = replace(self.provenance, identities=identities)

    def forward(self, batch: Mapping[str, Any] | Tensor) -> ReIDOutput:
        """Features and logits of a batch dict, or of (B, 3, H, W) images."""
        output: ReIDOutput = self.model(batch)
        return output

    def compile_network(self, mode: str) -> None:
        """Train with a compiled network; see `camreid.training.step.compiled`."""
        self._compiled = compiled(self.model, mode)

    def setup(self, stage: str) -> None:
        """Set up the loader for `model.unknown=drop`, and the memory format of the weights."""
        if stage == "fit":
            self.model.to(memory_format=memory_format(self.model))
            if self.trainer.strategy.root_device.type == "cpu":
                keep_freed_memory()
            if self.config.unknown == "drop" and hasattr(self._datamodule, "keep_only"):
                self._datamodule.keep_only(self.camera_labels or self.labels)

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """See `seed_step`."""
        seed_step(self.trainer, batch_idx)

    def training_step(self, batch: Mapping[str, Any], batch_idx: int) -> Tensor:
        """Weighted sum of identity and metric losses; unknown identities have only the latter.

        Metric losses compare the images of all ranks; the mean over ranks is that of one rank.
        """
        read = read_batch(batch, self.target_labels)
        if not self._reads_records:
            self._note_identities(read.pids, read.cameras)
        rows = self.model.rows(read.pids, read.cameras)
        known = torch.stack(list(rows.values())) >= 0  # (heads, B)
        output = (self._compiled or self.model)(read.images, rows, read.cameras)
        identity = identity_loss_of_heads(output.logits, rows, self.loss.smoothing)
        losses = {"identity": (self.loss.identity_weight, identity * share(known.sum()))}
        pids, cameras = gather(read.pids), gather(read.cameras)
        embeddings = [gather(own) for own in output.embeddings.values()]
        own = cameras if self.config.network.get("camera_heads") else None  # to compare within
        for name, (weight, metric) in self.metric_losses.items():
            losses[name] = (weight, torch.stack([metric(e, pids, own) for e in embeddings]).mean())
        for extra in self.extra_losses:
            losses.update(weighed(extra, extra(read, output)))
        total = torch.stack([weight * value for weight, value in losses.values()]).sum()
        values = {f"train/{name}_loss": value for name, (_, value) in losses.items()}
        values |= {"train/loss": total, "train/known": known.any(0).float().mean()}
        values[METRIC] = torch.stack([separation(e, pids) for e in embeddings]).mean()
        log_losses(self, values, len(read.pids))
        self._check_loss = loss_check(self, batch, losses, read.pids, output, rows)
        return total

    def _note_identities(self, pids: Tensor, cameras: Tensor) -> None:
        """Record identities; refuse unknown ones where `model.unknown` does. Waits for a device."""
        check_labels(self.model, self.config.unknown, pids, cameras)
        if self._trainer is not None:
            self.add_identities(pids.tolist())

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Check the loss; clip the gradient of each tensor to the norm `clip`."""
        self._check_loss()
        if self.optimizer_config.clip is not None:
            clip_each(self.parameters(), self.optimizer_config.clip)

    def configure_optimizers(self) -> Any:
        """The config's optimiser, its learning rate set before every step."""
        clips = self.trainer.scaler or self.trainer.gradient_clip_val  # a fused step unscales later
        optimizer = self.optimizer_config.build(self.parameters(), fused=not clips)
        optimizer.register_load_state_dict_pre_hook(conform_optimizer)
        scheduler = ScheduleLR(optimizer, self.schedule, *run_length(self.trainer))
        return [optimizer], [{"scheduler": scheduler, "interval": "step", "name": "lr"}]

    def on_fit_start(self) -> None:
        """Train mode, the rows of new identities, and the record of this run's split."""
        self.train()  # `checkpoints.load` gives models in evaluation mode
        data, split = self._datamodule, self._split
        records = getattr(data, "train_records", ())
        self._reads_records = hasattr(data, "train_records")
        new = set() if self.config.unknown == "reinit" else set(self.new_identities.pids)
        if new and not self.rows_started and self.trainer.ckpt_path is None:
            if not self._reads_records:
                raise InputError(f"{len(new)} new rows: fit a ReIDDataModule, or call start_rows.")
            starting = [r for r in records if r.pid in new]
            self.start_rows(data.eval_dataloader(starting, padded=False))
        val = (r.pid for r in getattr(split, "val", ()) if r.pid > 0)
        old, own = self.provenance, getattr(split, "record", None)
        seen, named = old.val_identities.union(val), old.datasets or getattr(split, "datasets", ())
        self.provenance = replace(old, split=own, val_identities=seen, datasets=named)
        self.add_identities(self.labels.pids)
        if records:  # no step checks them
            columns = zip(*((r.pid, r.camera) for r in records), strict=True)
            self._note_identities(*(torch.tensor(own, device=self.device) for own in columns))

    def start_rows(self, loader: Iterable[Mapping[str, Any]]) -> None:
        """Start `new_rows` from mean features; `loader` has this process's share of the images."""
        self.rows_started = True
        for name, sums in feature_sums(self.model, loader, self.device).items():
            if self._trainer is not None:
                sums = self.trainer.strategy.reduce(sums, reduce_op="sum")
            head = self.model.remap_heads()[name]
            pids = torch.tensor(self.new_rows[name].pids, dtype=torch.int64, device=sums.device)
            directions = sums[head.rows(pids)]
            found = directions.any(1)
            head.start_rows(pids[found], directions[found])

    def on_train_epoch_end(self) -> None:
        """Gather the identities of other processes, where only batches give them."""
        if not self._reads_records and torch.distributed.is_initialized():
            others: list[Any] = [None] * torch.distributed.get_world_size()
            torch.distributed.all_gather_object(others, self.provenance.identities)
            self.add_identities(set().union(*others))

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Save the notes, the labels, the provenance and the versions."""
        checkpoint["camreid"] = {
            **self.notes,
            "labels": list(self.labels.pids),
            "provenance": self.provenance.to_json(),
            "calibration": self.calibration and self.calibration.to_json(),
            "versions": versions(),
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Read provenance and calibration; the rows of the file were started."""
        notes = checkpoint.get("camreid", {})
        self.provenance = Provenance.from_json(notes.get("provenance"))
        self.calibration = Calibration.from_json(own) if (own := notes.get("calibration")) else None
        self.rows_started = True
        if self._trainer is not None and self.trainer.training:
            resume(self.trainer, checkpoint)


def create_model(name: str, labels: LabelMap | Sequence[int], **options: object) -> ReIDModule:
    """A model of `conf/model/` with fresh weights and the identities `labels` in row order.

    See `camreid.models.presets.read_model` for `name` and `options`, and their errors.

    >>> module = create_model("small", labels=[2, 7, 10])
    >>> module.model.heads["identity"].weight.shape[0]
    3
    """
    return ReIDModule(read_model(name, **options).without_weights(), labels)
