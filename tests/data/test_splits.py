import json
import random
import subprocess
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from camreid.data import ImageRecord, OriginalSplit, Records, Resplit, Split
from camreid.data.records import parse_name
from camreid.data.splits import stratified
from camreid.errors import InputError
from camreid.provenance import SplitRecord
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
    return {r.pid for r in records if r.pid > 0}


def cameras_of(records: Iterable[ImageRecord]) -> dict[int, set[int]]:
    seen: dict[int, set[int]] = defaultdict(set)
    for r in records:
        seen[r.pid].add(r.camera)
    return dict(seen)


@pytest.fixture(scope="module")
def official() -> Records:
    if not NAMES.is_file():
        pytest.skip("the official file names are not here")
    train = [
        ImageRecord(f"bounding_box_train/{n}", *parse_name(n)) for n in NAMES.read_text().split()
    ]
    return Records(tuple(train), (), ())


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

    def shuffled(part: tuple[ImageRecord, ...]) -> tuple[ImageRecord, ...]:
        return tuple(rng.sample(part, len(part)))

    other = Records(shuffled(records.train), shuffled(records.query), shuffled(records.gallery))
    assert strategy(other) == strategy(records)
    assert strategy(other).digest == strategy(records).digest


def test_same_in_another_process(records: Records, market: Path) -> None:
    code = (
        "from camreid.data import Resplit, read_market1501;"
        f"print(Resplit(0.5, 0.2, 3)(read_market1501({str(market)!r})).digest)"
    )
    found = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={"PYTHONHASHSEED": "5"},
    )
    assert found.stdout.strip() == Resplit(0.5, 0.2, 3)(records).digest


def test_seeds_matter_and_zero_counts(records: Records) -> None:
    digests = {Resplit(0.5, 0.2, seed)(records).digest for seed in (0, 1, 2)}
    assert len(digests) == 3


def test_an_expert_trains_on_one_camera_and_is_tested_on_all(records: Records) -> None:
    split = OriginalSplit(camera=3, val_fraction=0.0, seed=0)(records)
    assert {r.camera for r in split.train} == {3}
    assert pids(split.train) == {r.pid for r in records.train if r.camera == 3}
    assert set(split.query) == set(records.query)
    assert set(split.gallery) == set(records.gallery)
    assert split.val == ()


def test_an_experts_validation_is_within_its_camera(records: Records) -> None:
    split = OriginalSplit(camera=3, val_fraction=0.3, seed=0)(records)
    assert split.val_within_camera
    assert not pids(split.val) & pids(split.train)
    assert not OriginalSplit(None, 0.3, 0)(records).val_within_camera


def test_resplit_by_identity_keeps_people_apart(records: Records) -> None:
    split = Resplit(0.5, 0.2, 0)(records)
    train, val, test = pids(split.train), pids(split.val), pids((*split.query, *split.gallery))
    assert train.isdisjoint(val | test)
    assert val.isdisjoint(test)
    everyone = pids((*records.train, *records.query, *records.gallery))
    assert train | val | test == everyone
    assert len(test) == round(len(everyone) * 0.5)
    assert pids(split.train) == set(split.labels.pids)


def test_resplit_has_one_query_for_each_person_and_camera(records: Records) -> None:
    split = Resplit(0.5, 0.2, 0)(records)
    queries = Counter((r.pid, r.camera) for r in split.query)
    assert set(queries.values()) == {1}
    seen = {(r.pid, r.camera) for r in (*split.query, *split.gallery) if r.pid > 0}
    assert set(queries) == seen
    assert not set(split.query) & set(split.gallery)


def test_distractors_stay_in_the_gallery(records: Records) -> None:
    distractors = {r for r in records.gallery if r.pid == 0}
    assert distractors
    for strategy in STRATEGIES:
        split = strategy(records)
        assert {r for r in split.gallery if r.pid == 0} == distractors
        assert not any(r.pid <= 0 for r in (*split.train, *split.val, *split.query))


