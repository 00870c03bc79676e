"""Ranked lists: queries with their first gallery images, as small pictures."""

import base64
import io
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from camreid.evaluation import FeatureTable, Images, RankingResult, RankOptions

SHOWN = 10  # gallery images of each query
JUNK = -1
_THUMBNAIL = (64, 128)  # largest width and height, in pixels


@dataclass(frozen=True)
class Shown:
    """An image of a list.

    Attributes:
        path: the file; empty if it is not known.
        pid: identity; -1 is junk, 0 a distractor.
        camera: 1-based.
        picture: a data URI; None where the file cannot be read.
        score: cosine similarity or distance; None for a query.
        match: whether it has the query's identity; None for a query.
    """

    path: str
    pid: int
    camera: int
    picture: str | None
    score: float | None = None
    match: bool | None = None

    def __str__(self) -> str:
        """The picture in words."""
        name = {0: "a distractor", JUNK: "junk"}.get(self.pid, f"identity {self.pid}")
        match = {None: "", True: ", a match", False: ", no match"}[self.match]
        return f"{name}, camera {self.camera}{match}"


@dataclass(frozen=True)
class RankedList:
    """A query and its first gallery images.

    Attributes:
        kind: `Best`, `Worst` or `Random`.
        query: the query.
        average_precision: of the query, 0..1.
        first_match: rank of its first match, from 1.
        gallery: closest first.
    """

    kind: str
    query: Shown
    average_precision: float
    first_match: int
    gallery: tuple[Shown, ...]


def ranked_lists(
    table: FeatureTable, result: RankingResult, options: RankOptions, count: int
) -> list[RankedList]:
    """Best, worst and random queries by average precision, in that order.

    Args:
        table: the features.
        result: their ranking, without re-ranking.
        options: of the ranking.
        count: queries of each kind, at most.
    """
    chosen = choose(result.average_precision, table.query.cameras, count)
    queries = [query for _, query in chosen]
    scores = visible_scores(table, queries, options)
    return [
        RankedList(
            kind,
            _shown(table.query, query),
            float(result.average_precision[query]),
            int(result.first_match[query]),
            tuple(_first(table, query, row, options.metric == "euclidean")),
        )
        for (kind, query), row in zip(chosen, scores, strict=True)
    ]


def choose(ap: Tensor, cameras: Tensor, count: int) -> list[tuple[str, int]]:
    """Kind and number of queries, each query once; cameras take turns.

    Args:
        ap: (Q,) average precision, NaN for a query without a match.
        cameras: (Q,) int64.
        count: of each kind, at most.

    >>> choose(torch.tensor([0.1, 0.9, 0.5, torch.nan]), torch.tensor([1, 1, 2, 2]), 1)
    [('Best', 1), ('Worst', 0), ('Random', 2)]
    """
    valid = [int(i) for i in ap.argsort(stable=True) if not ap[i].isnan()]
    count = min(count, -(-len(valid) // 3))
    drawn = random.Random(0).sample(valid, len(valid))
    chosen: list[tuple[str, int]] = []
    for kind, order in (("Best", valid[::-1]), ("Worst", valid), ("Random", drawn)):
        taken = {query for _, query in chosen}
        left = [query for query in order if query not in taken]
        picked = sorted(_in_turns(left, cameras)[:count], key=left.index)
        chosen += [(kind, query) for query in picked]
    return chosen


def _in_turns(order: Sequence[int], cameras: Tensor) -> list[int]:
    """The first query of each camera, then the second of each, and so on."""
    by_camera: dict[int, list[int]] = {}
    for query in order:
        by_camera.setdefault(int(cameras[query]), []).append(query)
    return sorted(order, key=lambda q: by_camera[int(cameras[q])].index(q))


def visible_scores(table: FeatureTable, queries: Sequence[int], options: RankOptions) -> Tensor:
    """(n, G) cosine similarities or negative distances; -inf where the protocol hides an image."""
    q, g = table.query, table.gallery
    rows = torch.tensor(queries, dtype=torch.int64)
    query, gallery = q.features[rows].float(), g.features.float()
    if options.metric == "cosine":
        scores = F.normalize(query) @ F.normalize(gallery).T
    else:
        scores = -torch.cdist(query, gallery)
    same = g.pids == q.pids[rows, None]
    camera = g.cameras == q.cameras[rows, None]
    visible = (g.pids != JUNK) & ~(same & camera)
    if options.protocol == "within-camera":
        visible = (g.pids != JUNK) & camera
        known = table.exclusions()
        for own, others in (
            (known["query_sequences"], known["gallery_sequences"]),
            (known["query_index"], known["gallery_index"]),
        ):
            if own is not None and others is not None:
                own = own[rows, None]
                visible &= ~(same & (others == own) & (own >= 0))
    return scores.masked_fill(~visible, -torch.inf)


def _first(table: FeatureTable, query: int, scores: Tensor, distances: bool) -> list[Shown]:
    order = scores.argsort(descending=True, stable=True)[:SHOWN]
    pid = int(table.query.pids[query])
    return [
        _shown(table.gallery, place, score=-score if distances else score, pid=pid)
        for place in order.tolist()
        if (score := float(scores[place])) > -torch.inf
    ]


def _shown(images: Images, place: int, score: float | None = None, pid: int | None = None) -> Shown:
    path = images.paths[place] if images.paths else ""
    own = int(images.pids[place])
    match = None if pid is None else own == pid
    return Shown(path, own, int(images.cameras[place]), thumbnail(path), score, match)


def thumbnail(path: str) -> str | None:
    """A small JPEG as a data URI; None where there is no image that can be read."""
    try:
        with Image.open(Path(path)) as image:
            small = image.convert("RGB")
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        return None
    small.thumbnail(_THUMBNAIL)
    content = io.BytesIO()
    small.save(content, "JPEG", quality=75)
    return f"data:image/jpeg;base64,{base64.b64encode(content.getvalue()).decode()}"
