"""Where a test errs: camera pairs of wrong first images, and accept rates by threshold."""

from collections import Counter

import torch
from torch import Tensor

from camreid.evaluation import FeatureTable, RankOptions
from camreid.evaluation.protocols import Rules, View
from camreid.runs.report.ranked import similarity
from camreid.runs.table import Table, percent

QUERIES = 1000  # at most, drawn at random
RATES = (0.1, 0.01, 0.001, 0.0001)  # of false accepts


def error_tables(table: FeatureTable, options: RankOptions) -> list[Table]:
    """Errors by camera pair, and the ROC with its thresholds."""
    table = table.numbered()
    q, g, rules = table.query, table.gallery, Rules(table.query, table.gallery)
    drawn = torch.randperm(len(q.pids), generator=torch.Generator().manual_seed(0))[:QUERIES]
    errors: Counter[tuple[int, int]] = Counter()
    same, others = [], []
    for queries in torch.split(drawn, 64):
        scores = similarity(q.features[queries], g.features, options.metric)
        for query, own in zip(queries.tolist(), scores, strict=True):
            visible = rules.visible(View(options.protocol), query)
            matches = visible & (g.pids == q.pids[query])
            if matches.any():
                same.append(own[matches])
                others.append(own[visible & ~matches])
                first = int(own.masked_fill(~visible, -torch.inf).argmax())
                pair = (int(q.cameras[query]), int(g.cameras[first]))
                errors[pair] += not bool(matches[first])
    if not same:
        return []
    note = f"Of {len(same)} queries{', drawn at random' * (len(q.pids) > QUERIES)}."
    return [_by_camera(errors, note), _roc(torch.cat(same), torch.cat(others), options, note)]


def _by_camera(errors: Counter[tuple[int, int]], note: str) -> Table:
    cameras = sorted({camera for pair in errors for camera in pair})
    rows = [[f"c{a}", *(str(errors[a, b]) for b in cameras)] for a in cameras]
    title = "Errors: wrong first images by query camera (rows) and camera of the image"
    return Table(title, ("", *(f"c{camera}" for camera in cameras)), rows, [note])


def _roc(same: Tensor, others: Tensor, options: RankOptions, note: str) -> Table:
    rows = []
    for rate in RATES:
        count = int(rate * len(others))
        if count >= 10:  # fewer say little
            threshold = others.topk(count).values[-1]
            shown = threshold if options.metric == "cosine" else -threshold
            accepted = percent((same > threshold).float().mean().item())
            rows.append([f"{100 * rate:g} %", f"{shown:.3f}", accepted])
    kind = "cosine similarity" if options.metric == "cosine" else "distance"
    title = "ROC: matches above a threshold, by the share of other images above it"
    return Table(title, ("false accepts", f"threshold, {kind}", "true accepts"), rows, [note])
