"""Training of a network: Lightning's hooks and nothing else."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from camreid.errors import HeadMismatch, InputError
from camreid.labels import LabelMap
from camreid.losses.identity import LossConfig, identity_loss, mean_over_heads
from camreid.losses.triplet import PairLoss, TripletLoss
from camreid.models.camera_heads import require_members, set_members
from camreid.models.config import ModelConfig, build_options
from camreid.models.network import ReIDOutput, build_network
from camreid.models.presets import read_model
from camreid.provenance import Provenance
from camreid.training.batch import Batch, read_batch, read_cameras
from camreid.training.camera_losses import camera_identity_loss, within_cameras
from camreid.training.evaluation_loop import RetrievalModule
from camreid.training.imprinting import feature_sums, rows_to_start, start_head
from camreid.training.optim import OptimizerConfig, RunLength, Schedule, ScheduleLR
from camreid.versions import versions

# what else is to be learnt: weight and value by name
ExtraLoss = Callable[[Batch, ReIDOutput], Mapping[str, tuple[float, Tensor]]]


class ReIDModule(RetrievalModule):
    """A network with its losses, optimiser and evaluation.

    Args:
        config: a `ModelConfig`, or a nested mapping of one.
        labels: the identities of the heads, in row order.
        target_labels: the identity of each of a FastReID batch's `targets`, for file names without
            identities.

    Attributes:
        provenance: what the weights were trained on, in this run and before it.
        extra_losses: added to the losses of the config, such as a distillation.
        rows_started: whether the rows of `new_identities` were started from features, as they are
            before the first step unless `model.unknown` is reinit.
    """

    def __init__(
        self,
        config: ModelConfig | Mapping[str, Any],
        labels: LabelMap | Sequence[int],
        target_labels: LabelMap | None = None,
    ) -> None:
        super().__init__()
        config = config if isinstance(config, ModelConfig) else ModelConfig.read(config)
        labels = labels if isinstance(labels, LabelMap) else LabelMap(tuple(labels))
        self.config = config
        self.target_labels = target_labels
        self.model = build_network(config.network, labels, config.image_size, config.pixels)
        self.loss = build_options(LossConfig, "model.loss", config.loss)
        self.optimizer_config = build_options(OptimizerConfig, "model.optimizer", config.optimizer)
        self.schedule = build_options(Schedule, "model.schedule", config.schedule)
        self.metric_losses = self.loss.metric_losses()
        self.provenance = Provenance(complete=not labels.is_anonymous)
        self.extra_losses: list[ExtraLoss] = []
        self.rows_started = False
        self._reads_records = False
        self.save_hyperparameters(
            {"config": config.without_weights().primitives(), "labels": list(labels.pids)}
        )

    @property
    def labels(self) -> LabelMap:
        """The identities of the heads, in row order."""
        return next(iter(self.model.remap_heads().values())).labels

    @property
    def new_identities(self) -> LabelMap:
        """The identities whose rows did not come with the starting weights."""
        inherited = self.provenance.inherited
        if inherited is None:
            return LabelMap(())
        return self.labels - LabelMap.of(pid for pids in inherited.values() for pid in pids)

    def add_identities(self, pids: Iterable[int]) -> None:
        """Record training identities; pids below 1 are none."""
        new = {pid for pid in pids if pid > 0} - self.provenance.identities
        if new:
            identities = self.provenance.identities | new
            self.provenance = replace(self.provenance, identities=identities)

    def forward(self, batch: Mapping[str, Any] | Tensor) -> ReIDOutput:
        """Features and logits of a batch dict, or of (B, 3, H, W) images."""
        if isinstance(batch, Tensor):
            output: ReIDOutput = self.model(batch)
        else:
            output = self.model(batch["images"], cameras=read_cameras(batch))
        return output

    def setup(self, stage: str) -> None:
        """Set up the loader for `model.unknown=drop`, and the heads per camera."""
        data: Any = getattr(self.trainer, "datamodule", None)
        if stage != "fit":
            return
        if self.config.unknown == "drop" and hasattr(data, "keep_only"):
            data.keep_only(self.labels)
        self.set_cameras((r.pid, r.camera) for r in getattr(data, "train_records", ()))

    def training_step(self, batch: Mapping[str, Any], batch_idx: int) -> Tensor:
        """Weighted sum of identity and triplet losses; unknown identities have only the latter."""
        read = read_batch(batch, self.target_labels)
        rows = self._rows(read)
        output: ReIDOutput = self.model(read.images, rows, read.cameras)
        loss, identity = self.loss, self._identity_loss(read, rows, output)
        total = loss.identity_weight * identity
        values = {"train/identity_loss": identity, "train/known": (rows >= 0).float().mean()}
        for name, (weight, metric) in self.metric_losses.items():
            value = self._metric_loss(metric, read, output)
            total = total + weight * value
            values[f"train/{name}_loss"] = value
        for extra in self.extra_losses:
            for name, (weight, value) in extra(read, output).items():
                total = total + weight * value
                values[f"train/{name}_loss"] = value
        size = len(rows)
        how: dict[str, Any] = {
            "on_step": False,
            "on_epoch": True,
            "batch_size": size,
            "sync_dist": True,
        }
        self.log("train/loss", total, prog_bar=True, **how)
        self.log_dict(values, **how)
        return total

    def _identity_loss(self, batch: Batch, rows: Tensor, output: ReIDOutput) -> Tensor:
        smoothing, heads = self.loss.smoothing, self.model.camera_heads()
        if heads:
            if not batch.cameras_told:
                raise InputError(
                    "a head per camera is trained on images whose camera is known, and this batch "
                    "says none; give `camids`, or official file names in `img_paths`."
                )
            return camera_identity_loss(heads, output.logits, rows, batch.cameras, smoothing)
        return mean_over_heads([identity_loss(v, rows, smoothing) for v in output.logits.values()])

    def _metric_loss(
        self, loss: TripletLoss | PairLoss, batch: Batch, output: ReIDOutput
    ) -> Tensor:
        embeddings, pids = output.embeddings.values(), batch.pids
        if self.model.camera_heads():
            values = [within_cameras(loss, e, pids, batch.camids) for e in embeddings]
        else:
            values = [loss(e, pids) for e in embeddings]
        return mean_over_heads(values)

    def set_cameras(self, pairs: Iterable[tuple[int, int]]) -> None:
        """Tell a head per camera (`camera_heads`) whom its camera has.

        `fit` tells them of a `ReIDDataModule`'s train images; for other loaders, call this before.

        Args:
            pairs: pid and camera (1-based) of each train image. Of people who are not among them,
                what the heads know stays, as from the starting weights.
        """
        set_members(self.model.camera_heads(), pairs)

    def _rows(self, batch: Batch) -> Tensor:
        rows = next(iter(self.model.remap_heads().values())).rows(batch.pids)
        if self._trainer is not None and not self._reads_records:
            self.add_identities(batch.pids.tolist())
        if self.config.unknown in ("forbid", "drop") and (rows < 0).any():
            strangers = sorted(set(batch.pids[rows < 0].tolist()))
            raise HeadMismatch(
                f"a batch holds {len(strangers)} identities that the head has no row for "
                f"({strangers[:5]}), and model.unknown={self.config.unknown}. Type "
                "model.unknown=skip, extend or reinit, or train on the split that the head was "
                "made for."
            )
        return rows

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Clip each tensor's gradient by itself, where `model.optimizer.clip` says so."""
        if self.optimizer_config.clip is not None:
            for parameter in self.parameters():
                torch.nn.utils.clip_grad_norm_(parameter, self.optimizer_config.clip)

    def configure_optimizers(self) -> Any:
        """The config's optimiser, its learning rate set before every step."""
        optimizer = self.optimizer_config.build(self.parameters())
        scheduler = ScheduleLR(optimizer, self.schedule, RunLength.of(self.trainer))
        return [optimizer], [{"scheduler": scheduler, "interval": "step", "name": "lr"}]

    def on_fit_start(self) -> None:
        """Train mode, the rows of new identities, and the record of this run's split."""
        self.train()  # `checkpoints.load` gives models in evaluation mode
        data: Any = getattr(self.trainer, "datamodule", None)
        new = {pid for people in self._rows_to_start().values() for pid in people.pids}
        if new and not self.rows_started and self.trainer.ckpt_path is None:
            if not hasattr(data, "eval_dataloader"):
                raise InputError(
                    f"{len(new)} identities start from features of their images: "
                    "fit with a ReIDDataModule, or call start_rows(loader) before."
                )
            records = [r for r in data.train_records if r.pid in new]
            self.start_rows(data.eval_dataloader(records, padded=False))
        self._reads_records = hasattr(data, "train_records")
        require_members(self.model.camera_heads())
        split: Any = getattr(data, "split", None)
        val = {r.pid for r in getattr(split, "val", ()) if r.pid > 0}
        self.provenance = replace(
            self.provenance,
            split=getattr(split, "record", None),
            val_identities=self.provenance.val_identities | val,
        )
        self.add_identities(
            (*self.labels.pids, *(r.pid for r in getattr(data, "train_records", ())))
        )

    def start_rows(self, loader: Iterable[Mapping[str, Any]]) -> None:
        """Start the rows of `new_identities` from the mean of their features.

        Under `model.unknown=extend`, the head of a camera also starts the rows of identities that
        the camera did not have in the starting weights.

        Args:
            loader: batches of their images, this process's share; sums travel between processes.
        """
        self.rows_started = True
        wanted = self._rows_to_start()
        people = LabelMap(tuple(dict.fromkeys(pid for own in wanted.values() for pid in own.pids)))
        for name, total in feature_sums(self.model, loader, people, self.device).items():
            if self._trainer is not None:
                total = self.trainer.strategy.reduce(total, reduce_op="sum")
            start_head(self.model.remap_heads()[name], wanted[name], people, total)

    def _rows_to_start(self) -> dict[str, LabelMap]:
        return rows_to_start(self.model, self.new_identities, self.config.unknown)

    def on_train_end(self) -> None:
        """Mark the rows that heads by camera have trained."""
        super().on_train_end()
        for head in self.model.camera_heads().values():
            head.trained |= head.members

    def on_train_epoch_end(self) -> None:
        """Gather the identities of other processes, where only batches give them."""
        if not self._reads_records and torch.distributed.is_initialized():
            others: list[Any] = [None] * torch.distributed.get_world_size()
            torch.distributed.all_gather_object(others, self.provenance.identities)
            self.add_identities(set().union(*others))

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the labels, the provenance and the versions."""
        own = checkpoint.setdefault("camreid", {})
        own.update(labels=list(self.labels.pids), versions=versions())
        own["provenance"] = self.provenance.to_json()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Read the provenance; the rows of the file were started."""
        self.provenance = Provenance.from_json(checkpoint.get("camreid", {}).get("provenance"))
        self.rows_started = True


def create_model(name: str, labels: LabelMap | Sequence[int], **options: object) -> ReIDModule:
    """A model of `conf/model/` with fresh weights; no weights are fetched.

    Args:
        name: a file of `conf/model/`, such as `bot_r50`.
        labels: the identities of its heads, in row order.
        options: see `camreid.models.presets.read_model`.

    Raises:
        InputError: no such model or option.

    >>> module = create_model("small", labels=[2, 7, 10])
    >>> module.model.heads["identity"].weight.shape[0]
    3
    """
    return ReIDModule(read_model(name, **options).without_weights(), labels)
