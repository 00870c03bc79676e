import json
import random
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from camreid.data import ImageRecord, OriginalSplit, Records, Resplit, Split
from camreid.data.records import identities, parse_name
from camreid.data.splits import stratified
from camreid.errors import InputError
from camreid.provenance import Dataset
from tests.conftest import GOLDEN, SHARED

NAMES = SHARED / "market1501_train_names.txt"
STRATEGIES = [
    OriginalSplit(None, 0.0, 0),
    OriginalSplit(3, 0.4, 1),
    Resplit(0.5, 0.2, 0),
    Resplit(0.5, 0.2, 0, by="image"),
    Resplit(0.6, 0.4, 0, pool="train"),
    Resplit(0.4, 0.2, 0, seen=(1, 2, 3, 5, 8, 13)),
]


def pids(records: Iterable[ImageRecord]) -> set[int]:
    return set(identities(records))


def all_images(records: Records) -> tuple[ImageRecord, ...]:
    return (*records.train, *records.query, *records.gallery)


def has_one_query_per_camera(split: Split) -> bool:
    queries = Counter((r.pid, r.camera) for r in split.query)
    tested = {(r.pid, r.camera) for r in (*split.query, *split.gallery) if r.pid > 0}
    return set(queries.values()) == {1} and set(queries) == tested


@pytest.fixture(scope="module")
def official() -> Records:
    if not NAMES.is_file():
        pytest.skip("the official file names are not here")
    names = NAMES.read_text().split()
    train = tuple(parse_name(f"bounding_box_train/{n}") for n in names)
    return Records(train, (), ())


def test_official_counts(official: Records) -> None:
    facts = json.loads((GOLDEN / "market1501_train_facts.json").read_text())
    split = OriginalSplit(camera=None, val_fraction=0.0, seed=0)(official)
    assert split.labels.pids == tuple(facts["class_index_to_pid_fastreid(lexicographic)"])
    assert split.labels.row(704) == 582
    counts = [len(OriginalSplit(c, 0.0, 0)(official).labels) for c in range(1, 7)]
    assert counts == [652, 541, 694, 241, 576, 558]


@pytest.mark.parametrize("strategy", STRATEGIES, ids=str)
def test_same_under_any_listing_order(strategy: OriginalSplit, records: Records) -> None:
    rng = random.Random(7)
    parts = (records.train, records.query, records.gallery)
    other = Records(*(tuple(rng.sample(part, len(part))) for part in parts))
    split = strategy(records)
    assert strategy(other) == split
    assert strategy(other).digest == split.digest
    assert (split.record.digest, split.record.options["seed"]) == (split.digest, strategy.seed)
    assert {r for r in split.gallery if r.pid == 0} == {r for r in records.gallery if r.pid == 0}
    assert not any(r.pid <= 0 for r in (*split.train, *split.val, *split.query))


@pytest.mark.slow
def test_same_in_another_process(records: Records, market: object) -> None:
    code = (
        "from camreid.data import Resplit, read_market1501;"
        f"print(Resplit(0.5, 0.2, 3)(read_market1501({str(market)!r})).digest)"
    )
    options = {"capture_output": True, "text": True, "check": True}
    found = subprocess.run([sys.executable, "-c", code], env={"PYTHONHASHSEED": "5"}, **options)
    digests = [Resplit(0.5, 0.2, seed)(records).digest for seed in (0, 1, 2, 3)]
    assert found.stdout.strip() == digests[3]
    assert len(set(digests)) == 4


def test_an_expert_trains_on_one_camera_and_is_tested_on_all(records: Records) -> None:
    split = OriginalSplit(camera=3, val_fraction=0.0, seed=0)(records)
    assert set(split.train) == {r for r in records.train if r.camera == 3}
    assert set(split.query) == set(records.query)
    assert set(split.gallery) == set(records.gallery)
    assert split.val == ()
    held_out = OriginalSplit(camera=3, val_fraction=0.3, seed=0)(records)
    assert held_out.val_within_camera
    assert not pids(held_out.val) & pids(held_out.train)
    every = OriginalSplit(None, 0.01, 0)(records)
    assert not every.val_within_camera
    assert len(pids(every.val)) == 2  # at least, so that validation has matches
    assert every.rankable["val"] == len(every.val)


@pytest.mark.parametrize("pool", ["all", "train"])
def test_by_identity_train_val_and_test_are_disjoint(records: Records, pool: str) -> None:
    split = Resplit(0.5, 0.2, 0, pool=pool)(records)
    train, val, test = pids(split.train), pids(split.val), pids((*split.query, *split.gallery))
    pooled = pids(all_images(records) if pool == "all" else records.train)
    assert len(train) + len(val) + len(test) == len(pooled)
    assert train | val | test == pooled
    assert len(test) == round(len(pooled) * 0.5)
    assert train == set(split.labels.pids)
    assert has_one_query_per_camera(split)
    assert not set(split.query) & set(split.gallery)
    seen = {(r.pid, r.camera) for r in split.gallery}
    matched = [r for r in split.query if any(p == r.pid and c != r.camera for p, c in seen)]
    assert split.rankable["query"] == len(matched) > 0


