"""P x K sampling: P identities, K images each, in every batch of every rank."""

from collections.abc import Iterator, Sequence

import numpy as np
from torch.utils.data import Sampler

from camreid.data.records import ImageRecord
from camreid.errors import InputError


class IdentitySampler(Sampler[int]):
    """Indices for `batch_size=P*K`: P different `identities`, per rank, with K `instances` each.

    An epoch shows every image: an identity of n images is drawn ceil(n / K) times, at most once for
    each batch. Its images differ by at most one draw, and those with one more take turns from epoch
    to epoch. K images differ if n is at least K. Identities drawn at random, once more each, fill
    the last batches. An identity with more than a P-th of the draws is in every batch, and an epoch
    shows a part of its images, in turn; the others are then drawn in proportion to their images.

    Ranks share batches: those of W ranks with P identities each are, in rank order, those of one
    rank with W*P identities. InputError for fewer identities.
    """

    records: Sequence[ImageRecord] = ()  # set by `ReIDDataModule`, for subclasses
    start = 0  # batches of the epoch to leave out, until another epoch is set

    def __init__(
        self,
        pids: Sequence[int] | np.ndarray,
        identities: int,
        instances: int,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self.identities, self.instances = identities, instances
        self.seed, self.rank, self.world_size = seed, rank, world_size
        self.epoch = 0
        _, owners, self._sizes = np.unique(pids, return_inverse=True, return_counts=True)
        found, places = len(self._sizes), identities * world_size
        if found < places:
            each = f"{identities} identities x {instances} images in each of {world_size} processes"
            way = {"identities": found // world_size} if found >= world_size else {"devices": 1}
            raise InputError(f"{found} identities ({len(owners)} images) can't make {each}.", **way)
        random = np.random.default_rng(seed).random(len(owners))
        self._images = np.lexsort((random, owners))  # by identity
        self._owners = owners[self._images]
        self._first = self._sizes.cumsum() - self._sizes  # place of an identity in `_images`
        self.batches = -(-int(np.ceil(self._sizes / instances).sum()) // places)  # of each rank
        self._groups = _spread(self._sizes / instances, self.batches, places)

    def set_epoch(self, epoch: int) -> None:
        """Draw anew for this epoch."""
        self.start = self.start if epoch == self.epoch else 0
        self.epoch = epoch

    def __len__(self) -> int:
        """Indices of an epoch, those before `start` included."""
        return self.batches * self.identities * self.instances

    def __iter__(self) -> Iterator[int]:
        rng = np.random.default_rng((self.seed, self.epoch))
        groups = self._groups.copy()
        places = self.batches * self.identities * self.world_size
        spare = np.flatnonzero(groups < self.batches)
        groups[rng.choice(spare, places - groups.sum(), replace=False)] += 1
        order = rng.permutation(len(groups))
        owners = np.repeat(order, groups[order])  # of each group
        turns = np.arange(places) - np.repeat(groups[order].cumsum() - groups[order], groups[order])
        images = self._shuffle(groups * self.instances, rng)
        own = slice(self.rank * self.identities, (self.rank + 1) * self.identities)
        dealt = _deal(owners.reshape(-1, self.batches), rng)[self.start :, own, None]
        draws = turns[dealt] * self.instances + np.arange(self.instances)  # (batches, P, K)
        chosen = images[self._first[owners[dealt]] + draws % self._sizes[owners[dealt]]]
        yield from chosen.ravel().tolist()

    def _shuffle(self, draws: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """The images by identity in random order; first those with one draw more, by turns."""
        begin = self.epoch * self._groups * self.instances
        circle = np.arange(len(self._owners)) - (self._first + begin)[self._owners]
        late = circle % self._sizes[self._owners] >= (draws % self._sizes)[self._owners]
        return self._images[np.argsort(self._owners + 0.5 * late + 0.4 * rng.random(len(late)))]


def _spread(need: np.ndarray, batches: int, places: int) -> np.ndarray:
    """Groups of each identity: at most one for each of `batches`, which have `places` identities.

    That is `need` or, where a large identity leaves places free, its greatest multiple that fits.
    """
    low, high = 1.0, batches / need.min() + 1
    while high - low > 1e-9 * high:
        middle = (low + high) / 2
        fits = np.ceil(middle * need).clip(max=batches).sum() <= batches * places
        low, high = (middle, high) if fits else (low, middle)
    return np.ceil(low * need).clip(max=batches).astype(np.int64)


def _deal(owners: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """(batches, places) number of each group in a (places, batches) array of their identities.

    The groups of an identity follow each other, in one row or in two. Each row goes to the batches
    in random order; a row's first identity leaves out those that it has from the row before.
    """
    places, batches = owners.shape
    dealt = np.empty((batches, places), dtype=np.int64)
    taken, last = np.zeros(batches, dtype=bool), -1
    for place, row in enumerate(owners):
        columns = rng.permutation(batches)
        columns = columns[taken[columns].argsort(kind="stable")]
        rng.shuffle(columns[np.count_nonzero(row == last) :])
        dealt[columns, place] = place * batches + np.arange(batches)
        last = row[-1]
        taken = np.isin(np.arange(batches), columns[row == last])
    return dealt
