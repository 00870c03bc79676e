"""Several teachers, one student: what is learnt from their similarities and from their rows.

The teachers see the student's very images, augmented as they are: "consistent" teaching (Beyer et
al. 2022). They are no part of the student's module, so neither its optimiser nor its checkpoints
know them.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from camreid.errors import InputError, require_number
from camreid.labels import LabelMap
from camreid.losses.distillation import cosines, fuse, relation_loss, rows_loss
from camreid.losses.identity import mean_over_heads
from camreid.models.camera_heads import CameraHead
from camreid.models.evaluating import forward_raw
from camreid.models.network import ReIDNetwork, ReIDOutput
from camreid.models.pixels import PixelNorm
from camreid.training.batch import Batch
from camreid.training.module import ReIDModule

Target = Literal["concat", "query_camera", "within_camera"]


@dataclass(frozen=True)
class DistillConfig:
    """What is learnt from teachers, and how much it counts.

    Attributes:
        target: whose similarities: `concat`, the mean of the teachers' cosines; `query_camera`,
            those of the teacher of the image's own camera, the mean where there is none;
            `within_camera`, those of the teacher of the camera that two images share, which is
            all that it was trained on: images of two cameras are not compared.
        relation_weight: of `relation_loss`.
        relation_temperature: what cosines are divided by; small ones look at near images alone.
        rows_weight: of `rows_loss`.
        rows_temperature: what logits are divided by; large ones look at unlikely people too.

    Raises:
        InputError: one of them is out of range, or nothing would be learnt.
    """

    target: Target
    relation_weight: float
    relation_temperature: float
    rows_weight: float
    rows_temperature: float

    def __post_init__(self) -> None:
        choices = ", ".join(get_args(Target))
        if self.target not in get_args(Target):
            raise InputError(f"distill.target={self.target}: type one of {choices}.")
        for name in ("relation", "rows"):
            weight = f"distill.{name}_weight"
            require_number(weight, getattr(self, f"{name}_weight"), least=0)
            temperature = getattr(self, f"{name}_temperature")
            require_number(f"distill.{name}_temperature", temperature, least=0)
            if temperature == 0:
                raise InputError(
                    f"distill.{name}_temperature=0 would divide by 0: type a number above 0, such "
                    f"as 0.1, or {weight}=0 to leave that loss out."
                )
        if not self.relation_weight + self.rows_weight:
            raise InputError(
                "distill.relation_weight=0 and distill.rows_weight=0 leave nothing to learn from "
                "the teachers. Type a weight for one of them, or leave +experiment=distill out."
            )


@dataclass(frozen=True)
class Teacher:
    """A network that teaches.

    Attributes:
        network: in evaluation mode, without gradients.
        labels: the people of its heads, in row order.
        image_size: (H, W) that it was trained on.
        camera: that it was trained on, 1-based; None for several, or if it is not known.
    """

    network: ReIDNetwork
    labels: LabelMap
    image_size: tuple[int, int]
    camera: int | None

    @classmethod
    def of(cls, module: ReIDModule, camera: int | None) -> "Teacher":
        """The teacher of a module in evaluation mode, such as `camreid.load` gives."""
        network = module.model.requires_grad_(False)
        return cls(network, module.labels, module.config.image_size, camera)

    @torch.no_grad()
    def __call__(self, images: Tensor, cameras: Tensor) -> ReIDOutput:
        """What it says of raw (B, 3, H, W) images of any size and (B,) cameras, on their device."""
        self.network.to(images.device)
        if images.shape[2:] != self.image_size:
            images = F.interpolate(images.float(), self.image_size, mode="bicubic", antialias=True)
            images = images.clamp(0, 255)  # bicubic overshoots at edges
        return forward_raw(self.network, images, cameras)

    def teaches(self, cameras: Tensor) -> Tensor:
        """(B,) bool: whether images of these 1-based cameras are among those it was trained on.

        All are, if it was trained on several cameras or nobody knows on which.
        """
        everywhere = torch.ones_like(cameras, dtype=torch.bool)
        return everywhere if self.camera is None else cameras == self.camera


class Distillation:
    """The losses of a student with teachers, as `ReIDModule.extra_losses` takes them.

    Args:
        teachers: at least one.
        student: the network of the module in training; its people must not change any more.
        config: what is learnt.

    Raises:
        InputError: no teachers, none with the rows or the cameras that the config needs.
    """

    def __init__(
        self, teachers: Sequence[Teacher], student: ReIDNetwork, config: DistillConfig
    ) -> None:
        self.teachers, self.student, self.config = tuple(teachers), student, config
        labels = next(iter(student.remap_heads().values())).labels
        if not self.teachers:
            raise InputError("no teachers were given; a student needs at least one.")
        self.shared = [_shared(teacher.labels, labels) for teacher in self.teachers]
        if config.rows_weight and not any(len(rows[0]) > 1 for rows in self.shared):
            raise InputError(
                "none of the teachers has rows of two people who have rows of the student's, so "
                "there is nothing to compare. Type distill.rows_weight=0 to learn from the "
                "teachers' similarities alone."
            )
        if config.relation_weight and config.target != "concat":
            _check_cameras(self.teachers, config.target)

    def __call__(self, batch: Batch, output: ReIDOutput) -> dict[str, tuple[float, Tensor]]:
        """Weight and value of `relation` and `rows`; those without weight are left out."""
        images, cameras, config = self._raw(batch.images), batch.cameras, self.config
        own = [teacher.teaches(cameras) for teacher in self.teachers]
        everything = config.relation_weight > 0 and config.target != "within_camera"
        asked = [torch.ones_like(mask) if everything else mask for mask in own]
        said = [
            teacher(images[mask], cameras[mask]) if mask.any() else None
            for teacher, mask in zip(self.teachers, asked, strict=True)
        ]
        losses: dict[str, tuple[float, Tensor]] = {}
        if config.relation_weight:
            theirs = [None if output is None else output.features for output in said]
            within = config.target == "within_camera"
            relation = self._within if within else self._relation
            losses["relation"] = (
                config.relation_weight,
                relation(theirs, cameras, output.features),
            )
        if config.rows_weight:
            rows = [_logits(o, mask[a]) for o, mask, a in zip(said, own, asked, strict=True)]
            losses["rows"] = (config.rows_weight, self._rows(rows, own, output.features))
        return losses

    def _raw(self, images: Tensor) -> Tensor:
        """The student's images as raw pixels, also of one on `model.pixels=imagenet`."""
        norm = next((part for part in self.student.modules() if isinstance(part, PixelNorm)), None)
        if norm is None or norm.pixels == "raw":
            return images
        return (images * norm.std + norm.mean).clamp(0, 255)  # rounding leaves the range

    def _relation(self, theirs: Sequence[Tensor | None], cameras: Tensor, ours: Tensor) -> Tensor:
        """Of the whole batch, which all teachers have seen."""
        similar = torch.stack([cosines(f) for f in theirs if f is not None])  # (E, B, B)
        asked = torch.ones_like(similar[:, 0], dtype=torch.bool)  # (E, B)
        if self.config.target == "query_camera":
            asked = torch.stack([cameras == (t.camera or -1) for t in self.teachers])
        target = fuse(similar, asked)
        return relation_loss(cosines(ours), target, self.config.relation_temperature).mean()

    def _within(self, theirs: Sequence[Tensor | None], cameras: Tensor, ours: Tensor) -> Tensor:
        """Of the images of each camera that has a teacher."""
        values = [0.0 * ours[:0].sum(1)]
        for teacher, features in zip(self.teachers, theirs, strict=True):
            if teacher.camera is not None and features is not None:
                own = cosines(ours[cameras == teacher.camera])
                temperature = self.config.relation_temperature
                values.append(relation_loss(own, cosines(features), temperature))
        found = torch.cat(values)
        return found.sum() / max(1, len(found))

    def _rows(
        self, said: Sequence[dict[str, Tensor]], own: Sequence[Tensor], features: Tensor
    ) -> Tensor:
        """Mean over the student's heads and over pairs of an image and a teacher of its camera.

        A student's heads of one camera each learn from the teachers of that camera alone, and count
        as one.
        """
        parts = self.student.parts(features)
        heads: dict[str, list[Tensor]] = {}
        for name, head in self.student.remap_heads().items():
            logits = head(parts[name])  # without the margin that training puts on the true row
            of_a_camera = isinstance(head, CameraHead)
            values = heads.setdefault("" if of_a_camera else name, [0.0 * logits[:0].sum(1)])
            for teacher, theirs, mask, (their_rows, our_rows) in zip(
                self.teachers, said, own, self.shared, strict=True
            ):
                apart = of_a_camera and head.camera != teacher.camera
                if theirs and len(our_rows) > 1 and not apart:
                    mean = torch.stack(list(theirs.values())).mean(0)
                    target = theirs.get(name, mean)[:, their_rows.to(mask.device)]
                    ours = logits[mask][:, our_rows.to(mask.device)]
                    values.append(rows_loss(ours, target, self.config.rows_temperature))
        found = [torch.cat(values) for values in heads.values()]
        return mean_over_heads([values.sum() / max(1, len(values)) for values in found])


def _logits(output: ReIDOutput | None, mask: Tensor) -> dict[str, Tensor]:
    """Of some of the images, by head; none where nothing was asked."""
    return {} if output is None else {name: x[mask] for name, x in output.logits.items()}


def _shared(teacher: LabelMap, student: LabelMap) -> tuple[Tensor, Tensor]:
    """The rows of the people of both, in the teacher's head and in the student's."""
    both = torch.tensor(() if teacher.is_anonymous else (teacher & student).pids, dtype=torch.int64)
    return teacher.rows(both), student.rows(both)


def _check_cameras(teachers: Sequence[Teacher], target: Target) -> None:
    known = Counter(teacher.camera for teacher in teachers if teacher.camera is not None)
    twice = sorted(camera for camera, count in known.items() if count > 1)
    if known and not twice:
        return
    what = (
        f"several teachers are of camera {', '.join(map(str, twice))}"
        if twice
        else "no teacher's checkpoint says which camera it was trained on"
    )
    raise InputError(
        f"distill.target={target} asks the teacher of each image's own camera, and {what}. "
        "Type distill.target=concat, or distill.teachers= with one expert for each camera."
    )
