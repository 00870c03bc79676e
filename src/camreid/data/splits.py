"""Split strategies: pure functions of (records, own seed), whatever the listing order or rank."""

import random
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, get_args

from camreid.data.manifest import Split, count_rankable
from camreid.data.records import ImageRecord, Records, people
from camreid.data.strata import stratified
from camreid.errors import InputError, require_whole
from camreid.labels import LabelMap
from camreid.provenance import SplitRecord

By = Literal["identity", "image"]
Pool = Literal["all", "train"]


@dataclass(frozen=True)
class OriginalSplit:
    """The official train/test division, for all cameras or for one camera.

    With a camera, only that camera's train images are learnt from, by an expert; query and
    gallery stay the official ones of all cameras, because the official protocol has no matches
    within a camera.

    Attributes:
        camera: 1-based; None for all cameras.
        val_fraction: share of the train identities held out for model selection, 0 for none.
        seed: decides who is held out.
    """

    camera: int | None = None
    val_fraction: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        _check_fraction("val_fraction", self.val_fraction, zero=True)
        require_whole("split.seed", self.seed, least=0)
        if self.camera is not None:
            require_whole("split.camera", self.camera, least=1)

    def __call__(self, records: Records) -> Split:
        """Divide `records`; InputError if the camera took none of the train images."""
        train = _sorted(r for r in records.train if self.camera in (None, r.camera))
        if not train:
            cameras = ", ".join(str(c) for c in sorted({r.camera for r in records.train}))
            raise InputError(
                f"split.camera={self.camera}: no train image is of that camera; the cameras are "
                f"{cameras}, 1-based as in the file names (c3 is 3). Type split.camera=N, or leave "
                "it out for all cameras."
            )
        val, train = _hold_out(train, self.val_fraction, random.Random(self.seed))
        query, gallery = _sorted(records.query), _sorted(records.gallery)
        return _split(train, val, query, gallery, SplitRecord("original", asdict(self)))


@dataclass(frozen=True)
class Resplit:
    """A new division of the people, or of the images, from its own seed.

    By identity, train and test people are disjoint, each camera gives its share of people, and
    the test has one query per (pid, camera), the rest being gallery. By image, the images of
    every identity are divided, so that closed-set accuracy has meaning; its retrieval numbers
    are of people who were trained on. Distractors are in the gallery in both.

    Attributes:
        train_fraction: share of the people (or images) not tested on, between 0 and 1.
        val_fraction: share of those held out for model selection, 0 for none.
        seed: decides who is where.
        by: what is divided.
        pool: divide all labelled people, or only those of the official train set.
        seen: people to keep out of the test, because weights have seen them; by identity only.
            Those of them who are in the pool are all in train or val, and `train_fraction` is the
            share of the others that is not tested on.
    """

    train_fraction: float = 0.5
    val_fraction: float = 0.1
    seed: int = 0
    by: By = "identity"
    pool: Pool = "all"
    seen: tuple[int, ...] = field(default=(), repr=False)

    def __post_init__(self) -> None:
        _check_fraction("train_fraction", self.train_fraction, zero=False)
        _check_fraction("val_fraction", self.val_fraction, zero=True)
        _check_choice("by", self.by, get_args(By))
        _check_choice("pool", self.pool, get_args(Pool))
        require_whole("split.seed", self.seed, least=0)
        object.__setattr__(self, "seen", tuple(sorted({int(pid) for pid in self.seen})))
        if self.seen and self.by == "image":
            raise InputError(
                "split.by=image tests everybody on images of their own, those who were seen too, "
                "so nobody can be kept out of its test. Type split.by=identity, or leave "
                "split.exclude_seen out."
            )

    def __call__(self, records: Records) -> Split:
        """Divide `records`; InputError if there are too few people for it."""
        rng = random.Random(self.seed)
        everyone = (*records.train, *records.query, *records.gallery)
        pool = _sorted(r for r in (everyone if self.pool == "all" else records.train) if r.pid > 0)
        distractors = _sorted(r for r in records.gallery if r.pid == 0)
        if self.by == "identity":
            known, test = _divide_people(pool, self.train_fraction, rng, self.seen)
            if self.seen:
                self._check_test(pool, test)
            val, train = _hold_out(known, self.val_fraction, rng)
        else:
            known, test = _divide_images(pool, self.train_fraction, rng)
            val, train = _hold_out_images(known, self.val_fraction, rng)
        query, gallery = _pick_queries(test, rng)
        options: dict[str, Any] = asdict(self)
        seen = options.pop("seen")
        if seen:
            options["excluded"] = len(set(seen).intersection(people(pool)))
        record = SplitRecord("resplit", options)
        return _split(train, val, query, (*gallery, *distractors), record)

    def _check_test(self, pool: Sequence[ImageRecord], test: Sequence[ImageRecord]) -> None:
        """Refuse a test of unseen people in which fewer than two have a match to be found."""
        found = sum(len(cameras) > 1 for cameras in _camera_sets(test).values())
        if found > 1:
            return
        everyone = people(pool)
        left = len(set(everyone).difference(self.seen))
        wider = "" if self.pool == "all" else "split.pool=all, "
        raise InputError(
            f"split.exclude_seen: the checkpoints have seen {len(everyone) - left} of the "
            f"{len(everyone)} people of split.pool={self.pool}; of the {left} others, "
            f"split.train_fraction={self.train_fraction} leaves {len(people(test))} for a test, "
            f"{found} of them under more than one camera, and at least 2 such people are needed. "
            f"Type {wider}fewer checkpoints in split.exclude_seen, a lower split.train_fraction, "
            "or data.root= with a dataset that has people whom they have not seen."
        )


