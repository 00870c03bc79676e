"""Thresholds: do two images show one identity, and is the identity of a query in the gallery?"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
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

RATES = (1e-2, 1e-3, 1e-4)  # of false accepts
BINS = 2**15  # of cosines: 6e-5 wide
EDGES = torch.arange(BINS + 1) * (2 / BINS) - 1
MOST = 24  # cameras with counts of each pair: more need much memory, and fit no page
_PAIRS = 2**21  # at a time


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
