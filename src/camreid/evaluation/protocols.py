"""The evaluation protocols: what a query sees of the gallery, its matches, and the numbers."""

from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from camreid.errors import NoValidQuery
from camreid.evaluation.features import Images

Protocol = Literal["cross-camera", "within-camera"]
NUMBERS = ("mAP", "mINP", "rank1", "rank5", "rank10")
JUNK, DISTRACTOR = -1, 0


@dataclass(frozen=True)
class Pairs:
    """For each of some queries, the gallery images of the same identity."""

    queries: Tensor  # (b,) int64
    columns: Tensor  # (b, P) int64 gallery images; short rows are filled with repeats
    real: Tensor  # (b, P) bool, False for the filling


@dataclass(frozen=True)
class View:
    """What a ranking sees of the gallery."""

    protocol: Protocol | None = "cross-camera"  # None for all that either protocol has
    distractors: bool = True
    camera: int | None = None  # the only one


class Rules:
    """Which pairs are matches, and which segments (by camera and distractor) a query sees."""

    def __init__(self, query: Images, gallery: Images) -> None:
        self.query, self.gallery = _labels(query), _labels(gallery)
        self.cameras = torch.unique(torch.cat([self.query["cameras"], self.gallery["cameras"]]))
        self.known = self.query.keys() & self.gallery.keys()
        # whether a query's own image or sequence can be found; without sequences, the image alone
        self.within = not self.known.isdisjoint(("sequences", "index"))

    def segments(self, view: View | None = None) -> list[Tensor]:
        """Gallery rows by camera, then the distractors by camera; of a `view`, all as one."""
        pids, cameras = self.gallery["pids"], self.gallery["cameras"]
        distractor = pids == DISTRACTOR
        kinds = ((pids != JUNK) & ~distractor, distractor)
        if view is not None:
            return [(kinds[0] | (distractor & view.distractors)).nonzero().flatten()]
        return [((cameras == c) & kind).nonzero().flatten() for kind in kinds for c in self.cameras]

    def matches(self, view: View, pairs: Pairs) -> Tensor:
        """(b, P) bool: pairs that are matches."""
        valid = pairs.real & self._differ("index", pairs)
        if not view.distractors:
            valid &= (pick(self.query["pids"], pairs.queries) != DISTRACTOR)[:, None]
        if view.camera is not None:
            valid &= pick(self.gallery["cameras"], pairs.columns) == view.camera
        across = self._differ("cameras", pairs)
        if view.protocol == "cross-camera":
            return valid & across
        within = ~across & self._differ("sequences", pairs) & self.within
        return valid & (within if view.protocol == "within-camera" else within | across)

    def seen(self, view: View, queries: Tensor) -> Tensor:
        """(b, S) bool: segments that a query sees."""
        cameras = self.cameras.expand(len(queries), -1)
        seen = torch.ones_like(cameras, dtype=torch.bool)
        if view.camera is not None:
            seen = cameras == view.camera
        elif view.protocol == "within-camera":
            seen = cameras == pick(self.query["cameras"], queries)[:, None]
        return torch.cat([seen, seen & view.distractors], dim=1)

    def visible(self, view: View, query: int) -> Tensor:
        """(G,) bool: images that a query sees, its matches among them."""
        pids, rows = self.gallery["pids"], torch.tensor([query])
        same = pids == self.query["pids"][query]
        pairs = Pairs(rows, torch.arange(len(pids))[None], same[None])
        others = torch.zeros_like(same)
        for images, seen in zip(self.segments(), self.seen(view, rows)[0], strict=True):
            others[images] = seen
        return (others & ~same) | self.matches(view, pairs)[0]

    def _differ(self, label: str, pairs: Pairs) -> Tensor:
        """(b, P) bool: pairs of different labels; all where a label is not known."""
        if label not in self.known:
            return torch.ones_like(pairs.real)
        own = pick(self.query[label], pairs.queries)[:, None]
        differ = pick(self.gallery[label], pairs.columns) != own
        return differ | (own < 0) if label == "sequences" else differ


