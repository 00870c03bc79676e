"""The protocols once more, one query and one image at a time, in plain Python."""

import math

import torch

from camreid.evaluation import FeatureTable, Images


def random_table(queries, images, identities, cameras, levels, seed):
    """Features are small whole numbers, so that distances are exact and tie."""
    generator = torch.Generator().manual_seed(seed)

    def draw(low, high, *shape):
        return torch.randint(low, high, shape, generator=generator)

    def part(n, lowest_pid):
        labels = (draw(lowest_pid, 1 + identities, n), draw(3, 3 + cameras, n), draw(1, 3, n))
        return Images(draw(0, levels, n, 2).float(), *labels)

    return FeatureTable(part(queries, 1), part(images, -1))


def tensors(table):
    """Features and labels, in the order of `rank`."""
    names = ("features", "pids", "cameras")
    return [getattr(part, name) for name in names for part in (table.query, table.gallery)]


def places(table, q, protocol, distractors=True, camera=None):
    """Ranks of query q's matches; with `camera`, in the gallery of that camera alone."""
    query = {name: x[q].tolist() for name, x in table.query.tensors.items()}
    gallery = {name: x.tolist() for name, x in table.gallery.tensors.items()}
    seen = []
    for g, pid in enumerate(gallery["pids"]):
        same_pid = pid == query["pids"]
        same_camera = gallery["cameras"][g] == query["cameras"]
        same_sequence = gallery["sequences"][g] == query["sequences"]
        if pid == -1 or (pid == 0 and not distractors):
            continue
        if camera is not None and gallery["cameras"][g] != camera:
            continue
        if protocol == "cross-camera" and same_pid and same_camera:
            continue
        if protocol == "within-camera" and (not same_camera or (same_pid and same_sequence)):
            continue
        pairs = zip(query["features"], gallery["features"][g], strict=True)
        seen.append((sum((a - b) ** 2 for a, b in pairs), g, same_pid))
    return [place for place, (_, _, hit) in enumerate(sorted(seen), start=1) if hit]


def numbers(found):
    """Average precision, inverse penalty and first match of the ranks of one query's matches."""
    if not found:
        return math.nan, math.nan, 0
    ap = sum(n / place for n, place in enumerate(found, start=1)) / len(found)
    return ap, len(found) / found[-1], found[0]
