"""Split strategies: pure functions of (records, own seed), whatever the listing order or rank."""

import os
import random
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable
from dataclasses import asdict, dataclass, field
from itertools import groupby
from typing import Any, Literal, TypeVar

from camreid.data.manifest import Split, count_rankable
from camreid.data.records import DISTRACTOR, ImageRecord, Images, Records, identities, parse_name
from camreid.errors import InputError, require_choice, require_number, require_whole
from camreid.labels import LabelMap
from camreid.provenance import SplitRecord

By = Literal["identity", "image"]
Pool = Literal["all", "train"]
Item = TypeVar("Item")
MOST = 0.999  # the largest fraction


@dataclass(frozen=True)
class OriginalSplit:
    """The official train/test division; train images of one camera or of all, tests of all."""

    camera: int | None = None  # 1-based; None for all cameras
    val_fraction: float = 0.0  # share of the train identities held out for model selection
    seed: int = 0  # decides which identities are held out

    def __post_init__(self) -> None:
        require_number("val_fraction", self.val_fraction, 0, MOST)
        require_whole("seed", self.seed, least=0)
        require_whole("camera", 1 if self.camera is None else self.camera, least=1)

    def __call__(self, records: Records) -> Split:
        """Divide `records`; InputError for a camera of no train images, or several datasets."""
        train = _sorted(r for r in records.train if self.camera in (None, r.camera))
        if self.camera and len(records.datasets) > 1:
            raise InputError(f"camera={self.camera} leaves out all datasets but one.", camera=None)
        if not train and (self.camera or not records.query):
            cameras = sorted({r.camera for r in records.train})
            there = f"the cameras are {str(cameras)[1:-1]}, from 1 as in file names"
            found = f"camera={self.camera} has no images; {there}."
            raise InputError(found, camera=min(cameras, default=None))
        if records.val and self.val_fraction:
            raise InputError("the dataset has a subset val of its own.", val_fraction=0)
        val, train = _hold_out(train, self.val_fraction, random.Random(self.seed))
        val, query, gallery = map(_sorted, (val or records.val, records.query, records.gallery))
        return _split((train, val, query, gallery), records, SplitRecord("original", asdict(self)))


@dataclass(frozen=True)
class Resplit:
    """A new division of the identities, each camera by its share, or of every identity's images.

    One query per (pid, camera), the rest and all distractors are the gallery.
    """

    train_fraction: float = 0.5  # share of the identities (or images) not tested on
    val_fraction: float = 0.1  # share of those held out for model selection, 0 for none
    seed: int = 0  # decides the division
    by: By = "identity"  # what is divided; image is for closed-set accuracy
    pool: Pool = "all"  # all labelled identities, or those of the official train set
    # identities not tested, by identity only; `train_fraction` is then a share of the others
    seen: tuple[int, ...] = field(default=(), repr=False)

    def __post_init__(self) -> None:
        require_number("train_fraction", self.train_fraction, 1 - MOST, MOST)
        require_number("val_fraction", self.val_fraction, 0, MOST)
        require_whole("seed", self.seed, least=0)
        require_choice("by", self.by, By)
        require_choice("pool", self.pool, Pool)
        if self.seen and self.by == "image":
            raise InputError("by=image tests every identity, also seen ones.", by="identity")

    def __call__(self, records: Records) -> Split:
        """Divide `records`; InputError if there are too few identities."""
        rng = random.Random(self.seed)
        images = _all_images(records) if self.pool == "all" else (*records.train, *records.val)
        pool = _sorted(r for r in images if r.pid > DISTRACTOR)
        distractors = _sorted(r for r in records.gallery if r.pid == DISTRACTOR)
        if self.by == "identity":
            known, test = _divide_identities(pool, self.train_fraction, rng, set(self.seen))
            val, train = _hold_out(known, self.val_fraction, rng)
        else:
            known, test = _divide_images(pool, self.train_fraction, rng)
            val, train = _hold_out_images(known, self.val_fraction, rng)
        options: dict[str, Any] = asdict(self)
        if options.pop("seen"):
            pids = identities(pool)
            options["excluded"] = len(set(pids).intersection(self.seen))
            if sum(len(cameras) > 1 for cameras in _cameras(test).values()) < 2:
                found = f"seen holds {options['excluded']} of the {len(pids)} identities of pool="
                found += f"{self.pool}; fewer than 2 test identities are of several cameras"
                raise InputError(f"{found}. Exclude fewer, type pool=all or lower train_fraction.")
        query, gallery = _pick_queries(test, rng)
        parts = (train, val, query, (*gallery, *distractors))
        return _split(parts, records, SplitRecord("resplit", options))