def _labels(images: Images) -> dict[str, Tensor]:
    """The known labels by name, on the CPU. Names without a sequence are read as sequence 0."""
    names = images.tensors.keys() - {"features"}
    labels = {name: images.tensors[name].detach().cpu().long().contiguous() for name in names}
    if not (labels.get("sequences", torch.zeros(1)) > 0).any():
        labels.pop("sequences", None)
    return labels


def pick(values: Tensor, index: Tensor) -> Tensor:
    """`values[index]` for 1-D values, without waking all threads for a small index."""
    return values.index_select(0, index.flatten()).view(index.shape)


@dataclass(frozen=True)
class RankingResult:
    """Retrieval numbers of one ranking, on the CPU; shares are in 0..1."""

    average_precision: Tensor  # (Q,) float64, NaN for a query without a match
    inverse_penalty: Tensor  # (Q,) float64, matches over the rank of the last (Ye et al. 2021)
    first_match: Tensor  # (Q,) int64 rank from 1; 0 for a query without a match
    query_pids: Tensor  # (Q,) int64
    protocol: Protocol = "cross-camera"
    distractors: bool = True  # whether distractors (pid 0) were in the gallery
    max_rank: int = 50  # length of the CMC curve

    @property
    def valid(self) -> Tensor:
        """(Q,) bool: queries with a match in the gallery. The others count nowhere."""
        return self.first_match > 0

    @property
    def valid_queries(self) -> int:
        """Number of queries with a match in the gallery."""
        return int(self.valid.sum())

    @property
    def mAP(self) -> float:
        """Mean average precision over the valid queries."""
        return self.average_precision[self.valid].mean().item()

    @property
    def mINP(self) -> float:
        """Mean inverse negative penalty over the valid queries."""
        return self.inverse_penalty[self.valid].mean().item()

    @property
    def cmc(self) -> Tensor:
        """(max_rank,) float64 share of valid queries with a match among the first k, k from 1."""
        first = self.first_match[self.valid].clamp(max=self.max_rank + 1)
        found = torch.bincount(first, minlength=self.max_rank + 2)[1:-1]
        return found.cumsum(0).double() / len(first)

    @property
    def per_query(self) -> Tensor:
        """(V, 5) float64: what each valid query adds to the mean of each of `NUMBERS`."""
        columns = (self.average_precision, self.inverse_penalty)
        hits = [(self.first_match <= k).double() for k in (1, 5, 10)]
        return torch.stack([*columns, *hits], dim=1)[self.valid]

    def scalars(self) -> dict[str, float]:
        """`mAP`, `mINP`, `rank1`, `rank5`, `rank10` and `valid_queries`."""
        means = self.per_query.mean(0).tolist()
        return {**dict(zip(NUMBERS, means, strict=True)), "valid_queries": self.valid_queries}

    def of(self, queries: Tensor) -> "RankingResult":
        """The result of some of the queries, (Q,) bool; NoValidQuery where none has a match."""
        if not self.valid[queries].any():
            raise NoValidQuery(f"none of the {int(queries.sum())} queries has a match.")
        names = ("average_precision", "inverse_penalty", "first_match", "query_pids")
        return replace(self, **{name: getattr(self, name)[queries] for name in names})


def measure(matches: Tensor, closer: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """AP, inverse penalty and first rank from (b, P) matches and counts of closer others."""
    hits = matches.cumsum(1)
    ranks = hits + closer
    count = hits[:, -1]
    precision = torch.where(matches, hits.double() / ranks, 0.0)
    ap = precision.cumsum(1)[:, -1] / count  # adds in one order, however many columns fill the row
    first = (ranks * (matches & (hits == 1))).sum(1)
    last = (ranks * (matches & (hits == count[:, None]))).sum(1)
    return ap, count.double() / last, first
