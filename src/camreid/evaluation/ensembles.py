"""Several experts as one: their features of the same images, put together.

Every combination is a `FeatureTable` again, so it is ranked as one expert is. All take unit
features, and expect the cosine metric (or the euclidean one, which then gives the same order).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from camreid.errors import InputError
from camreid.evaluation.features import FeatureTable, Images
from camreid.evaluation.protocols import JUNK

Combination = Literal["concat", "zscore", "mean", "query_camera", "image_camera"]
Tables = Mapping[str, FeatureTable]


@dataclass(frozen=True)
class Spaces:
    """Whether the experts' features can stand in for one another.

    Attributes:
        names: of the E experts.
        agreement: (E, E) share of images whose nearest neighbour, from the features of one expert
            (rows) to those of another, is the image itself; NaN where the widths differ. What a
            mean of features or a comparison across experts needs.
        cka: (E, E) linear centred kernel alignment (Kornblith et al. 2019). It does not see
            rotations: where it is high and the agreement is low, the experts have learnt the same
            in other coordinates, which concatenation can use and a mean can't.
        images: how many gallery images were looked at; a guess agrees on one of them.
    """

    names: tuple[str, ...]
    agreement: Tensor
    cka: Tensor
    images: int

    def require(self, least: float) -> None:
        """Refuse to mix features of which fewer than `least` of the images agree.

        Raises:
            InputError: names the two experts that are farthest apart.
        """
        worst = self.agreement.nan_to_num(-1).argmin()
        first, second = divmod(int(worst), len(self.names))
        share = float(self.agreement[first, second])
        pair = f"{self.names[first]} and {self.names[second]}"
        if share != share:
            raise InputError(f"the features of {pair} are of different widths.")
        if share < least:
            raise InputError(
                f"the features of {pair} are not comparable: {100 * share:.1f} % of {self.images} "
                f"images are nearest to themselves across the two, and {100 * least:.0f} % are "
                "asked for, as experts that started from the same weights may have."
            )


def compare_spaces(tables: Tables, images: int = 1000) -> Spaces:
    """Compare the experts' features of the same gallery images, evenly chosen.

    Args:
        tables: by expert, of the same images.
        images: how many are looked at, at most.

    >>> from camreid.evaluation.features import FeatureTable, Images
    >>> pids = torch.tensor([1, 2])
    >>> one, turned = (FeatureTable(i, i) for i in (
    ...     Images(torch.eye(2), pids, pids), Images(torch.eye(2).flip(1), pids, pids)))
    >>> spaces = compare_spaces({"a": one, "b": turned})
    >>> spaces.agreement[0, 1].item(), round(spaces.cka[0, 1].item(), 3)
    (0.0, 1.0)
    """
    _check_same_images(tables)
    gallery = next(iter(tables.values())).gallery
    real = (gallery.pids != JUNK).nonzero().flatten().cpu()
    count = min(images, len(real))
    chosen = real[torch.arange(count) * len(real) // max(1, count)]
    units = [_unit(table.gallery)[chosen] for table in tables.values()]
    pairs = [[(a, b) for b in units] for a in units]
    return Spaces(
        tuple(tables),
        torch.tensor([[_agreement(a, b) for a, b in row] for row in pairs]),
        torch.tensor([[_linear_cka(a, b) for a, b in row] for row in pairs]),
        count,
    )


def _agreement(first: Tensor, second: Tensor) -> float:
    if first.shape[1] != second.shape[1]:
        return float("nan")
    nearest = (first @ second.T).argmax(1)
    return (nearest == torch.arange(len(first), device=nearest.device)).float().mean().item()


def _linear_cka(first: Tensor, second: Tensor) -> float:
    grams = [x @ x.T for x in (f.double() - f.double().mean(0) for f in (first, second))]
    tiny = torch.finfo(torch.float64).tiny
    return float((grams[0] * grams[1]).sum() / (grams[0].norm() * grams[1].norm()).clamp(min=tiny))


def combine(
    how: Combination,
    tables: Tables,
    cameras: Mapping[str, int | None],
    spaces: Spaces,
    least_agreement: float,
) -> FeatureTable:
    """The experts as one table.

    Args:
        how: which of the functions below.
        tables: by expert, of the same images.
        cameras: that each expert was trained on, 1-based; None if it is not known.
        spaces: of these tables.
        least_agreement: from which features can be mixed, see `Spaces`.

    Raises:
        InputError: this combination makes no sense for these experts; says why.
    """
    if len(tables) < 2:
        raise InputError("there is one expert alone, and nothing to put together.")
    _check_same_images(tables)
    if how == "concat":
        return concat(tables)
    if how == "zscore":
        return zscore(tables)
    if how == "query_camera":
        return by_query_camera(tables, cameras)
    spaces.require(least_agreement)
    return mean(tables) if how == "mean" else by_image_camera(tables, cameras)


def concat(tables: Tables) -> FeatureTable:
    """Unit features side by side: their cosine is the mean of the experts' cosines.

    So this is also the fusion of distances by their mean.
    """
    query, gallery = _units(tables, "query"), _units(tables, "gallery")
    return _table(tables, torch.cat(query, 1), torch.cat(gallery, 1))


def zscore(tables: Tables) -> FeatureTable:
    """The fusion of standardised similarities: each expert's, for each query, by its own spread.

    The score is the mean over experts of (s - m) / d, where s is the cosine, m and d the mean and
    standard deviation of the query's cosines over the gallery without junk. m does not change a
    query's order, so it is the dot product of the concatenation with each part of the query
    divided by its d, which comes from the covariance of the gallery features: no matrix of
    distances is held.
    """
    parts = []
    for query, gallery, table in zip(
        _units(tables, "query"), _units(tables, "gallery"), tables.values(), strict=True
    ):
        real = gallery[table.gallery.pids != JUNK].double()
        centred = real - real.mean(0)
        covariance = centred.T @ centred / len(real)  # (D, D)
        variance = ((query.double() @ covariance) * query.double()).sum(1, keepdim=True)
        spread = variance.clamp(min=torch.finfo(torch.float32).eps ** 2).sqrt()
        parts.append((query / spread).float())
    return _table(tables, torch.cat(parts, 1), torch.cat(_units(tables, "gallery"), 1))


def mean(tables: Tables) -> FeatureTable:
    """The mean of unit features, which must be of one width and one space; see `Spaces`."""
    query, gallery = _units(tables, "query"), _units(tables, "gallery")
    means = (F.normalize(torch.stack(units).mean(0)) for units in (query, gallery))
    return _table(tables, *means)


def by_query_camera(tables: Tables, cameras: Mapping[str, int | None]) -> FeatureTable:
    """Each query asks the expert of its camera, about the whole gallery.

    The query is that expert's part of a concatenation with zeros elsewhere, so the experts' spaces
    need not be one. A query of a camera without an expert asks all of them, as `concat` does.

    Raises:
        InputError: no camera is known, or two experts are of the same one.
    """
    asked = _routes(tables, cameras, "query")  # (E, N)
    parts = [
        unit * mask[:, None] for unit, mask in zip(_units(tables, "query"), asked, strict=True)
    ]
    return _table(tables, torch.cat(parts, 1), torch.cat(_units(tables, "gallery"), 1))


def by_image_camera(tables: Tables, cameras: Mapping[str, int | None]) -> FeatureTable:
    """Each image, query or gallery, has the features of the expert of its own camera.

    They must be of one space; see `Spaces`. Images of a camera without an expert have the mean.

    Raises:
        InputError: no camera is known, or two experts are of the same one.
    """
    parts = {}
    for name in ("query", "gallery"):
        asked = _routes(tables, cameras, name)
        units = torch.stack(_units(tables, name))  # (E, N, D)
        parts[name] = F.normalize((units * asked[:, :, None]).sum(0))
    return _table(tables, parts["query"], parts["gallery"])


def _routes(tables: Tables, cameras: Mapping[str, int | None], part: str) -> Tensor:
    """(E, N) bool: which experts each image of a part is asked of."""
    known = [camera for name in tables if (camera := cameras[name]) is not None]
    if not known:
        raise InputError("no checkpoint says which camera it was trained on.")
    twice = sorted({camera for camera in known if known.count(camera) > 1})
    if twice:
        raise InputError(f"several experts are of camera {', '.join(map(str, twice))}.")
    own: Tensor = getattr(next(iter(tables.values())), part).cameras
    asked = torch.stack([own == (cameras[name] or -1) for name in tables])
    return asked | ~asked.any(0)


def _units(tables: Tables, part: str) -> list[Tensor]:
    return [_unit(getattr(table, part)) for table in tables.values()]


def _unit(images: Images) -> Tensor:
    return F.normalize(images.features.float())


def _table(tables: Tables, query: Tensor, gallery: Tensor) -> FeatureTable:
    first = next(iter(tables.values()))
    return FeatureTable(first.query.with_features(query), first.gallery.with_features(gallery))


def _check_same_images(tables: Tables) -> None:
    """Refuse tables of different images, or of the same in another order."""
    names: Sequence[str] = list(tables)
    for part in ("query", "gallery"):
        first: Images = getattr(tables[names[0]], part)
        for name in names[1:]:
            other: Images = getattr(tables[name], part)
            labels = ((first.pids, other.pids), (first.cameras, other.cameras))
            if not all(torch.equal(a, b) for a, b in labels) or first.paths != other.paths:
                raise InputError(
                    f"the {part} images of {names[0]} ({len(first.pids)}) and {name} "
                    f"({len(other.pids)}) are not the same in the same order; take features of "
                    "one split."
                )