def _sorted(records: Iterable[ImageRecord]) -> tuple[ImageRecord, ...]:
    """In an order that depends neither on the listing nor on where the dataset lies."""
    return tuple(sorted(records, key=lambda r: r.name))


def _camera_sets(records: Iterable[ImageRecord]) -> dict[int, tuple[int, ...]]:
    cameras: dict[int, set[int]] = defaultdict(set)
    for record in records:
        cameras[record.pid].add(record.camera)
    return {pid: tuple(sorted(cameras[pid])) for pid in sorted(cameras)}


def _divide_people(
    records: Sequence[ImageRecord],
    fraction: float,
    rng: random.Random,
    first: Iterable[int] = (),
) -> tuple[tuple[ImageRecord, ...], tuple[ImageRecord, ...]]:
    """Images of `fraction` of the people, and of the others; stratified by their cameras.

    Whoever is among `first` is in the first part, and not divided.
    """
    set_apart, divided = _part(records, first)
    cameras = _camera_sets(divided)
    count = round(len(cameras) * fraction)
    chosen = stratified(cameras, cameras.__getitem__, count, rng)[0]
    return _part(records, {*chosen, *people(set_apart)})


def _part(
    records: Sequence[ImageRecord], chosen: Iterable[int]
) -> tuple[tuple[ImageRecord, ...], tuple[ImageRecord, ...]]:
    """Images of the chosen people, and of the others."""
    pids = set(chosen)
    return (
        tuple(r for r in records if r.pid in pids),
        tuple(r for r in records if r.pid not in pids),
    )


def _divide_images(
    records: Sequence[ImageRecord], fraction: float, rng: random.Random
) -> tuple[tuple[ImageRecord, ...], tuple[ImageRecord, ...]]:
    """`fraction` of everybody's images, at least one each, and the others."""
    count = round(len(records) * fraction)
    first, second = stratified(records, lambda r: (r.pid, r.camera), count, rng)
    left_out = set(people(second)) - set(people(first))
    for pid in sorted(left_out):
        first.append(rng.choice([r for r in second if r.pid == pid]))
    chosen = set(first)
    return _sorted(first), tuple(r for r in second if r not in chosen)


