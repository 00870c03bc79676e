"""Fusion of experts: their unit features of the same images as one table, for the cosine metric."""

from collections.abc import Mapping
from itertools import permutations
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from camreid.errors import InputError
from camreid.evaluation.features import FeatureTable
from camreid.evaluation.protocols import JUNK

Fusion = Literal["concat", "mean", "query_camera", "calibrated"]
Units = Mapping[str, Tensor]  # unit features of the images by expert, (N, D) each


def fuse(
    fusion: Fusion,
    tables: Mapping[str, FeatureTable],
    cameras: Mapping[str, int | None],
    min_agreement: float,
    slopes: Mapping[str, float],
) -> FeatureTable:
    """The experts as one table; InputError where they do not allow the fusion.

    Args:
        fusion: by the mean of the experts' cosines (`concat`) or of their calibrated log-odds, by
            the mean feature, or each query by the expert of its camera, with the whole gallery.
        tables: by expert, of the same images in the same order.
        cameras: that each expert was trained on, 1-based; None for several, or if it is unknown.
        min_agreement: for `mean`: share of images nearest to themselves across two experts.
        slopes: of the experts' calibrations, for `calibrated`.
    """
    if len(tables) < 2:
        raise InputError(f"a fusion needs two experts or more: {len(tables)} given.")
    images = [(t.query.paths, t.query.pids.tolist(), t.gallery.paths) for t in tables.values()]
    if images != [images[0]] * len(images):
        raise InputError("the tables of a fusion hold different images: evaluate one split.")
    units = {name: table.normalized() for name, table in tables.items()}
    query = {name: unit.query.features for name, unit in units.items()}
    gallery = {name: unit.gallery.features for name, unit in units.items()}
    first = next(iter(tables.values()))
    if fusion == "mean":
        real = first.gallery.pids != JUNK
        _check_agreement({name: unit[real] for name, unit in gallery.items()}, min_agreement)
        fused = [F.normalize(torch.stack([*u.values()]).mean(0)) for u in (query, gallery)]
    else:
        if fusion == "calibrated":  # the sum of slope x cosine is one inner product
            query, gallery = (_weighted(units, slopes) for units in (query, gallery))
        elif fusion == "query_camera":
            query = _routed(query, first.query.cameras, cameras)
        fused = [torch.cat([*units.values()], 1) for units in (query, gallery)]
    return FeatureTable(first.query.with_features(fused[0]), first.gallery.with_features(fused[1]))


def _check_agreement(units: Units, least: float) -> None:
    """Refuse spaces in which too few of 1,000 images are nearest to themselves across two."""
    for (one, first), (other, second) in permutations(units.items(), 2):
        both = f"{one} ({first.shape[1]} wide) and {other} ({second.shape[1]} wide)"
        refusal = f"the features of {both} are not comparable"
        if first.shape != second.shape:
            raise InputError(f"{refusal}.")
        chosen = torch.linspace(0, len(first) - 1, min(1000, len(first))).long().to(first.device)
        nearest = (first[chosen] @ second[chosen].T).argmax(1).cpu()
        share = (nearest == torch.arange(len(chosen))).float().mean().item()
        if share < least:
            found = f"{100 * share:.1f} % of the images are nearest to themselves across the two"
            raise InputError(f"{refusal}: {found}; min_agreement is {100 * least:.0f} %.")


def _weighted(units: Units, slopes: Mapping[str, float]) -> dict[str, Tensor]:
    """Features with the squared length of the slope; a slope below 0 counts as 0."""
    if lacking := ", ".join(name for name in units if name not in slopes):
        raise InputError(f"no calibration of {lacking}: train with split.val_fraction=0.1.")
    return {name: unit * max(slopes[name], 0) ** 0.5 for name, unit in units.items()}


def _routed(units: Units, own: Tensor, cameras: Mapping[str, int | None]) -> dict[str, Tensor]:
    """Query features, zeros but for the expert of the query's camera; all where it has none."""
    known = [camera for name in units if (camera := cameras[name])]
    if not known or len(set(known)) < len(known):
        raise InputError(f"query_camera needs one expert for each camera; these are of {known}.")
    routed = torch.stack([own == (cameras[name] or -1) for name in units])  # (E, Q)
    routed |= ~routed.any(0)
    parts = zip(units.items(), routed, strict=True)
    return {name: unit * mask[:, None] for (name, unit), mask in parts}
