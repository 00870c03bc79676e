"""The loaders of a split."""

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal, TypeAlias

import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.utils.data import DataLoader, DistributedSampler, default_convert

from camreid.data.cache import ImageCache, Kind, cores
from camreid.data.dataset import Batch, ImageBatches, Interpolation
from camreid.data.manifest import Split
from camreid.data.records import ImageRecord
from camreid.data.sampler import IdentitySampler
from camreid.data.transforms import stream
from camreid.errors import InputError, require_choice, require_whole
from camreid.labels import LabelMap

Loader: TypeAlias = DataLoader[Batch]


class ReIDDataModule(pl.LightningDataModule):
    """Train, val, test and predict loaders of a split; batches are those of `ImageBatches`.

    Args:
        size: (H, W) in pixels.
        identities: P, identities in a train batch of each rank.
        instances: K, images of each. `auto` is the median number of images of an identity, from 2
            to 4; P is then such that batches keep 4 x `identities` images, or all identities.
        workers: loader processes; None for the cores of this rank, at most 8 (with a cache 2, and
            none on the CPU).
        seed: of sampling and augmentation.
        augment: of train batches, on their device: `Augment`, or any callable like it.
        sampler: of train batches: `IdentitySampler`, or a subclass or partial of one.
        within_camera: an identity under two cameras counts as two, so K images are of one camera.
        cache: of decoded images: on `disk` for all runs, in `memory` for each process, or `none`.
        cache_dir: of `disk`; None for `camreid` in XDG_CACHE_HOME, which is ~/.cache by default.
    """

    start = (0, 0)  # epoch and batch, from 0, of the next train loader; a resumed run sets it

    def __init__(
        self,
        split: Split,
        size: tuple[int, int],
        *,
        identities: int = 16,
        instances: int | Literal["auto"] = 4,
        eval_batch_size: int = 128,
        workers: int | None = None,
        seed: int = 0,
        augment: Callable[..., Tensor] | None = None,
        sampler: Callable[..., IdentitySampler] = IdentitySampler,
        interpolation: Interpolation = "bicubic",
        within_camera: bool = False,
        cache: Kind = "none",
        cache_dir: str | None = None,
    ) -> None:
        super().__init__()
        sizes = {"identities": identities, "instances": 4 if instances == "auto" else instances}
        for name, value in {**sizes, "eval_batch_size": eval_batch_size}.items():
            require_whole(name, value, least=1)
        for name, value in {"seed": seed, "workers": workers or 0}.items():
            require_whole(name, value, least=0)
        require_choice("cache", cache, Kind)
        self.split, self.size, self.interpolation = split, size, interpolation
        self.identities, self.instances = identities, instances
        self.eval_batch_size, self.workers = eval_batch_size, workers
        self.seed, self.augment, self.within_camera = seed, augment, within_camera
        self.sampler, self.train_records = sampler, split.train
        where = size, interpolation, cache_dir, cache == "memory"
        self.cache = None if cache == "none" else ImageCache(*where)

    def keep_only(self, labels: LabelMap | Mapping[int, LabelMap]) -> None:
        """Train on these identities alone, or on those of each camera: `unknown=drop`."""
        if isinstance(labels, LabelMap):
            labels = dict.fromkeys((r.camera for r in self.split.train), labels)
        self.train_records = tuple(r for r in self.split.train if r.pid in labels.get(r.camera, ()))

    def setup(self, stage: str) -> None:
        """Fill the cache; InputError if that fails, or if P x K batches cannot be made."""
        if stage == "fit":
            sampler = self.train_sampler(*self._place())
            if sampler.identities * sampler.instances == 1:
                raise InputError("instances=1: batch normalisation needs 2 images.", instances=4)
        if self.cache:
            images = (*self.split.train, *self.split.val, *self.split.query, *self.split.gallery)
            parts = ("train", "val") if stage in ("fit", "validate") else ("query", "gallery")
            folders = {os.path.dirname(r.path) for p in parts for r in getattr(self.split, p)}
            self.cache.locate([r.path for r in images if os.path.dirname(r.path) in folders])

    def train_sampler(self, rank: int = 0, world_size: int = 1) -> IdentitySampler:
        """The indices of a rank's train batches; InputError if P x K batches cannot be made."""
        pids = np.array([r.pid for r in self.train_records], dtype=np.int64)
        if self.within_camera:
            pids += (1 + pids.max(initial=0)) * np.array([r.camera for r in self.train_records])
        p, k = self.identities, self.instances
        if k == "auto":
            counts = np.unique(pids, return_counts=True)[1]
            k = int(np.median(counts).clip(2, 4))
            p = min(4 * p // k, len(counts) // world_size) or 1
        sampler = self.sampler(pids, p, k, self.seed, rank, world_size)
        sampler.records = self.train_records
        return sampler

    def train_dataloader(self) -> Loader:
        """P x K batches of this rank."""
        sampler = self.train_sampler(*self._place())
        # workers draw batches before Lightning sets the epoch
        (sampler.epoch, sampler.start), self.start = self.start, (0, 0)
        return self._loader(self.train_records, sampler, sampler.identities * sampler.instances)

    def val_dataloader(self) -> Loader | list[Any]:
        """The validation images; empty if there are none."""
        return self.eval_dataloader(self.split.val) if self.split.val else []

    def test_dataloader(self) -> list[Loader]:
        """The query and the gallery."""
        return [self.eval_dataloader(self.split.query), self.eval_dataloader(self.split.gallery)]

    predict_dataloader = test_dataloader

    def eval_dataloader(self, records: Sequence[ImageRecord], padded: bool = True) -> Loader:
        """This rank's share of `records`, in order; `padded` repeats images to equal shares."""
        rank, world_size = self._place()
        sampler: Iterable[int] = range(rank, len(records), world_size)
        if padded:
            sampler = DistributedSampler(records, world_size, rank, shuffle=False)  # type: ignore[arg-type]
        return self._loader(records, sampler, self.eval_batch_size)

    def on_after_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        """Augment train batches, on the device they are on."""
        if self.augment is None or self.trainer is None or not self.trainer.training:
            return batch
        number = self.trainer.fit_loop.epoch_loop.batch_progress.current.ready
        draws = stream(self.seed, self.trainer.current_epoch, number)
        return {**batch, "images": self.augment(batch["images"], draws, *self._place())}

    def _place(self) -> tuple[int, int]:
        return (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)

    def _loader(self, records: Sequence[ImageRecord], sampler: Iterable[int], size: int) -> Loader:
        workers = self.workers
        located = self.cache.locate([r.path for r in records]) if self.cache else None
        if workers is None:
            most = 8 if located is None else 2 * torch.cuda.is_available()
            workers = min(most, cores() // max(1, self.trainer.num_devices if self.trainer else 1))
        return DataLoader(
            ImageBatches(records, self.size, self.interpolation, located),
            size,
            sampler=sampler,
            num_workers=workers,
            collate_fn=default_convert,
            persistent_workers=workers > 0,
            multiprocessing_context="fork" if located and workers else None,  # shares the files
            pin_memory=torch.cuda.is_available(),
            drop_last=isinstance(sampler, IdentitySampler),
        )