def _hold_out(
    records: Sequence[ImageRecord], fraction: float, rng: random.Random
) -> tuple[tuple[ImageRecord, ...], tuple[ImageRecord, ...]]:
    """Validation images of `fraction` of the people, two at least, and the others' train images.

    Only people who have a match among their own images are held out: the others could not be
    ranked. Where all images are of one camera, that is whoever has two of them.
    """
    if fraction == 0:
        return (), tuple(records)
    cameras = _camera_sets(records)
    images = Counter(r.pid for r in records)
    one_camera = len({r.camera for r in records}) == 1
    matched = [pid for pid in cameras if (images[pid] if one_camera else len(cameras[pid])) > 1]
    count = min(len(matched), max(2, round(len(cameras) * fraction)))
    val, train = _part(records, stratified(matched, cameras.__getitem__, count, rng)[0])
    _check_val(val, fraction)
    return val, train


def _hold_out_images(
    records: Sequence[ImageRecord], fraction: float, rng: random.Random
) -> tuple[tuple[ImageRecord, ...], tuple[ImageRecord, ...]]:
    """Validation images of about `fraction`, and the train images, some of everybody's.

    Half the images of 2 x `fraction` of the people rather than a few of everybody's: one image of
    a person has no match.
    """
    share = min(1.0, 2 * fraction)
    some, others = _divide_people(records, share, rng)
    train, val = _divide_images(some, 1 - fraction / share if share else 1.0, rng)
    _check_val(val, fraction)
    return val, _sorted((*train, *others))


def _pick_queries(
    records: Sequence[ImageRecord], rng: random.Random
) -> tuple[tuple[ImageRecord, ...], tuple[ImageRecord, ...]]:
    """One query per (pid, camera), and the rest."""
    seen: dict[tuple[int, int], list[ImageRecord]] = defaultdict(list)
    for record in records:
        seen[record.pid, record.camera].append(record)
    chosen = {rng.choice(seen[key]) for key in sorted(seen)}
    return (
        tuple(r for r in records if r in chosen),
        tuple(r for r in records if r not in chosen),
    )


def _split(
    train: tuple[ImageRecord, ...],
    val: tuple[ImageRecord, ...],
    query: tuple[ImageRecord, ...],
    gallery: tuple[ImageRecord, ...],
    record: SplitRecord,
) -> Split:
    labels = LabelMap.of(people(train), order="fastreid")
    if len(labels) < 2:
        raise InputError(
            f"{record} leaves {len(labels)} identities to train on; at least 2 are needed. "
            "Choose other fractions, such as split.train_fraction=0.5 split.val_fraction=0, or "
            "use a dataset with more people."
        )
    return Split(train, val, query, gallery, labels, record)


def _check_val(val: Sequence[ImageRecord], fraction: float) -> None:
    """Refuse a validation set in which no image has a match to be found."""
    if fraction == 0:
        return
    count = len(people(val))
    if count < 2 or not count_rankable(val):
        raise InputError(
            f"split.val_fraction={fraction} holds out {count} people ({len(val)} images), "
            "among whom there is no match to be found. Hold out more, such as "
            "split.val_fraction=0.2, or none: split.val_fraction=0."
        )


def _check_fraction(name: str, value: float, zero: bool) -> None:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not (0 < value < 1 or (zero and value == 0)):
        expected, example = ("from 0 to below 1", 0.1) if zero else ("between 0 and 1", 0.5)
        raise InputError(
            f"split.{name}={value}: expected a fraction {expected}, such as split.{name}={example}."
        )


def _check_choice(name: str, value: object, allowed: Sequence[str]) -> None:
    if value not in allowed:
        choices = " or ".join(f"split.{name}={choice}" for choice in allowed)
        raise InputError(f"split.{name}={value} is not known; type {choices}.")