def test_each_camera_gives_its_share_of_people(official: Records) -> None:
    split = Resplit(0.5, 0.0, 0, pool="train")(official)
    whole, train = cameras_of(official.train), cameras_of(split.train)
    for camera in range(1, 7):
        share = sum(camera in c for c in train.values()) / sum(camera in c for c in whole.values())
        assert share == pytest.approx(0.5, abs=0.02)


def test_resplit_by_image_divides_everybodys_images(records: Records) -> None:
    split = Resplit(0.5, 0.1, 0, by="image")(records)
    everyone = pids((*records.train, *records.query, *records.gallery))
    assert pids(split.train) == everyone == set(split.labels.pids)
    parts = [
        set(split.train),
        set(split.val),
        set(split.query),
        {r for r in split.gallery if r.pid},
    ]
    assert sum(map(len, parts)) == len(set.union(*parts))
    test = len(parts[2] | parts[3])
    assert test / sum(map(len, parts)) == pytest.approx(0.5, abs=0.05)


def test_pool_train_divides_the_official_train_people_alone(records: Records) -> None:
    split = Resplit(0.5, 0.0, 0, pool="train")(records)
    assert pids((*split.train, *split.query, *split.gallery)) == pids(records.train)


@given(
    st.lists(st.integers(0, 5), min_size=1, max_size=60),
    st.floats(0.0, 1.0),
    st.integers(0, 10**6),
)
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


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: Resplit(train_fraction=1.2),
            r"train_fraction=1.2: expected a fraction between",
        ),
        (lambda: Resplit(train_fraction=0), r"train_fraction=0:"),
        (lambda: Resplit(val_fraction=-0.1), r"val_fraction=-0.1: expected a fraction from 0"),
        (lambda: OriginalSplit(val_fraction=1.0), r"val_fraction=1.0"),
        (lambda: Resplit(by="camera"), r"by=camera: expected identity or image"),
        (lambda: Resplit(pool="test"), r"pool=test"),
        (lambda: Resplit(seed=None), r"seed=None: expected a whole number"),
        (lambda: Resplit(train_fraction="half"), r"train_fraction=half"),
        (lambda: OriginalSplit(camera=0), r"camera=0: expected a whole number from 1"),
    ],
)
def test_bad_options_are_refused(make: object, message: str) -> None:
    with pytest.raises(InputError, match=message):
        make()


def test_a_camera_that_took_nothing_names_those_that_did(records: Records) -> None:
    with pytest.raises(InputError, match="the cameras are 1, 2, 3, 4, 5, 6"):
        OriginalSplit(camera=7)(records)


def test_few_people_still_have_a_validation_with_matches(records: Records) -> None:
    for seed in range(8):
        val = cameras_of(OriginalSplit(val_fraction=0.01, seed=seed)(records).val)
        assert len(val) == 2
        assert all(len(cameras) > 1 for cameras in val.values())


def test_validation_without_any_match_is_refused() -> None:
    train = tuple(ImageRecord(f"t/{pid}.jpg", pid, 1 + pid % 2) for pid in range(1, 9))
    with pytest.raises(InputError, match=r"val_fraction=0\.5 holds out 0"):
        OriginalSplit(val_fraction=0.5)(Records(train, (), ()))


@pytest.mark.parametrize("strategy", STRATEGIES, ids=str)
def test_manifest_comes_back_the_same(
    strategy: OriginalSplit, records: Records, tmp_path: Path
) -> None:
    split = strategy(records)
    split.save(tmp_path / "split.csv")
    loaded = Split.load(tmp_path / "split.csv")
    assert loaded == split
    assert loaded.digest == split.digest
    header, first, *_ = (tmp_path / "split.csv").read_text().splitlines()
    assert header == "subset,path,pid,camera,row"
    assert first.startswith("train,")


