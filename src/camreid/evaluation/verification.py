"""Thresholds and probabilities: do two images show one identity, is a query's in the gallery?"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import product
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from camreid.errors import InputError
from camreid.evaluation.bootstrap import by_identity, percentiles
from camreid.evaluation.features import FeatureTable
from camreid.evaluation.protocols import JUNK, Pairs, Protocol, Rules, View
from camreid.evaluation.scores import feature_scores
from camreid.provenance import Record

RATES = (1e-2, 1e-3, 1e-4)  # of false accepts
BINS = 2**15  # of cosines: 6e-5 wide
EDGES = torch.arange(BINS + 1) * (2 / BINS) - 1
MOST = 24  # cameras with counts of each pair: more need much memory, and fit no page
LEAST = 100  # pairs of each kind of two cameras with a map of their own
_PAIRS = 2**21  # at a time
Map = tuple[float, float]  # slope, offset


@dataclass(frozen=True)
class Verification:
    """The cosines of genuine and of impostor pairs; see `verify`."""

    protocol: Protocol
    cameras: list[int]  # C of them; none for more than `MOST`
    impostors: Tensor  # (C * C or 1, BINS) int64 pairs of two identities, by cameras
    genuine: Tensor  # (P,) cosines of pairs of one identity
    pids: Tensor  # (P,) int64 of these pairs
    places: Tensor  # (P,) int64 of these pairs, rows of `impostors`
    closest: Tensor  # (2, Q) largest cosine to an impostor and in a genuine pair; -2 for none

    def by_cameras(self, least: int = 1) -> Iterator[tuple[str, "Verification"]]:
        """By cameras of query and gallery, such as `1-2`, where both kinds have `least` pairs."""
        for place, (query, gallery) in enumerate(product(self.cameras, repeat=2)):
            chosen, counts = self.places == place, self.impostors[place, None]
            if min(chosen.sum(), counts.sum()) >= least:
                own = {name: getattr(self, name)[chosen] for name in ("genuine", "pids")}
                yield f"{query}-{gallery}", replace(self, cameras=[], impostors=counts, **own)

    def summary(self) -> dict[str, Any]:
        """Plain values: those of `points` over all pairs, `camera_pairs` by cameras, `open_set`."""
        pairs = {name: part.points() for name, part in self.by_cameras()}
        return {**self.points(), "camera_pairs": pairs, "open_set": self.open_set()}

    def points(self) -> dict[str, Any]:
        """Numbers of `pairs`, the equal error rate `eer`, and `far` by rate of false accepts.

        `tar` is the share of genuine pairs at or above `threshold`, `interval` its 95 % interval.
        """
        counts = self.impostors.sum(0)
        accepted = counts.flip(0).cumsum(0).flip(0).double() / counts.sum()  # from each edge on
        rejected = torch.searchsorted(self.genuine.sort().values, EDGES[:-1]) / len(self.genuine)
        equal = int((accepted - rejected).abs().argmin())
        thresholds = EDGES[[equal, *(int((accepted > rate).sum()) for rate in RATES)]]
        hits = self.genuine[:, None] >= thresholds
        ends = percentiles(by_identity(self.pids, hits.double()))
        columns = (thresholds.tolist(), hits.double().mean(0).tolist(), *ends)
        eer, *far = (
            {"threshold": threshold, "tar": tar, "fnmr": 1 - tar, "interval": own}
            for threshold, tar, *own in zip(*columns, strict=True)
        )
        return {
            "pairs": {"genuine": len(hits), "impostor": int(counts.sum())},
            "eer": {"rate": (accepted + rejected)[equal].item() / 2, **eer},
            "far": {f"{rate:g}": point for rate, point in zip(RATES, far, strict=True)},
        }

    def open_set(self) -> dict[str, Any]:
        """`fnir`, the share of matches below the threshold or not at rank 1, by rate of alarms.

        Alarms are of queries without a match; if all have one, of these queries without matches.
        """
        impostor, genuine = self.closest
        mated = genuine > -2
        alone = ~mated & (impostor > -2)
        other = impostor[alone if alone.any() else mated].sort(descending=True).values
        rates = {}
        for rate in (0.1, 0.01):
            # the next edge above the first alarm that is too many
            alarm = other[int(rate * len(other))]
            threshold = EDGES[torch.searchsorted(EDGES[:-1], alarm, right=True)].item()
            hits = (genuine >= threshold) & (genuine > impostor)
            fnir = 1 - hits[mated].double().mean().item()
            rates[f"{rate:g}"] = {"threshold": threshold, "fnir": fnir}
        return {"mated": int(mated.sum()), "non_mated": int(alone.sum()), "fpir": rates}


@torch.no_grad()
def verify(
    table: FeatureTable, protocol: Protocol = "cross-camera", device: torch.device | None = None
) -> Verification:
    """The cosines of all pairs of a query and an image that it sees under the protocol.

    Genuine pairs are the matches. Impostor pairs have two identities, of which one may be a
    distractor; under `within-camera`, they have one camera. Junk is in no pair. `device` computes,
    the features' own if None. InputError without pairs of both kinds, or as for `rank`.
    """
    table = table.numbered()
    rules = Rules(table.query, table.gallery)
    cameras = rules.cameras if len(rules.cameras) <= MOST else rules.cameras[:0]
    pids, others = (part["pids"] for part in (rules.query, rules.gallery))
    sides = [part["cameras"] for part in (rules.query, rules.gallery)]
    own, theirs = (torch.searchsorted(cameras, side).int() for side in sides)
    # a row for each pair of cameras; its first bin is for pairs of no impostors
    counts = torch.zeros(max(1, len(cameras) ** 2), BINS + 1, dtype=torch.int64)
    closest, found = torch.full((2, len(pids)), -2.0), []
    for queries, cosines in _blocks(table, device):
        row, column = (pids[queries, None] == others).nonzero().unbind(1)
        pairs = Pairs(queries[row], column[:, None], (others[column] > 0)[:, None])
        same = rules.matches(View(protocol), pairs)[:, 0]
        found.append((cosines[row, column][same], pairs.queries[same], column[same]))
        cosines[row, column] = -2
        cosines[pids[queries] == JUNK] = cosines[:, others == JUNK] = -2
        if protocol == "within-camera":
            cosines.masked_fill_(sides[0][queries, None] != sides[1], -2)
        closest[0, queries] = cosines.amax(1)
        bins = cosines.add_(1).mul_(BINS / 2).int().add_(1).clamp_(0, BINS)
        bins += (own[queries, None] * len(cameras) + theirs) * (BINS + 1)
        counts += bins.flatten().bincount(minlength=counts.numel()).view_as(counts)
    genuine, query, column = (torch.cat(part) for part in zip(*found, strict=True))
    closest[1].scatter_reduce_(0, query, genuine, "amax")
    places, impostors = own[query] * len(cameras) + theirs[column], counts[:, 1:]
    if not len(genuine) or not impostors.any():
        kinds = f"{len(genuine)} pairs of one identity and {int(impostors.sum())} of two"
        raise InputError(f"there are {kinds}: thresholds and calibration need both.")
    numbers = cameras.tolist()
    return Verification(protocol, numbers, impostors, genuine, pids[query], places, closest)


def _blocks(table: FeatureTable, device: torch.device | None) -> Iterator[tuple[Tensor, Tensor]]:
    """Some queries (b,), and their cosines (b, G), on the CPU."""
    query, gallery = F.normalize(table.query.features.float()), table.gallery.features
    scores = feature_scores(query, gallery, "cosine", device)
    for queries in torch.split(torch.arange(len(query)), max(1, _PAIRS // len(gallery))):
        raw = scores.raw(queries, scores.scale.new_empty(len(queries), len(gallery)))
        yield queries, raw.mul_(scores.scale).clamp_(max=1 - 1e-7).cpu()  # 1 accepts none


@dataclass(frozen=True)
class Calibration(Record):
    """Logistic maps from cosines to probabilities, where half of the pairs have one identity.

    For another share, multiply the odds p / (1 - p) by genuine / impostor pairs.
    """

    slope: float
    offset: float
    genuine: int  # number of pairs of one identity
    protocol: str = "cross-camera"  # of the pairs; `within-camera` for validation in one camera
    cameras: Mapping[str, Map] = field(default_factory=dict)  # as `1-2`

    def __post_init__(self) -> None:
        maps = ((self.slope, self.offset), *self.cameras.values())
        if not all(math.isfinite(slope) and math.isfinite(offset) for slope, offset in maps):
            raise ValueError("numbers that are not finite")

    @classmethod
    def fit(cls, pairs: Verification) -> "Calibration":
        """From the pairs of a validation."""
        own = {name: _logistic(part) for name, part in pairs.by_cameras(LEAST)}
        return cls(*_logistic(pairs), len(pairs.genuine), pairs.protocol, own)

    def probability(self, cosines: Tensor, query: int = 0, gallery: int = 0) -> Tensor:
        """That a pair has one identity, 0..1; `query` and `gallery` are cameras, 0 if unknown.

        >>> Calibration(10.0, -5.0, 100).probability(torch.tensor([0.5, 0.9]))
        tensor([0.5000, 0.9820])
        """
        slope, offset = self.cameras.get(f"{query}-{gallery}", (self.slope, self.offset))
        return (slope * cosines + offset).sigmoid()

    def reliability(self, pairs: Verification) -> list[dict[str, float]]:
        """By tenths of probability: its mean, the share of genuine pairs, and the weight.

        Genuine and impostor pairs have half of the weight each.
        """
        cosines, weights, genuine = _weighed(pairs)
        chance = self.probability(cosines)
        columns = torch.stack([chance * weights, genuine * weights, weights], dim=1)
        place = (chance * 10).long().clamp(max=9)
        sums = torch.zeros(10, 3, dtype=torch.float64).index_add_(0, place, columns).tolist()
        return [{"probability": p / w, "genuine": g / w, "weight": w} for p, g, w in sums if w]


def _weighed(pairs: Verification) -> tuple[Tensor, Tensor, Tensor]:
    """Cosines, weights and targets (1 or 0) of genuine pairs and of bins of impostors."""
    genuine, impostors = pairs.genuine, pairs.impostors.sum(0)
    used = impostors.nonzero()[:, 0]
    cosines = torch.cat([genuine, EDGES[used] + 1 / BINS]).double()
    shares = (torch.ones_like(genuine).double(), impostors[used].double())
    weights = torch.cat([share / share.sum() / 2 for share in shares])
    return cosines, weights, (torch.arange(len(cosines)) < len(genuine)).double()


def _logistic(pairs: Verification) -> Map:
    """Slope and offset by Newton's method, with targets of Platt 1999, finite where separable."""
    x, weights, target = _weighed(pairs)
    low, high = 1 / (pairs.impostors.sum() + 2), 1 - 1 / (len(pairs.genuine) + 2)
    target = torch.where(target > 0, high, low)
    design, found = torch.stack([x, torch.ones_like(x)], dim=1), torch.zeros(2).double()
    for _ in range(100):
        chance = (design @ found).sigmoid()
        gradient = design.T @ (weights * (chance - target))
        curvature = design.T @ (design * (weights * chance * (1 - chance))[:, None])
        step = torch.linalg.solve(curvature + 1e-9 * torch.eye(2).double(), gradient)
        found = found - step * (20 / step.abs().max()).clamp(max=1)
        if step.abs().max() < 1e-9:
            break
    return found[0].item(), found[1].item()
