"""How a head and the people it is to be trained on fit together."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import torch

from camreid.labels import LabelMap
from camreid.models.camera_heads import CameraHead
from camreid.models.head import RemapHead

Images = Mapping[tuple[int, int], int]  # by identity and camera, 1-based


@dataclass(frozen=True)
class HeadFit:
    """How a head and the people it is to be trained on fit together.

    Attributes:
        head: its name.
        rows: rows of its weight.
        people: identities of its label map.
        dim: width that its rows have.
        features: width of the features that it is given.
        identities: train identities of the split.
        shared: those of them whose row came with the starting weights, trained by the camera of a
            head of one camera.
        unknown: the others.
        coverage: `shared` / `identities`.
        image_coverage: the same by images.
        misplaced: identities that land on somebody else's row.
        camera: of a head of one camera, whose train images alone count; None for all.
        members: of such a head, how many rows are of people that the camera has.
        left_out: of such a head, identities that have a row and are not among its members, so that
            they would not be trained.
    """

    head: str
    rows: int
    people: int
    dim: int
    features: int
    identities: int
    shared: int
    unknown: int
    coverage: float
    image_coverage: float
    misplaced: int
    camera: int | None = None
    members: int | None = None
    left_out: int = 0


def check_head(
    name: str,
    head: RemapHead,
    features: int,
    images: Mapping[int, int],
    new_people: LabelMap,
    trained: LabelMap,
) -> HeadFit:
    """Measure the fit of one head.

    Args:
        name: the head's name.
        head: the head.
        features: width of the features that it is given.
        images: train images of each identity of the split.
        new_people: whose rows did not come with the starting weights.
        trained: the label map by which images are given their rows, that of the first head.
    """
    pids = torch.tensor(list(images), dtype=torch.int64)
    people = head.pids.cpu()
    rows = trained.rows(pids)
    has_row = rows >= 0
    within = rows[has_row].clamp(max=len(people) - 1)
    misplaced = int((people[within] != pids[has_row]).sum())
    camera = head if isinstance(head, CameraHead) else None
    every = torch.ones(len(people), dtype=torch.bool)
    members, started = (camera.members.cpu(), camera.started.cpu()) if camera else (every, every)
    shared = [pid for pid in pids[has_row][started[within]].tolist() if pid not in new_people]
    count = sum(images.values())
    return HeadFit(
        head=name,
        rows=head.weight.shape[0],
        people=len(set(people.tolist())),
        dim=head.dim,
        features=features,
        identities=len(images),
        shared=len(shared),
        unknown=len(images) - len(shared),
        coverage=len(shared) / max(1, len(images)),
        image_coverage=sum(images[pid] for pid in shared) / max(1, count),
        misplaced=misplaced,
        camera=camera.camera if camera else None,
        members=int(members.sum()) if camera else None,
        left_out=int((~members[within]).sum()),
    )


def images_of(head: RemapHead, images: Images) -> dict[int, int]:
    """Images of each identity that a head is to learn, those of its camera if it has one."""
    camera = head.camera if isinstance(head, CameraHead) else None
    counts: Counter[int] = Counter()
    for (pid, seen_by), count in sorted(images.items()):
        if camera in (None, seen_by):
            counts[pid] += count
    return counts
