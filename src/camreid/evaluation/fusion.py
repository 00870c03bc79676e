"""Fusion of experts: their features of the same images as one `FeatureTable`.

All fusions take unit features, and are ranked with the cosine metric.
"""

from collections.abc import Mapping
from itertools import permutations
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from camreid.errors import InputError
from camreid.evaluation.features import FeatureTable
from camreid.evaluation.protocols import JUNK

Fusion = Literal["concat", "mean", "query_camera"]
Tables = Mapping[str, FeatureTable]


def fuse(
    fusion: Fusion, tables: Tables, cameras: Mapping[str, int | None], min_agreement: float
) -> FeatureTable:
    """The experts as one table.

    Args:
        fusion: `concat`, `mean` or `query_camera`; see the functions of these names.
        tables: by expert, of the same images in the same order.
        cameras: that each expert was trained on, 1-based; None for several, or if it is unknown.
        min_agreement: see `mean`.

    Raises:
        InputError: these experts do not allow this fusion.
    """
    if len(tables) < 2:
        raise InputError(f"a fusion needs two experts or more: {len(tables)} given.")
    images = [(t.query.paths, t.query.pids.tolist(), t.gallery.paths) for t in tables.values()]
    if any(other != images[0] for other in images):
        raise InputError("the tables of a fusion hold different images: evaluate one split.")
    if fusion == "mean":
        return mean(tables, min_agreement)
    return concat(tables) if fusion == "concat" else query_camera(tables, cameras)


def concat(tables: Tables) -> FeatureTable:
    """Unit features side by side: their cosine is the mean of the experts' cosines."""
    return _table(tables, *(torch.cat(_units(tables, part), 1) for part in ("query", "gallery")))


def mean(tables: Tables, min_agreement: float) -> FeatureTable:
    """The mean of unit features, which must be of one embedding space; see `agreement`.

    Raises:
        InputError: two experts' features differ in width, or agree on less than `min_agreement`.
    """
    query, gallery = _units(tables, "query"), _units(tables, "gallery")
    real = next(iter(tables.values())).gallery.pids != JUNK
    spaces = zip(tables, gallery, strict=True)
    for (one, first), (other, second) in permutations(spaces, 2):
        is_alike = first.shape == second.shape
        share = agreement(first[real], second[real]) if is_alike else 0.0
        if share < min_agreement or not is_alike:
            raise InputError(
                f"the features of {one} ({first.shape[1]} wide) and {other} ({second.shape[1]} "
                f"wide) are not comparable: {100 * share:.1f} % of the images are nearest to "
                f"themselves across the two, and {100 * min_agreement:.0f} % are asked for. "
                "Experts that start from the same weights usually agree."
            )
    return _table(tables, *(F.normalize(torch.stack(units).mean(0)) for units in (query, gallery)))


def agreement(first: Tensor, second: Tensor, images: int = 1000) -> float:
    """Share of images whose nearest neighbour in another embedding space is the image itself.

    Args:
        first: (N, D) unit features.
        second: (N, D) unit features of the same images in the other space.
        images: number of images that are compared, evenly chosen.

    >>> agreement(torch.eye(2), torch.eye(2)), agreement(torch.eye(2), torch.eye(2).flip(1))
    (1.0, 0.0)
    """
    count = min(images, len(first))
    chosen = torch.arange(count, device=first.device) * len(first) // max(1, count)
    nearest = (first[chosen] @ second[chosen].T).argmax(1)
    return (nearest.cpu() == torch.arange(count)).float().mean().item()


def query_camera(tables: Tables, cameras: Mapping[str, int | None]) -> FeatureTable:
    """Each query is compared by the expert of its camera, with the whole gallery.

    The query is that expert's part of a concatenation, with zeros elsewhere, so embedding spaces
    need not agree. A query of a camera without an expert is compared by all, as in `concat`.

    Raises:
        InputError: no expert's camera is known, or two experts are of one camera.
    """
    known = [camera for name in tables if (camera := cameras[name])]
    if not known or len(set(known)) < len(known):
        raise InputError(
            f"the experts are of the cameras {known}: routing by the query's camera needs at least "
            "one, and one expert for each."
        )
    own = next(iter(tables.values())).query.cameras
    routed = torch.stack([own == (cameras[name] or -1) for name in tables])  # (E, Q)
    routed |= ~routed.any(0)
    units = zip(_units(tables, "query"), routed, strict=True)
    query = torch.cat([unit * mask[:, None] for unit, mask in units], 1)
    return _table(tables, query, torch.cat(_units(tables, "gallery"), 1))


def _units(tables: Tables, part: str) -> list[Tensor]:
    return [F.normalize(getattr(table, part).features.float()) for table in tables.values()]


def _table(tables: Tables, query: Tensor, gallery: Tensor) -> FeatureTable:
    first = next(iter(tables.values()))
    return FeatureTable(first.query.with_features(query), first.gallery.with_features(gallery))