def test_by_image_the_images_of_every_identity_are_divided(records: Records) -> None:
    split = Resplit(0.5, 0.1, 0, by="image")(records)
    assert pids(split.train) == pids(all_images(records)) == set(split.labels.pids)
    gallery = {r for r in split.gallery if r.pid}
    parts = [set(split.train), set(split.val), set(split.query), gallery]
    assert sum(map(len, parts)) == len(set.union(*parts))
    test = len(split.query) + len(gallery)
    assert test / sum(map(len, parts)) == pytest.approx(0.5, abs=0.05)


def test_each_camera_gives_its_share_of_identities(official: Records) -> None:
    split = Resplit(0.5, 0.0, 0, pool="train")(official)
    whole, train = ({(r.pid, r.camera) for r in s} for s in (official.train, split.train))
    for camera in range(1, 7):
        share = sum(c == camera for _, c in train) / sum(c == camera for _, c in whole)
        assert share == pytest.approx(0.5, abs=0.02)


@given(st.lists(st.integers(0, 5), max_size=60), st.floats(0, 1), st.integers(0, 10**6))
def test_stratified_gives_every_stratum_its_share(
    strata: list[int], fraction: float, seed: int
) -> None:
    items = list(enumerate(strata))
    count = round(len(items) * fraction)
    first, second = stratified(items, lambda i: i[1], count, random.Random(seed))
    assert sorted(first + second) == items
    assert len(first) == count
    taken = Counter(s for _, s in first)
    for stratum, count in Counter(strata).items():
        assert abs(taken[stratum] - count * len(first) / len(items)) < 1 + 1e-9


def test_what_the_records_cannot_give_is_refused(records: Records) -> None:
    with pytest.raises(InputError, match="the cameras are 1, 2, 3, 4, 5, 6"):
        OriginalSplit(camera=7)(records)
    two = replace(records, datasets=(Dataset("a"), Dataset("b")))
    with pytest.raises(InputError, match="leaves out all datasets but one"):
        OriginalSplit(camera=1)(two)
    with pytest.raises(InputError, match="by=image tests"):
        Resplit(by="image", seen=(1,))
    train = tuple(ImageRecord(f"t/{pid}.jpg", pid, 1 + pid % 2) for pid in range(1, 9))
    with pytest.raises(InputError, match=r"50 % held out.* 0 for"):
        OriginalSplit(val_fraction=0.5)(Records(train, (), ()))


@pytest.mark.parametrize("seed", range(8))
def test_seen_identities_are_not_tested(records: Records, seed: int) -> None:
    everyone, rng = pids(all_images(records)), random.Random(seed)
    seen = set(rng.sample(sorted(everyone), rng.randrange(len(everyone) // 2)))
    fraction = rng.uniform(0.1, 0.6)
    # identities of other datasets do no harm
    split = Resplit(fraction, 0.0, seed, seen=(*seen, max(everyone) + 1))(records)
    test, train = pids((*split.query, *split.gallery)), pids(split.train)
    assert test.isdisjoint(seen | train)
    assert test | train == everyone
    left = len(everyone - seen)
    assert len(test) == left - round(left * fraction)
    assert has_one_query_per_camera(split)


def test_the_record_counts_seen_identities_of_the_pool(records: Records) -> None:
    usual = Resplit(0.5, 0.2, 0)(records)
    for seen in ((10**6,), identities(usual.query)[:3]):
        split = Resplit(0.5, 0.2, 0, seen=seen)(records)
        assert (split.digest == usual.digest) == (len(seen) == 1)
        assert split.record.options["excluded"] == len(pids(usual.query).intersection(seen))


@pytest.mark.parametrize("left", [0, 1, 2])
def test_too_few_unseen_identities_are_counted(records: Records, left: int) -> None:
    everyone = identities(all_images(records))
    with pytest.raises(InputError, match=rf"{24 - left} of the 24 identities .*pool=all"):
        Resplit(0.5, 0.0, 0, seen=everyone[left:])(records)


@pytest.mark.parametrize(("part", "by"), [("query", "identity"), ("gallery", "image")])
def test_parts_that_share_pids_are_not_pooled(records: Records, part: str, by: str) -> None:
    restarted = replace(records.gallery[-1], pid=records.train[0].pid)
    other = replace(records, **{part: (*getattr(records, part), restarted)})
    with pytest.raises(InputError, match=r"1 pids are in both .*pool=train"):
        Resplit(by=by)(other)
    assert Resplit(by=by, pool="train")(other).labels.pids
    assert OriginalSplit()(other).labels.pids
