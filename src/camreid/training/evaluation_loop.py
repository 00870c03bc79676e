"""Validation and test of a network: features collected, ranked and kept."""

import math
from collections.abc import Mapping
from contextlib import suppress
from functools import partial
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from camreid.errors import InputError, NoValidQuery
from camreid.evaluation.features import FeatureTable
from camreid.evaluation.metric import IdentityAccuracy, RetrievalMetric, Role
from camreid.evaluation.summary import EvaluationResult, RankOptions
from camreid.evaluation.verification import Calibration, verify
from camreid.models.network import FeatureOptions, ReIDNetwork, ReIDOutput
from camreid.progress import note
from camreid.provenance import Provenance
from camreid.training.batch import Batch, read_batch


class RetrievalModule(pl.LightningModule):
    """The evaluation hooks of a module that has a network; single precision in mixed precision."""

    model: ReIDNetwork
    provenance: Provenance  # of the weights, in this run and before it

    def __init__(self) -> None:
        super().__init__()
        self.val_metric = RetrievalMetric(protocol="auto")
        self.test_metric, self.test_accuracy = RetrievalMetric(), IdentityAccuracy()
        self.feature_options, self.rank_options = FeatureOptions(), RankOptions()
        self.test_features: FeatureTable | None = None  # of the last test
        self.test_result: EvaluationResult | None = None
        self.calibration: Calibration | None = None  # of the last validation or of a file

    def on_train_start(self) -> None:
        """Keep the interval of validations."""
        self._val_every = self.trainer.check_val_every_n_epoch

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Validate after the run's last batch, due or not: the best checkpoint needs a value."""
        self.calibration = None  # of other weights
        trainer: Any = self.trainer
        epoch, step = trainer.current_epoch, trainer.global_step
        ends = trainer.is_last_batch and epoch + 1 == trainer.max_epochs
        least = epoch >= (trainer.min_epochs or 0) and step >= (trainer.min_steps or 0)
        # a callback, such as a timer, may end the run here
        if ends or step == trainer.max_steps or (trainer.should_stop and least):
            trainer.check_val_every_n_epoch, trainer.val_check_batch = 1, batch_idx + 1
            trainer.should_stop = True  # where `val_check_interval` is a time

    def on_train_end(self) -> None:
        """Restore the interval of validations."""
        self.trainer.check_val_every_n_epoch = self._val_every

    def on_validation_start(self) -> None:
        """Rank 0's running statistics for all, so that all ranks evaluate what will be saved."""
        if self.trainer.world_size > 1:
            for buffer in self.buffers():
                torch.distributed.broadcast(buffer, src=0)

    def validation_step(self, batch: Mapping[str, Any], batch_idx: int) -> None:
        """Collect features; each image is ranked against all the others."""
        read, index, _, features = self._features(batch, batch_idx)
        self.val_metric.update(features, read.pids, read.cameras, index, "both")

    def on_validation_epoch_end(self) -> None:
        """Log `val/mAP` and the rest, and keep the calibration of the validation pairs."""
        try:
            result = self.val_metric.ranking(self._split)
            values = result.scalars()
            for split in (self._split, None):  # without sequences where no identity has two
                with suppress(InputError):  # pairs of one kind only
                    pairs = verify(self.val_metric.table(split), result.protocol, self.device)
                    self.calibration = Calibration.fit(pairs)
                    break
        except NoValidQuery:
            if not is_partial(self.trainer, "val"):
                raise
            values = {"mAP": math.nan}
        self.val_metric.reset()
        for name, value in values.items():
            self.log(f"val/{name}", float(value), prog_bar=name == "mAP", sync_dist=True)

    def on_test_epoch_start(self) -> None:
        """Forget an earlier test."""
        self.test_metric.reset()
        self.test_accuracy.reset()

    def test_step(self, batch: Mapping[str, Any], batch_idx: int, dataloader_idx: int = 0) -> None:
        """Collect features and predictions of the query (loader 0) and the gallery (loader 1)."""
        role: Role = "gallery" if dataloader_idx else "query"
        read, index, output, features = self._features(batch, batch_idx)
        self.test_metric.update(features, read.pids, read.cameras, index, role)
        self.test_accuracy.update(*self._predict(read, output), index, role)

    def _features(self, batch: Any, batch_idx: int) -> tuple[Batch, Tensor, ReIDOutput, Tensor]:
        """The batch, (B,) numbers of its images, the network's output, and what is compared."""
        read = read_batch(batch, training=False)
        index, network = read.index, partial(self.model, cameras=read.cameras)
        if index is None:  # by rank and place; no loader has 2**20 batches, nor one 2**20 images
            first = (self.global_rank * 2**20 + batch_idx) * 2**20
            index = torch.arange(len(read.pids), device=read.pids.device) + first
        with torch.autocast(self.device.type, enabled=False):
            output: ReIDOutput = network(read.images)
            return read, index, output, self.feature_options(network, read.images, output)

    @property
    def _datamodule(self) -> Any:
        return getattr(self.trainer, "datamodule", None)

    @property
    def _split(self) -> Any:
        return getattr(self._datamodule, "split", None)

    def _predict(self, batch: Batch, output: ReIDOutput) -> tuple[Tensor, Tensor]:
        """Logits and true rows (-1 for none), with heads per camera of the image's own head."""
        rows = self.model.rows(batch.pids, batch.cameras)
        if not self.model.camera_labels:
            return torch.stack(list(output.logits.values())).sum(0), next(iter(rows.values()))
        # an image has a row in one head at most
        row, head = torch.stack(list(rows.values())).max(0)
        logits = pad_sequence([x.T for x in output.logits.values()], padding_value=-torch.inf)
        return logits[:, head, torch.arange(len(head), device=head.device)].T, row

    def on_test_epoch_end(self) -> None:
        """Rank, log `test/mAP` and the rest, and keep `test_features` and `test_result`."""
        identity = {name: value.item() for name, value in self.test_accuracy.compute().items()}
        self.test_features, self.test_result = self.test_metric.table(self._split), None
        query, gallery = self.test_features.query, self.test_features.gallery
        note(f"Ranking {len(query.pids):,} query against {len(gallery.pids):,} gallery images")
        try:
            result, protocols = self.rank_options.rank(self.test_features, self.device)
        except NoValidQuery:
            if not is_partial(self.trainer):
                raise
            return
        seen, asked = self.provenance.seen, (self.test_features, self.device, self.calibration)
        found = self.rank_options.decisions(*asked)
        self.test_result = EvaluationResult(result, seen, identity, protocols, found)
        closed = {f"identity_{name}": identity[name] for name in ("accuracy", "coverage")}
        for name, value in {**result.scalars(), **closed}.items():
            if not math.isnan(value):
                self.log(f"test/{name}", float(value), sync_dist=True)


def is_partial(trainer: pl.Trainer, stage: str = "test") -> bool:
    """Whether a stage has a part of its batches, as in a dry run, which may hold no match."""
    limit = getattr(trainer, f"limit_{stage}_batches")
    whole = isinstance(limit, float) and limit == 1.0  # the whole number 1 is one batch
    return not whole or bool(trainer.fast_dev_run)  # type: ignore[attr-defined]