def stratified(
    items: Iterable[Item], stratum: Callable[[Item], Any], count: int, rng: random.Random
) -> tuple[list[Item], list[Item]]:
    """Divide `items` into `count` and the rest, so that each stratum gives its share.

    Systematic sampling (Madow 1949): every n/`count`-th of the n items, shuffled within strata.
    """
    items = list(items)
    total, order = max(1, len(items)), list(range(len(items)))
    rng.shuffle(order)
    order.sort(key=lambda i: stratum(items[i]))
    start = rng.randrange(total)
    steps = [(start + place * count) // total for place in range(total + 1)]
    taken = {item for place, item in enumerate(order) if steps[place + 1] > steps[place]}
    first = [item for i, item in enumerate(items) if i in taken]
    return first, [item for i, item in enumerate(items) if i not in taken]


def _all_images(records: Records) -> Images:
    # VeRi-776 has a copy of each query in its gallery
    copies = {os.path.basename(r.path) for r in records.query if parse_name(r.path) == r}
    gallery = [r for r in records.gallery if os.path.basename(r.path) not in copies]
    test = (*records.query, *gallery)
    if shared := sorted(set(identities(records.train)).intersection(identities(test))):
        found = f"pool=all: {len(shared)} pids are in both the train and the test part"
        raise InputError(f"{found}, such as {shared[:3]}.", pool="train")
    return (*records.train, *records.val, *test)


def _sorted(records: Iterable[ImageRecord]) -> Images:
    return tuple(sorted(records, key=lambda r: (r.name, r.path)))


def _cameras(records: Iterable[ImageRecord]) -> dict[int, tuple[int, ...]]:
    pairs = sorted({(r.pid, r.camera) for r in records})
    return {pid: tuple(c for _, c in group) for pid, group in groupby(pairs, lambda pair: pair[0])}


def _part(records: Images, chosen: Collection[int]) -> tuple[Images, Images]:
    first = tuple(r for r in records if r.pid in chosen)
    return first, tuple(r for r in records if r.pid not in chosen)


def _divide_identities(
    records: Images, fraction: float, rng: random.Random, seen: Collection[int] = ()
) -> tuple[Images, Images]:
    """Images of all `seen` and of a `fraction` of the other identities, and the rest."""
    cameras = _cameras(r for r in records if r.pid not in seen)
    chosen = stratified(cameras, cameras.__getitem__, round(len(cameras) * fraction), rng)[0]
    return _part(records, {*seen, *chosen})


def _divide_images(records: Images, fraction: float, rng: random.Random) -> tuple[Images, Images]:
    """`fraction` of the images of every identity, at least one each, and the others."""
    count = round(len(records) * fraction)
    first, second = stratified(records, lambda r: (r.pid, r.camera), count, rng)
    for pid in sorted(set(identities(second)) - set(identities(first))):
        first.append(rng.choice([r for r in second if r.pid == pid]))
    return _sorted(first), _sorted(set(second).difference(first))


def _hold_out(records: Images, fraction: float, rng: random.Random) -> tuple[Images, Images]:
    """Validation images of `fraction` of the identities, those with a match, and the others."""
    if fraction == 0:
        return (), records
    cameras = _cameras(records)
    images = Counter(r.pid for r in records)
    one_camera = len({r.camera for r in records}) == 1
    matched = [pid for pid in cameras if (images[pid] if one_camera else len(cameras[pid])) > 1]
    count = min(len(matched), max(2, round(len(cameras) * fraction)))
    return _part(records, set(stratified(matched, cameras.__getitem__, count, rng)[0]))


def _hold_out_images(records: Images, fraction: float, rng: random.Random) -> tuple[Images, Images]:
    """Validation images of about `fraction`, and the train images, some of every identity."""
    share = min(1.0, 2 * fraction)  # of the identities, by halves: a single image has no match
    some, others = _divide_identities(records, share, rng)
    train, val = _divide_images(some, 1 - fraction / share if share else 1.0, rng)
    return val, _sorted((*train, *others))


def _pick_queries(records: Images, rng: random.Random) -> tuple[Images, Images]:
    groups: dict[tuple[int, int], list[ImageRecord]] = defaultdict(list)
    # where all images of an identity are of different cameras, it has one query
    apart = len({(r.pid, r.camera) for r in records}) == len(records)
    for record in records:
        groups[record.pid, 0 if apart else record.camera].append(record)
    chosen = {rng.choice(groups[key]) for key in sorted(groups)}
    query = tuple(r for r in records if r in chosen)
    return query, tuple(r for r in records if r not in chosen)


def _split(parts: tuple[Images, ...], records: Records, record: SplitRecord) -> Split:
    train, val, query, gallery = parts
    labels, held_out = LabelMap.of(identities(train), order="fastreid"), len(identities(val))
    has_val = record.options["val_fraction"] == 0 or (held_out > 1 and count_rankable(val))
    if (len(labels) < 2 and (train or not query)) or not has_val:
        pids = f"{len(labels)} train identities and {held_out} for validation"
        found = f"the split ({record}) has {pids}, with {count_rankable(val)} matches"
        raise InputError(f"{found}; expected 2 or more of each.", val_fraction=0)
    return Split(train, val, query, gallery, labels, record, records.datasets)
