"""P x K sampling: P identities, K images each, in every batch of every rank."""

from collections.abc import Iterator, Sequence

import numpy as np
from torch.utils.data import Sampler

from camreid.errors import InputError


class IdentitySampler(Sampler[int]):
    """Indices in batches of P*K: P different identities with K images each.

    An index sampler, so that Lightning calls its `set_epoch`; use it with `batch_size=P*K`. Every
    identity gives n // K groups of its n images to an epoch, but at least one, with repeats if n is
    below K, and at most one for each batch. Groups go to the emptiest batches, and the last places
    to identities drawn at random, so the length is the same on every rank.

    Args:
        pids: identity of each image.
        identities: P, per rank.
        instances: K.
        seed: the run's seed.
        rank: of this process.
        world_size: number of processes.

    Raises:
        InputError: fewer than P identities.
    """

    def __init__(
        self,
        pids: Sequence[int],
        identities: int,
        instances: int,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self.identities, self.instances = identities, instances
        self.seed, self.rank, self.world_size = seed, rank, world_size
        self.epoch = 0
        array = np.asarray(pids)
        order = np.argsort(array, kind="stable")
        starts = np.unique(array[order], return_index=True)[1]
        self._images = np.split(order, starts[1:])
        if len(starts) < identities:
            raise InputError(
                f"batches of {identities} identities x {instances} images can't be made from "
                f"{len(starts)} identities ({len(array)} images).",
                identities=max(1, len(starts)),
            )
        groups = np.array([max(1, len(images) // instances) for images in self._images])
        batches = -(-int(groups.sum()) // identities)
        self.batches = -(-batches // world_size)  # per rank
        self._groups = groups.clip(max=self.batches * world_size)

    def set_epoch(self, epoch: int) -> None:
        """Draw anew for this epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.batches * self.identities * self.instances

    def __iter__(self) -> Iterator[int]:
        rng = np.random.default_rng((self.seed, self.epoch))
        groups = [self._cut(images, rng) for images in self._images]
        for number, chosen in enumerate(self._deal(rng)):
            # every rank draws for all, so that the streams stay together
            batch = np.concatenate([next(groups[identity]) for identity in chosen])
            if number % self.world_size == self.rank:
                yield from batch.tolist()

    def _deal(self, rng: np.random.Generator) -> Iterator[np.ndarray]:
        """The identities of each batch of all ranks."""
        total = self.batches * self.world_size
        load = np.zeros(total, dtype=np.int64)
        dealt: list[list[int]] = [[] for _ in range(total)]
        for identity in rng.permutation(len(self._images)):
            emptiest = np.argsort(load + rng.random(total), kind="stable")[: self._groups[identity]]
            load[emptiest] += 1
            for batch in emptiest:
                dealt[batch].append(identity)
        for chosen in dealt:
            others = np.setdiff1d(np.arange(len(self._images)), chosen)
            added = rng.choice(others, self.identities - len(chosen), replace=False)
            yield rng.permutation([*chosen, *added])

    def _cut(self, images: np.ndarray, rng: np.random.Generator) -> Iterator[np.ndarray]:
        """Groups of K images of one identity, without end; left-over images wait for a shuffle."""
        while True:
            shuffled = rng.permutation(images)
            whole = max(1, len(images) // self.instances) * self.instances
            yield from np.resize(shuffled, whole).reshape(-1, self.instances)
