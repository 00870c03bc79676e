import time
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from camreid.data import IdentitySampler
from camreid.errors import InputError


def batches(sampler: IdentitySampler, epoch: int = 0) -> np.ndarray:
    """(batches, P, K) indices of an epoch."""
    sampler.set_epoch(epoch)
    indices = list(sampler)
    assert len(indices) == len(sampler)
    return np.reshape(indices, (-1, sampler.identities, sampler.instances))


@settings(deadline=None, max_examples=80)
@given(
    counts=st.lists(st.integers(1, 30), min_size=6, max_size=25),
    large=st.sampled_from([0, 0, 200]),
    identities=st.integers(1, 3),
    instances=st.integers(1, 6),
    world_size=st.sampled_from([1, 2]),
    epoch=st.integers(0, 3),
)
def test_every_epoch_is_even(
    counts: list[int], large: int, identities: int, instances: int, world_size: int, epoch: int
) -> None:
    counts = [counts[0] + large, *counts[1:]]
    pids = np.repeat(np.arange(len(counts)), counts)
    samplers = [
        IdentitySampler(pids, identities, instances, 0, rank, world_size)
        for rank in range(world_size)
    ]
    drawn = np.concatenate([batches(sampler, epoch) for sampler in samplers], 1)
    owners = pids[drawn]
    assert (owners == owners[..., :1]).all()
    assert all(len(set(batch)) == identities * world_size for batch in owners[..., 0])
    for images in drawn.reshape(-1, instances):  # repeats only where it must
        assert len(set(images)) == min(instances, counts[pids[images[0]]])
    draws = np.bincount(drawn.ravel(), minlength=len(pids))
    for pid, count in enumerate(counts):
        own = draws[pids == pid]
        assert own.max() - own.min() <= 1
        if -(-count // instances) <= len(drawn):
            assert own.min() >= 1
        else:  # at most once for each batch, and in every batch
            assert own.sum() == len(drawn) * instances


@pytest.mark.parametrize("world_size", [2, 4])
def test_ranks_share_the_batches_of_one_rank(world_size: int) -> None:
    pids = np.repeat(np.arange(40), np.random.default_rng(0).integers(1, 12, 40))
    ranks = [IdentitySampler(pids, 8 // world_size, 4, 3, r, world_size) for r in range(world_size)]
    for epoch in (0, 1):
        one = batches(IdentitySampler(pids, 8, 4, 3), epoch)
        np.testing.assert_array_equal(np.concatenate([batches(r, epoch) for r in ranks], 1), one)


def test_an_epoch_has_few_repeats() -> None:
    pids = np.repeat(np.arange(200), np.random.default_rng(0).integers(2, 40, 200))
    sampler = IdentitySampler(pids, 16, 4)
    groups = sum(-(-count // 4) for count in Counter(pids.tolist()).values())
    assert groups * 4 <= len(sampler) < groups * 4 + 64


def test_images_with_one_draw_more_take_turns() -> None:
    pids = np.repeat(np.arange(8), 7)  # 8 draws of 7 images
    sampler = IdentitySampler(pids, 8, 4)
    for epochs in (7, 14):
        drawn = np.concatenate([batches(sampler, epoch).ravel() for epoch in range(epochs)])
        assert set(np.bincount(drawn)) == {8 * epochs // 7}


def test_a_large_identity_does_not_lengthen_an_epoch() -> None:
    large = 400
    pids = np.array([0] * large + [pid for pid in range(1, 20) for _ in range(4)])
    sampler = IdentitySampler(pids, 16, 4)
    assert len(sampler) < 1.1 * len(pids)
    drawn = [batches(sampler, epoch) for epoch in range(13)]  # 13 epochs of 8 batches: 416 images
    assert all((pids[batch[:, 0]] == 0).sum() == 1 for epoch in drawn for batch in epoch)
    counts = np.bincount(np.concatenate(drawn).ravel(), minlength=len(pids))
    assert set(counts[:large]) == {1, 2}
    assert counts[large:].max() < 1.2 * counts[large:].min()


def test_identities_meet_others_in_each_epoch() -> None:
    sampler = IdentitySampler(np.repeat(np.arange(40), 8), 4, 4)
    met = np.zeros((40, 40), dtype=int)
    for epoch in range(200):
        for owners in batches(sampler, epoch)[..., 0] // 8:
            met[np.ix_(owners, owners)] += 1
    others = met[~np.eye(40, dtype=bool)]
    expected = 200 * 20 * 4 * 3 / (40 * 39)
    assert abs(others - expected).max() < 6 * expected**0.5


def test_epochs_and_seeds_differ_and_repeat() -> None:
    pids = np.repeat(np.arange(20), 10)
    sampler, other = (IdentitySampler(pids, 4, 4, seed) for seed in (5, 6))
    first, second = batches(sampler, 0), batches(sampler, 1)
    assert np.array_equal(first, batches(sampler, 0))
    assert not np.array_equal(first, second)
    assert not np.array_equal(first, batches(other, 0))


def test_an_epoch_continues_behind_its_first_batches() -> None:
    pids = np.repeat(np.arange(20), 10)
    sampler = IdentitySampler(pids, 4, 4, 0, 1, 2)
    sampler.set_epoch(2)
    whole = list(sampler)
    sampler.start = 3
    sampler.set_epoch(2)
    assert list(sampler) == whole[3 * 16 :]
    sampler.set_epoch(3)
    assert len(list(sampler)) == len(sampler) == len(whole)


@pytest.mark.parametrize(
    ("identities", "ranks", "remedy"), [(4, 1, "identities=3"), (2, 2, "identities=1"),
                                        (1, 4, "devices=1")]
)  # fmt: skip
def test_too_few_identities_are_refused(identities: int, ranks: int, remedy: str) -> None:
    with pytest.raises(InputError, match=rf"3 identities \(9 images\).* {remedy}\."):
        IdentitySampler([1, 2, 3] * 3, identities, 4, 0, 0, ranks)


def test_half_a_million_images_take_seconds() -> None:
    pids = np.random.default_rng(0).integers(0, 30_000, 500_000)
    start = time.process_time()
    assert len(set(IdentitySampler(pids, 16, 4))) == len(pids)
    assert time.process_time() - start < 6
