"""Thresholds: is a pair of images of one identity, and is a query's identity in the gallery?"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from camreid.evaluation.bootstrap import share_intervals
from camreid.evaluation.features import FeatureTable
from camreid.evaluation.protocols import JUNK, Pairs, Rules, View
from camreid.evaluation.result import Protocol

RATES = (1e-2, 1e-3, 1e-4)  # of false accepts
BINS = 2**15  # of cosines: 6e-5 wide
_PAIRS = 2**22  # at a time


@dataclass(frozen=True)
class Verification:
    """The cosines of the pairs that a ranking compares; see `verify`."""

    cameras: Tensor  # (C,) int64
    impostors: Tensor  # (C, C, BINS) int64 pairs of two identities, by query and gallery camera
    genuine: Tensor  # (P,) cosines of pairs of one identity
    queries: Tensor  # (P,) int64 query of each
    places: Tensor  # (P,) int64 query and gallery camera of each, as a place in (C, C)
    query_pids: Tensor  # (Q,) int64
    closest: Tensor  # (2, Q) largest cosine to an impostor and in a genuine pair; -2 for none

    def summary(self) -> dict[str, Any]:
        """Plain values: `eer`, `far` by rate, `camera_pairs`, and `open_set`.

        `tar` is the share of genuine pairs with a cosine of at least `threshold`, `fnmr` that of
        the others; a false-accept rate is a share of impostor pairs. `interval` is of 95 %, over
        identities at a fixed threshold. None where a side has no pairs.
        """
        total = self.impostors.sum((0, 1))
        found = {"genuine": len(self.genuine), "impostor": int(total.sum())}
        if not all(found.values()):
            return {"pairs": found, "eer": None, "far": {}, "camera_pairs": {}, "open_set": None}
        points = {f"{rate:g}": self._point(threshold_at(total, rate)) for rate in RATES}
        return {
            "pairs": found,
            "eer": equal_error(total, self.genuine),
            "far": points,
            "camera_pairs": self._camera_pairs(),
            "open_set": self._open_set(),
        }

    def _point(self, threshold: float) -> dict[str, Any]:
        accepted = self.genuine >= threshold
        tar = accepted.double().mean().item()
        ends = share_intervals(accepted, self.query_pids[self.queries])
        return {"threshold": threshold, "tar": tar, "fnmr": 1 - tar, "interval": list(ends)}

    def _camera_pairs(self) -> dict[str, Any]:
        """By rate, threshold and TAR of each camera pair, NaN where a side has no pairs."""
        count, tables = len(self.cameras), dict[str, Any](cameras=self.cameras.tolist())
        for rate in RATES:
            values = torch.full((2, count * count), torch.nan, dtype=torch.float64)
            for place, own in enumerate(self.impostors.flatten(0, 1)):
                genuine = self.genuine[self.places == place]
                if own.any() and len(genuine):
                    threshold = threshold_at(own, rate)
                    tar = (genuine >= threshold).double().mean()
                    values[:, place] = torch.tensor([threshold, tar])
            thresholds, tar = values.view(2, count, count).tolist()
            tables[f"{rate:g}"] = {"threshold": thresholds, "tar": tar}
        return tables

    def _open_set(self) -> dict[str, Any] | None:
        """Rank-1 identification: FNIR of queries with a match, FPIR of the others.

        Where each query has a match, FPIR is of the queries with their matches taken away.
        """
        impostor, genuine = self.closest
        mated, searched = genuine > -2, impostor > -2
        without = searched & ~mated
        other = impostor[without if without.any() else searched].sort(descending=True).values
        if not len(other) or not mated.any():
            return None
        kind = "without a match" if without.any() else "with their matches taken away"
        rates = {}
        for rate in (0.1, 0.01):
            allowed = int(rate * len(other))
            # just above the first that must be refused
            threshold = other[allowed].nextafter(torch.tensor(2.0)).item() if len(other) else 1.0
            hit = (genuine >= threshold) & (genuine > impostor)
            missed = 1 - hit[mated].double().mean().item()
            rates[f"{rate:g}"] = {"threshold": threshold, "fnir": missed}
        return {"mated": int(mated.sum()), "non_mated": len(other), "kind": kind, "fpir": rates}

    @cached_property
    def genuine_bins(self) -> Tensor:
        """(C, C, BINS) int64 genuine pairs."""
        count = len(self.cameras)
        index = self.places * BINS + bin_of(self.genuine)
        return index.bincount(minlength=count * count * BINS).view(count, count, BINS)


def verify(table: FeatureTable, protocol: Protocol = "cross-camera") -> Verification:
    """The cosines of all pairs of a query and an image that it sees under the protocol.

    Genuine pairs are the matches; impostor pairs have two identities, of which one may be a
    distractor, under `within-camera` of one camera. Junk is in no pair.
    """
    table = table.numbered()
    rules, view = Rules(table.query, table.gallery), View(protocol)
    cameras, pids = rules.cameras, rules.query["pids"]
    impostors = torch.zeros(len(cameras) ** 2 * BINS, dtype=torch.int64)
    closest, parts = torch.full((2, len(pids)), -2.0), []
    for rows, cosines, genuine, impostor, places in _blocks(table, rules, view):
        index = (places * BINS + bin_of(cosines))[impostor]
        impostors += index.bincount(minlength=len(impostors))
        for side, mask in zip(closest, (impostor, genuine), strict=True):
            side[rows] = cosines.masked_fill(~mask, -2.0).amax(1)
        query, column = genuine.nonzero().unbind(1)
        parts.append((cosines[query, column], rows[query], places[query, column]))
    scores, queries, places = (torch.cat(part) for part in zip(*parts, strict=True))
    shape = (len(cameras), len(cameras), BINS)
    return Verification(cameras, impostors.view(shape), scores, queries, places, pids, closest)


def _blocks(table: FeatureTable, rules: Rules, view: View) -> Iterator[tuple[Tensor, ...]]:
    """Queries (b,), and (b, G): cosines, genuine and impostor pairs, places of camera pairs."""
    query, gallery = (F.normalize(p.features.cpu().float()) for p in (table.query, table.gallery))
    pids, others = rules.query["pids"], rules.gallery["pids"]
    own, theirs = (
        torch.searchsorted(rules.cameras, part["cameras"]) for part in (rules.query, rules.gallery)
    )
    columns = torch.arange(len(others))
    rows = torch.arange(len(pids))
    for block in torch.split(rows, max(1, _PAIRS // len(others))):  # type: ignore[no-untyped-call]
        same = pids[block, None] == others
        genuine = rules.matches(view, Pairs(block, columns.expand(len(block), -1), same))
        genuine &= pids[block, None] > 0
        impostor = ~same & (others != JUNK) & (pids[block, None] != JUNK)
        if view.protocol == "within-camera":
            impostor &= own[block, None] == theirs
        places = own[block, None] * len(rules.cameras) + theirs
        yield block, query[block] @ gallery.T, genuine, impostor, places


def bin_of(cosines: Tensor) -> Tensor:
    """The place of each cosine among `BINS` equal parts of -1..1."""
    return ((cosines + 1) * (BINS / 2)).long().clamp(0, BINS - 1)


def edges() -> Tensor:
    """(BINS,) float64 lower ends of the bins."""
    return torch.arange(BINS, dtype=torch.float64) * (2 / BINS) - 1


def threshold_at(impostors: Tensor, rate: float) -> float:
    """The lowest bin edge at which at most a share `rate` of (BINS,) impostor pairs is accepted.

    >>> impostors = torch.zeros(BINS, dtype=torch.int64)
    >>> impostors[bin_of(torch.tensor([0.0, 0.5]))] = torch.tensor([99, 1])
    >>> round(threshold_at(impostors, 0.01), 3), round(threshold_at(impostors, 0.001), 3)
    (0.0, 0.5)
    """
    accepted = impostors.flip(0).cumsum(0).flip(0)  # with a cosine of at least each edge
    allowed = accepted <= rate * impostors.sum()
    place = int(allowed.int().argmax()) if allowed.any() else BINS
    return place * 2 / BINS - 1


def equal_error(impostors: Tensor, genuine: Tensor) -> dict[str, float]:
    """Rate and threshold at which false accepts and false rejects are equally frequent."""
    accepted = impostors.flip(0).cumsum(0).flip(0).double() / impostors.sum()
    counts = bin_of(genuine).bincount(minlength=BINS)
    rejected = (counts.cumsum(0) - counts).double() / len(genuine)
    place = int((accepted - rejected).abs().argmin())
    rate = (accepted[place] + rejected[place]).item() / 2
    return {"rate": rate, "threshold": edges()[place].item()}
