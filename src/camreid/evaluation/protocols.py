"""The evaluation protocols: which gallery images a query sees, and which of them are matches."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from camreid.errors import InputError
from camreid.evaluation.result import Protocol, RankingResult

JUNK, DISTRACTOR = -1, 0


@dataclass(frozen=True)
class Labels:
    """The labels of some images.

    Attributes:
        pids: (N,) int64; -1 is junk, 0 a distractor.
        cameras: (N,) int64.
        sequences: (N,) int64 recordings, -1 where unknown; None if none is known.
        index: (N,) int64 image numbers, by which the query image is found in the gallery.
    """

    pids: Tensor
    cameras: Tensor
    sequences: Tensor | None = None
    index: Tensor | None = None

    def to(self, device: torch.device | str) -> "Labels":
        """The same on a device, as int64."""
        columns = {k: v.detach().to(device).long() for k, v in vars(self).items() if v is not None}
        return Labels(**columns)

    def check(self, role: str, images: int) -> None:
        """Refuse labels that are not one for each of the role's images."""
        columns = {name: column for name, column in vars(self).items() if column is not None}
        if any(column.shape != (images,) for column in columns.values()):
            found = ", ".join(f"{column.numel()} {name}" for name, column in columns.items())
            raise InputError(f"the {role} has {images} features, {found}: expected one of each.")


@dataclass(frozen=True)
class Pairs:
    """For each of some queries, the gallery images of the same identity.

    Attributes:
        queries: (b,) int64 rows of the query.
        columns: (b, P) int64 rows of the gallery. Short rows are filled with repeats of their last.
        real: (b, P) bool, False for the filling.
    """

    queries: Tensor
    columns: Tensor
    real: Tensor


@dataclass(frozen=True)
class CameraPairs:
    """Retrieval from each camera to each other, (C, C): query camera by gallery camera.

    On the diagonal is the within-camera protocol. NaN where no query is valid.

    Attributes:
        cameras: the C cameras of queries and gallery, ascending.
        mAP: (C, C) float64.
        rank1: (C, C) float64.
        valid_queries: (C, C) int64.
    """

    cameras: tuple[int, ...]
    mAP: Tensor
    rank1: Tensor
    valid_queries: Tensor


@dataclass(frozen=True)
class Protocols:
    """The results of all protocols, from one pass over the features.

    Attributes:
        results: by protocol, and whether distractors were in the gallery; without those for which
            no query is valid, or for which the images could not be told apart.
        camera_pairs: every camera pair, with distractors.
    """

    results: Mapping[tuple[Protocol, bool], RankingResult]
    camera_pairs: CameraPairs


@dataclass(frozen=True)
class View:
    """What a ranking sees of the gallery.

    Attributes:
        protocol: which images; None for all that either protocol has.
        distractors: whether pid 0 is among them.
        camera: the only camera, as a place in `Rules.cameras`; None for all.
    """

    protocol: Protocol | None
    distractors: bool = True
    camera: int | None = None


class Rules:
    """Which pairs are matches, and which segments (by camera and distractor) a query sees.

    Where the sequences of a side are not known, within-camera excludes the query image alone.

    Args:
        query: labels of all queries, on the CPU.
        gallery: labels of the whole gallery, on the CPU.
    """

    def __init__(self, query: Labels, gallery: Labels) -> None:
        if not (known(query.sequences) and known(gallery.sequences)):
            query, gallery = (replace(side, sequences=None) for side in (query, gallery))
        self.query, self.gallery = query, gallery
        self.cameras = torch.unique(torch.cat([query.cameras, gallery.cameras]))
        sides = ((query.sequences, gallery.sequences), (query.index, gallery.index))
        # whether a query's own image or sequence can be found in the gallery
        self.within = any(q is not None and g is not None for q, g in sides)

    def segments(self, view: View | None = None) -> list[Tensor]:
        """Gallery rows by camera, then the distractors by camera; of a `view`, all as one."""
        pids, cameras = self.gallery.pids, self.gallery.cameras
        distractor = pids == DISTRACTOR
        kinds = ((pids != JUNK) & ~distractor, distractor)
        if view is not None:
            return [(kinds[0] | (distractor & view.distractors)).nonzero().flatten()]
        return [((cameras == c) & kind).nonzero().flatten() for kind in kinds for c in self.cameras]

    def matches(self, view: View, pairs: Pairs) -> Tensor:
        """(b, P) bool: pairs that are matches."""
        valid = pairs.real & self._differ("index", pairs)
        if not view.distractors:
            valid &= (pick(self.query.pids, pairs.queries) != DISTRACTOR)[:, None]
        if view.camera is not None:
            valid &= pick(self.gallery.cameras, pairs.columns) == self.cameras[view.camera]
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
            seen = cameras == self.cameras[view.camera]
        elif view.protocol == "within-camera":
            seen = cameras == pick(self.query.cameras, queries)[:, None]
        return torch.cat([seen, seen & view.distractors], dim=1)

    def advice(self, protocol: Protocol) -> str:
        """What to do where a protocol has no valid query."""
        if not torch.isin(self.query.pids, self.gallery.pids).any():
            return "No query's pid is in the gallery: check that both are of one split."
        if protocol == "within-camera":
            other = "image" if self.query.sequences is None else "sequence"
            return (
                f"No query's identity is in another {other} of the query's camera: "
                "protocol='cross-camera' ranks the images of the other cameras."
            )
        return (
            "All matches are in the query's own camera: protocol='within-camera' ranks those. If "
            "there are more cameras, check query_cameras and gallery_cameras."
        )

    def _differ(self, label: str, pairs: Pairs) -> Tensor:
        """(b, P) bool: pairs of different labels; all where a label is not known."""
        query, gallery = getattr(self.query, label), getattr(self.gallery, label)
        if query is None or gallery is None:
            return torch.ones_like(pairs.real)
        own = pick(query, pairs.queries)[:, None]
        differ = pick(gallery, pairs.columns) != own
        return differ | (own < 0) if label == "sequences" else differ


def known(sequences: Tensor | None) -> bool:
    """Whether sequences are known: names without a sequence are read as 0.

    >>> known(None), known(torch.tensor([0, 0])), known(torch.tensor([0, 1]))
    (False, False, True)
    """
    return sequences is not None and bool((sequences > 0).any())


def pick(values: Tensor, index: Tensor) -> Tensor:
    """`values[index]` for 1-D values, which torch does in one thread where the index is small.

    On the CPU, indexing wakes all threads for any size, and waiting for them takes longer than the
    work, above all where other programs have the cores.

    >>> pick(torch.tensor([5, 6]), torch.tensor([[1, 0]]))
    tensor([[6, 5]])
    """
    return values.index_select(0, index.flatten()).view(index.shape)