def test_manifest_finds_the_dataset_elsewhere(
    records: Records, market: Path, tmp_path: Path
) -> None:
    split = Resplit(0.5, 0.2, 0)(records)
    split.save(tmp_path / "split.csv")
    moved = (tmp_path / "split.csv").read_text().replace(str(market), "elsewhere")
    (tmp_path / "split.csv").write_text(moved)
    for root in (market, market.parent):
        loaded = Split.load(tmp_path / "split.csv", root)
        assert loaded == split
        assert loaded.digest == split.digest


def test_manifest_reads_its_own_images_where_they_are(
    records: Records, market: Path, tmp_path: Path
) -> None:
    split = Resplit(0.5, 0.2, 0)(records)
    split.save(tmp_path / "split.csv")
    twin = tmp_path / "twin" / market.name
    twin.parent.mkdir()
    twin.symlink_to(market)
    assert Split.load(tmp_path / "split.csv", twin.parent) == split


def test_manifest_that_names_missing_files_is_refused(
    records: Records, market: Path, tmp_path: Path
) -> None:
    Resplit(0.5, 0.2, 0)(records).save(tmp_path / "split.csv")
    text = (tmp_path / "split.csv").read_text().replace(str(market), "gone")
    (tmp_path / "split.csv").write_text(text)
    with pytest.raises(InputError, match=r"images that are not there, such as gone/.*root=FOLDER"):
        Split.load(tmp_path / "split.csv")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("path,pid\nx,1\n", "its header is"),
        ("subset,path,pid,camera,row\ntest,x.jpg,1,1,\n", "line 2 of"),
        ("subset,path,pid,camera,row\ntrain,x.jpg,one,1,\n", "line 2 of"),
        ("subset,path,pid,camera,row\ntrain,{0},1,1,0\ntrain,{0},2,1,5\n", "without gaps"),
        ("subset,path,pid,camera\ntrain,{0},1,1\ntrain,{0},-1,1\n", "line 3 .* pid -1 into train"),
        ("subset,path,pid,camera\ntrain,{0},0,1\n", "pid 0 into train.* numbers .* from 0"),
        ("subset,path,pid,camera\nval,{0},0,1\n", "pid 0 into val"),
        ("subset,path,pid,camera\nquery,{0},-1,1\n", "pid -1 into query"),
        ("subset,path,pid,camera\ngallery,{0},-2,1\n", "line 2 of"),
        ("subset,path,pid,camera\ntrain,{0},9223372036854775808,1\n", "line 2 of"),
        ("subset,path,pid,camera\ntrain,{0},1,0\n", "line 2 of"),
    ],
)
def test_broken_manifests_are_refused(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "split.csv"
    path.write_text(text.format(path))
    with pytest.raises(InputError, match=message):
        Split.load(path)


def test_rows_of_a_manifest_by_hand_are_in_fastreid_order(tmp_path: Path) -> None:
    image = tmp_path / "x.jpg"
    image.touch()
    lines = [f"train,{image},{pid},1" for pid in (2, 10, 100)]
    (tmp_path / "hand.csv").write_text("\n".join(["subset,path,pid,camera", *lines]) + "\n")
    assert Split.load(tmp_path / "hand.csv").labels.pids == (10, 100, 2)


def test_what_can_be_ranked_is_known_beforehand(records: Records) -> None:
    split = Resplit(0.5, 0.2, 0)(records)
    cameras = cameras_of(split.gallery)
    matched = [r for r in split.query if cameras.get(r.pid, set()) - {r.camera}]
    assert split.rankable["query"] == len(matched) > 0
    one = Split(split.train, (), split.query, (), split.labels)
    assert one.rankable == {"val": 0, "query": 0}


@pytest.mark.parametrize("seed", range(20))
def test_nobody_who_was_seen_is_tested_on(records: Records, seed: int) -> None:
    everyone = pids((*records.train, *records.query, *records.gallery))
    rng = random.Random(seed)
    seen = set(rng.sample(sorted(everyone), rng.randrange(len(everyone) // 2)))
    fraction = rng.uniform(0.1, 0.6)
    # people of other datasets do no harm
    split = Resplit(fraction, 0.0, seed, seen=(*seen, max(everyone) + 1))(records)
    test, train = pids((*split.query, *split.gallery)), pids(split.train)
    assert test.isdisjoint(seen | train)
    assert test | train == everyone
    left = len(everyone - seen)
    assert len(test) == left - round(left * fraction)
    queries = Counter((r.pid, r.camera) for r in split.query)
    assert set(queries.values()) == {1}
    assert set(queries) == {(r.pid, r.camera) for r in (*split.query, *split.gallery) if r.pid}


def test_the_unseen_of_each_camera_give_their_share(official: Records) -> None:
    expert = OriginalSplit(camera=3, val_fraction=0.0, seed=0)(official)
    split = Resplit(0.5, 0.0, 0, pool="train", seen=expert.labels.pids)(official)
    unseen = {p: c for p, c in cameras_of(official.train).items() if p not in expert.labels}
    tested = cameras_of((*split.query, *split.gallery))
    assert set(tested) < set(unseen)
    for camera in {c for cameras in unseen.values() for c in cameras}:
        whole = sum(camera in c for c in unseen.values())
        assert abs(sum(camera in c for c in tested.values()) - whole / 2) <= 0.05 * len(unseen) + 1


def test_the_digest_is_of_who_is_where_and_not_of_how_that_came(records: Records) -> None:
    usual = Resplit(0.5, 0.2, 0)(records)
    strangers = Resplit(0.5, 0.2, 0, seen=(10**6,))(records)
    assert strangers.digest == usual.digest
    assert strangers.record.options["excluded"] == 0
    assert "excluded" not in usual.record.options
    some = tuple(pids(usual.query))[:3]
    without = Resplit(0.5, 0.2, 0, seen=some)
    assert without(records).digest != usual.digest
    assert without(records).record.options["excluded"] == 3
    assert Resplit(0.5, 0.2, 0, seen=(*reversed(some), *some)) == without


@pytest.mark.parametrize("left", [0, 1, 2])
def test_too_few_unseen_people_are_counted(records: Records, left: int) -> None:
    everyone = sorted(pids((*records.train, *records.query, *records.gallery)))
    with pytest.raises(InputError, match=rf"{24 - left} of the 24 identities"):
        Resplit(0.5, 0.0, 0, seen=tuple(everyone[left:]))(records)
    seen = tuple(sorted(pids(records.train)))
    with pytest.raises(InputError, match="or pool=all"):
        Resplit(0.5, 0.0, 0, pool="train", seen=seen)(records)


def test_by_image_no_identity_can_be_excluded() -> None:
    with pytest.raises(InputError, match="by=image tests"):
        Resplit(by="image", seen=(1,))


def test_a_split_records_how_it_was_made(records: Records, tmp_path: Path) -> None:
    original = OriginalSplit(3, 0.3, 1)(records)
    options = {"camera": 3, "val_fraction": 0.3, "seed": 1}
    assert original.record == SplitRecord("original", options, original.digest)
    resplit = Resplit(0.6, 0.0, 2, pool="train")(records)
    options = {"train_fraction": 0.6, "val_fraction": 0.0, "seed": 2, "by": "identity"}
    assert resplit.record == SplitRecord("resplit", {**options, "pool": "train"}, resplit.digest)
    resplit.save(tmp_path / "split.csv")
    loaded = Split.load(tmp_path / "split.csv")
    assert (loaded.record.kind, loaded.record.digest) == ("manifest", resplit.digest)
    assert Split(original.train, (), (), (), original.labels).record.kind == "custom"


def test_parts_that_share_pids_are_not_pooled(records: Records) -> None:
    restarted = replace(records.gallery[-1], pid=records.train[0].pid)
    for part in ("query", "gallery"):
        other = replace(records, **{part: (*getattr(records, part), restarted)})
        with pytest.raises(InputError, match=r"1 pids are in both .*pool=train"):
            Resplit()(other)
        assert Resplit(pool="train")(other).labels.pids
        assert OriginalSplit()(other).labels.pids
