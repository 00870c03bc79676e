"""The protocols once more, one query and one image at a time, in plain Python."""

import math
from dataclasses import dataclass

import torch

from camreid.evaluation import FeatureTable, Images


@dataclass
class Problem:
    """Images in lists; features are small whole numbers, so that distances are exact and tie."""

    query: list[list[float]]
    gallery: list[list[float]]
    query_pids: list[int]
    gallery_pids: list[int]
    query_cameras: list[int]
    gallery_cameras: list[int]
    query_sequences: list[int]
    gallery_sequences: list[int]

    def tensors(self):
        """Features and labels, in the order of `rank`."""
        q, g = (torch.tensor(f, dtype=torch.float32) for f in (self.query, self.gallery))
        labels = (self.query_pids, self.gallery_pids, self.query_cameras, self.gallery_cameras)
        return q, g, *map(torch.tensor, labels)

    def table(self, known=True):
        """As a table, with sequences or without."""
        tensors = [torch.tensor(column) for column in vars(self).values()]
        query, gallery = (tensors[side::2] for side in (0, 1))
        return FeatureTable(*(Images(f.float(), *x[: 2 + known]) for f, *x in (query, gallery)))

    def sequences(self):
        names = ("query_sequences", "gallery_sequences")
        return {name: torch.tensor(getattr(self, name)) for name in names}


def random_problem(queries, images, identities, cameras, levels, seed):
    generator = torch.Generator().manual_seed(seed)

    def draw(low, high, *shape):
        return torch.randint(low, high, shape, generator=generator).tolist()

    return Problem(
        draw(0, levels, queries, 2), draw(0, levels, images, 2),
        draw(1, 1 + identities, queries), draw(-1, 1 + identities, images),
        draw(3, 3 + cameras, queries), draw(3, 3 + cameras, images),
        draw(1, 3, queries), draw(1, 3, images),
    )  # fmt: skip


def places(problem, q, protocol, distractors=True, camera=None):
    """Ranks of query q's matches; with `camera`, in the gallery of that camera alone."""
    seen = []
    for g, pid in enumerate(problem.gallery_pids):
        same_pid = pid == problem.query_pids[q]
        same_camera = problem.gallery_cameras[g] == problem.query_cameras[q]
        same_sequence = problem.gallery_sequences[g] == problem.query_sequences[q]
        if pid == -1 or (pid == 0 and not distractors):
            continue
        if camera is not None and problem.gallery_cameras[g] != camera:
            continue
        if protocol == "cross-camera" and same_pid and same_camera:
            continue
        if protocol == "within-camera" and (not same_camera or (same_pid and same_sequence)):
            continue
        pairs = zip(problem.query[q], problem.gallery[g], strict=True)
        seen.append((sum((a - b) ** 2 for a, b in pairs), g, same_pid))
    return [place for place, (_, _, hit) in enumerate(sorted(seen), start=1) if hit]


def numbers(found):
    """Average precision, inverse penalty and first match of the ranks of one query's matches."""
    if not found:
        return math.nan, math.nan, 0
    ap = sum(n / place for n, place in enumerate(found, start=1)) / len(found)
    return ap, len(found) / found[-1], found[0]
