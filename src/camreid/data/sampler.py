"""P x K sampling: P identities, K images each, in every batch of every rank."""

from collections.abc import Iterator, Sequence

import numpy as np
from torch.utils.data import Sampler

from camreid.errors import InputError


class IdentitySampler(Sampler[int]):
    """Indices whose consecutive runs of P*K are batches of P different identities, K images each.

    An index sampler, so that Lightning calls its `set_epoch`; use it with `batch_size=P*K`. In an
    epoch every identity is used at least once, in n // K groups of its n images; one with fewer
    than K images repeats its own. Groups of one identity go to different batches, always the
    emptiest ones, which fills batches evenly (to one group); the last places go to identities
    drawn at random. So the length is known beforehand and the same on every rank.

    Args:
        pids: identity of each image.
        identities: P, per rank.
        instances: K.
        seed: the run's seed.
        rank: which share of the batches is this process's.
        world_size: number of processes.
        of: what the numbers in `pids` are, for the error.

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
        of: str = "identities",
    ) -> None:
        self.identities, self.instances = identities, instances
        self.seed, self.rank, self.world_size = seed, rank, world_size
        self.epoch = 0
        array = np.asarray(pids)
        order = np.argsort(array, kind="stable")
        starts = np.unique(array[order], return_index=True)[1]
        self._images = np.split(order, starts[1:])
        if identities < 1 or instances < 1 or len(starts) < identities:
            raise InputError(
                f"batches of {identities} identities x {instances} images can't be made from "
                f"{len(starts)} {of} ({len(array)} images); type data.identities=P with P "
                f"from 1 to {len(starts)}, and data.instances=K with K from 1."
            )
        groups = np.array([max(1, len(images) // instances) for images in self._images])
        batches = max(int(groups.max()), -(-int(groups.sum()) // identities))
        self._groups = groups
        self.batches = -(-batches // world_size)  # per rank

    def set_epoch(self, epoch: int) -> None:
        """Draw anew for this epoch, the same in every process."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.batches * self.identities * self.instances

    def __iter__(self) -> Iterator[int]:
        rng = np.random.default_rng((self.seed, self.epoch))
        batches = self._deal(rng)
        groups = [iter(self._cut(images, rng)) for images in self._images]
        for number, people in enumerate(batches):
            # every rank draws for all, so that the streams stay together
            drawn = [next(groups[p], None) for p in people]
            indices = [
                self._some(self._images[p], rng) if group is None else group
                for p, group in zip(people, drawn, strict=True)
            ]
            if number % self.world_size == self.rank:
                yield from np.concatenate(indices).tolist()

    def _deal(self, rng: np.random.Generator) -> list[np.ndarray]:
        """The identities of each batch of all ranks."""
        total = self.batches * self.world_size
        load = np.zeros(total, dtype=np.int64)
        people: list[list[int]] = [[] for _ in range(total)]
        for person in rng.permutation(len(self._images)):
            emptiest = np.argsort(load + rng.random(total), kind="stable")[: self._groups[person]]
            load[emptiest] += 1
            for batch in emptiest:
                people[batch].append(person)
        return [self._top_up(batch, rng) for batch in people]

    def _top_up(self, people: list[int], rng: np.random.Generator) -> np.ndarray:
        others = np.setdiff1d(np.arange(len(self._images)), people)
        added = rng.choice(others, self.identities - len(people), replace=False)
        return rng.permutation(np.concatenate([people, added]).astype(np.int64))

    def _cut(self, images: np.ndarray, rng: np.random.Generator) -> list[np.ndarray]:
        """The images of one identity in shuffled groups of K; what is left over rests."""
        if len(images) < self.instances:
            return [self._some(images, rng)]
        shuffled = rng.permutation(images)
        whole = len(images) // self.instances * self.instances
        return list(shuffled[:whole].reshape(-1, self.instances))

    def _some(self, images: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """K images of one identity, each as often as the others, to one."""
        times = -(-self.instances // len(images))
        return np.concatenate([rng.permutation(images) for _ in range(times)])[: self.instances]
