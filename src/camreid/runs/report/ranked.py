"""Ranked lists: queries with the gallery images that came first, as small pictures."""

import base64
import io
import random
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from camreid.evaluation.features import Images
from camreid.evaluation.protocols import JUNK
from camreid.runs.report.measuring import Measured

Kind = Literal["best", "worst", "random"]
KINDS: tuple[Kind, ...] = ("best", "worst", "random")
SHOWN = 10  # gallery images of each query
_THUMBNAIL = (64, 128)  # width and height that a picture fits in


@dataclass(frozen=True)
class Shown:
    """An image of a list.

    Attributes:
        path: the file, empty if it is not known.
        pid: whom it shows.
        camera: that took it.
        picture: a data URI, None where the file can't be read.
        score: cosine, or distance; None of a query.
        match: whether it shows the query's person; None of a query.
    """

    path: str
    pid: int
    camera: int
    picture: str | None
    score: float | None = None
    match: bool | None = None


@dataclass(frozen=True)
class RankedList:
    """A query and what came first.

    Attributes:
        kind: why it was chosen.
        query: the query.
        average_precision: of the query, 0..1.
        first_match: rank of its first match, from 1.
        gallery: closest first.
    """

    kind: Kind
    query: Shown
    average_precision: float
    first_match: int
    gallery: tuple[Shown, ...]


def ranked_lists(found: Measured, queries: int) -> list[RankedList]:
    """Best, worst and random queries by average precision, in that order.

    Args:
        found: a test.
        queries: how many of each kind, at most.
    """
    chosen = choose(found.plain.average_precision, found.table.query.cameras, queries)
    kinds = [kind for kind, some in chosen.items() for _ in some]
    order = [query for some in chosen.values() for query in some]
    return [
        _list_of(found, kind, query, scores)
        for kind, query, scores in zip(kinds, order, similarities(found, order), strict=True)
    ]


def _list_of(found: Measured, kind: Kind, query: int, scores: Tensor) -> RankedList:
    queries, gallery = found.table.query, found.table.gallery
    order = scores.argsort(descending=True, stable=True)[:SHOWN]
    order = order[scores[order] > -torch.inf]
    pid, sign = int(queries.pids[query]), -1 if found.options.metric == "euclidean" else 1
    shown = tuple(
        replace(image, score=sign * float(scores[place]), match=image.pid == pid)
        for place in order.tolist()
        for image in (_shown(gallery, place),)
    )
    result = found.plain
    ap, first = float(result.average_precision[query]), int(result.first_match[query])
    return RankedList(kind, _shown(queries, query), ap, first, shown)


def choose(ap: Tensor, cameras: Tensor, count: int) -> dict[Kind, list[int]]:
    """Valid queries by kind, each query once; the cameras take turns, so that each has some.

    Args:
        ap: (Q,) average precision, NaN for a query that is not valid.
        cameras: (Q,) int64.
        count: of each kind, at most.

    >>> choose(torch.tensor([0.1, 0.9, 0.5, torch.nan]), torch.tensor([1, 1, 2, 2]), 1)
    {'best': [1], 'worst': [0], 'random': [2]}
    """
    valid = [i for i, value in enumerate(ap.tolist()) if value == value]
    by_ap = sorted(valid, key=lambda i: float(ap[i]))
    count = min(count, -(-len(valid) // len(KINDS)))
    drawn = random.Random(0).sample(valid, len(valid))
    orders: dict[Kind, list[int]] = {"best": by_ap[::-1], "worst": by_ap, "random": drawn}
    taken: set[int] = set()
    chosen: dict[Kind, list[int]] = {}
    for kind, order in orders.items():
        left = [i for i in order if i not in taken]
        picked = _in_turns(left, cameras, count)
        chosen[kind] = sorted(picked, key=left.index)
        taken.update(picked)
    return chosen


def _in_turns(order: list[int], cameras: Tensor, count: int) -> list[int]:
    """The first of each camera, then the second of each, and so on."""
    turns: dict[int, int] = {}
    placed = []
    for place, query in enumerate(order):
        camera = int(cameras[query])
        placed.append((turns.get(camera, 0), place, query))
        turns[camera] = turns.get(camera, 0) + 1
    return [query for _, _, query in sorted(placed)[:count]]


def similarities(found: Measured, queries: list[int]) -> Tensor:
    """(n, G) cosines, or distances below zero, of n queries; -inf where the protocol hides one."""
    table = found.table
    query, gallery = table.query.features[queries].float(), table.gallery.features.float()
    if found.options.metric == "cosine":
        scores = F.normalize(query) @ F.normalize(gallery).T
    else:
        scores = -torch.cdist(query, gallery)
    return scores.masked_fill(~_visible(found, queries), -torch.inf)


def _visible(found: Measured, queries: list[int]) -> Tensor:
    """(n, G) bool: what a query sees under the protocol."""
    q, g = found.table.query, found.table.gallery
    person = g.pids == q.pids[queries, None]
    camera = g.cameras == q.cameras[queries, None]
    if found.options.protocol == "cross-camera":
        return (g.pids != JUNK) & ~(person & camera)
    visible = (g.pids != JUNK) & camera
    known = found.table.exclusions()
    for of_query, of_gallery in (
        (known["query_sequences"], known["gallery_sequences"]),
        (known["query_index"], known["gallery_index"]),
    ):
        if of_query is not None and of_gallery is not None:
            own = of_query[queries, None]
            visible &= ~(person & (of_gallery == own) & (own >= 0))
    return visible


def _shown(images: Images, place: int) -> Shown:
    path = images.paths[place] if images.paths else ""
    pid, camera = int(images.pids[place]), int(images.cameras[place])
    return Shown(path, pid, camera, thumbnail(Path(path)) if path else None)


def thumbnail(path: Path) -> str | None:
    """A small JPEG as a data URI, None where there is no image that can be read."""
    try:
        with Image.open(path) as image:
            small = image.convert("RGB")
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        return None
    small.thumbnail(_THUMBNAIL)
    content = io.BytesIO()
    small.save(content, "JPEG", quality=75)
    return f"data:image/jpeg;base64,{base64.b64encode(content.getvalue()).decode()}"


def describe(image: Shown) -> str:
    """A picture in words.

    >>> describe(Shown("x.jpg", 7, 3, None, 0.5, True))
    'person 7, camera 3, the person asked for'
    """
    who = {0: "a distractor", -1: "junk"}.get(image.pid, f"person {image.pid}")
    said = {None: "", True: ", the person asked for", False: ", someone else"}[image.match]
    return f"{who}, camera {image.camera}{said}"
