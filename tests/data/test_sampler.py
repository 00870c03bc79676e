from collections import Counter

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from camreid.data import IdentitySampler


def batches(sampler: IdentitySampler) -> list[list[int]]:
    indices, size = list(sampler), sampler.identities * sampler.instances
    assert len(indices) == len(sampler)
    return [indices[i : i + size] for i in range(0, len(indices), size)]


@settings(deadline=None, max_examples=60)
@given(
    counts=st.lists(st.integers(1, 30), min_size=3, max_size=25),
    identities=st.integers(1, 3),
    instances=st.integers(1, 6),
    world_size=st.integers(1, 3),
    epoch=st.integers(0, 3),
)
def test_every_batch_of_every_rank_is_p_by_k(
    counts: list[int], identities: int, instances: int, world_size: int, epoch: int
) -> None:
    pids = np.repeat(np.arange(len(counts)), counts).tolist()
    lengths, used, drawn = set(), set(), Counter()
    for rank in range(world_size):
        sampler = IdentitySampler(pids, identities, instances, 0, rank, world_size)
        sampler.set_epoch(epoch)
        lengths.add(len(sampler))
        for batch in batches(sampler):
            drawn_pids = Counter(pids[i] for i in batch)
            assert list(drawn_pids.values()) == [instances] * identities
            used |= set(drawn_pids)
            for pid in drawn_pids:
                own = [i for i in batch if pids[i] == pid]
                assert len(set(own)) == min(instances, counts[pid])  # repeats only where it must
            drawn.update(batch)
    assert len(lengths) == 1
    assert used == set(range(len(counts)))
    assert set(drawn) <= set(range(len(pids)))


def test_an_epoch_is_about_all_images() -> None:
    pids = np.repeat(np.arange(200), np.random.default_rng(0).integers(2, 40, 200)).tolist()
    sampler = IdentitySampler(pids, 16, 4)
    assert len(set(sampler)) > 0.85 * len(pids)
    assert len(sampler) < 1.1 * len(pids)


def test_a_large_identity_does_not_lengthen_an_epoch() -> None:
    large = 400
    pids = [0] * large + [pid for pid in range(1, 20) for _ in range(4)]
    sampler = IdentitySampler(pids, 16, 4)
    assert len(sampler) < 1.1 * len(pids)
    first = list(sampler)
    assert {pids[i] for i in first} == set(range(20))
    sampler.set_epoch(1)
    assert {i for i in sampler if i < large} != {i for i in first if i < large}


def test_epochs_and_ranks_differ_and_repeat() -> None:
    pids = np.repeat(np.arange(20), 10).tolist()
    sampler, other = (IdentitySampler(pids, 4, 4, 5, rank, 2) for rank in (0, 1))
    first = list(sampler)
    sampler.set_epoch(1)
    second = list(sampler)
    sampler.set_epoch(0)
    assert first == list(sampler) != second
    assert first != list(other)
