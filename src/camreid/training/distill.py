"""Distillation of several teachers into one student.

The teachers see the student's images with the same augmentation: "consistent" teaching (Beyer et
al. 2022). They are no part of the student's module, so its optimiser and checkpoints do not hold
them.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from camreid.errors import InputError, require_number
from camreid.labels import LabelMap
from camreid.losses.distillation import cosines, logit_loss, similarity_loss
from camreid.models.evaluating import forward_raw
from camreid.models.head import RemapHead
from camreid.models.network import ReIDNetwork, ReIDOutput
from camreid.models.pixels import PixelNorm
from camreid.training.batch import Batch
from camreid.training.module import ReIDModule


@dataclass(frozen=True)
class DistillConfig:
    """Weights and temperatures of the distillation losses.

    Attributes:
        similarity_weight: of `similarity_loss`, towards the mean of the teachers' cosines.
        similarity_temperature: divides cosines; small ones look at near images alone.
        logit_weight: of `logit_loss`.
        logit_temperature: divides logits; large ones look at unlikely identities too.

    Raises:
        InputError: one of them is out of range, or all weights are 0.
    """

    similarity_weight: float
    similarity_temperature: float
    logit_weight: float
    logit_temperature: float

    def __post_init__(self) -> None:
        for name in ("similarity", "logit"):
            require_number(f"{name}_weight", getattr(self, f"{name}_weight"), least=0)
            temperature = f"{name}_temperature"
            require_number(temperature, getattr(self, temperature), least=0)
            if getattr(self, temperature) == 0:
                raise InputError(f"{temperature}=0: expected a number above 0.", **{temperature: 1})
        if not self.similarity_weight + self.logit_weight:
            raise InputError(
                "similarity_weight=0 and logit_weight=0 leave no loss to distil by.", logit_weight=1
            )


@dataclass(frozen=True)
class Teacher:
    """A teacher network.

    Attributes:
        network: in evaluation mode, without gradients.
        labels: the identities of its heads, in row order.
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
        """Its output for raw (B, 3, H, W) images of any size and (B,) cameras, on their device."""
        self.network.to(images.device)
        if images.shape[2:] != self.image_size:
            images = F.interpolate(images.float(), self.image_size, mode="bicubic", antialias=True)
            images = images.clamp(0, 255)  # bicubic overshoots at edges
        return forward_raw(self.network, images, cameras)

    def teaches(self, cameras: Tensor) -> Tensor:
        """(B,) bool: whether it was trained on these 1-based cameras; all, if that is unknown."""
        everywhere = torch.ones_like(cameras, dtype=torch.bool)
        return everywhere if self.camera is None else cameras == self.camera


class Distillation:
    """The losses of a student with teachers, as `ReIDModule.extra_losses` takes them.

    Args:
        teachers: at least one.
        student: the network of the module in training; its rows must be final.
        config: weights and temperatures.

    Raises:
        InputError: no teachers, or none shares two identities with the student.
    """

    def __init__(
        self, teachers: Sequence[Teacher], student: ReIDNetwork, config: DistillConfig
    ) -> None:
        self.teachers, self.student, self.config = tuple(teachers), student, config
        if not self.teachers:
            raise InputError("no teachers were given; a student needs at least one.")
        if config.logit_weight and any(teacher.network.camera_labels for teacher in self.teachers):
            raise InputError(
                "a teacher has heads per camera, which share no logits; distil by similarities "
                "alone.",
                logit_weight=0,
                similarity_weight=1,
            )
        heads = student.remap_heads()
        self.shared = [{n: _shared(t, head) for n, head in heads.items()} for t in self.teachers]
        rows = [rows for shared in self.shared for rows, _ in shared.values()]
        if config.logit_weight and not any(len(own) > 1 for own in rows):
            raise InputError(
                "no teacher shares two identities with the student, so there are no logits to "
                "compare; distil by similarities alone.",
                logit_weight=0,
                similarity_weight=1,
            )

    def __call__(self, batch: Batch, output: ReIDOutput) -> dict[str, tuple[float, Tensor]]:
        """Weight and value of `similarity` and `logit`; those without weight are left out."""
        images, cameras, config = self._raw(batch.images), batch.cameras, self.config
        own = [teacher.teaches(cameras) for teacher in self.teachers]
        shown = [torch.ones_like(mask) if config.similarity_weight else mask for mask in own]
        outputs = [
            teacher(images[mask], cameras[mask]) if mask.any() else None
            for teacher, mask in zip(self.teachers, shown, strict=True)
        ]
        losses: dict[str, tuple[float, Tensor]] = {}
        if config.similarity_weight:
            target = torch.stack([cosines(o.features) for o in outputs if o is not None]).mean(0)
            loss = similarity_loss(cosines(output.features), target, config.similarity_temperature)
            losses["similarity"] = (config.similarity_weight, loss.mean())
        if config.logit_weight:
            logits = [_logits(o, mask[s]) for o, mask, s in zip(outputs, own, shown, strict=True)]
            losses["logit"] = (config.logit_weight, self._logit(logits, own, output.features))
        return losses

    def _raw(self, images: Tensor) -> Tensor:
        """The student's images as raw pixels, also of one on `model.pixels=imagenet`."""
        norm = next((part for part in self.student.modules() if isinstance(part, PixelNorm)), None)
        if norm is None or norm.pixels == "raw":
            return images
        return (images * norm.std + norm.mean).clamp(0, 255)  # rounding leaves the range

    def _logit(
        self, logits: Sequence[dict[str, Tensor]], own: Sequence[Tensor], features: Tensor
    ) -> Tensor:
        """Mean over the student's heads and over pairs of an image and a teacher of its camera.

        A student's heads of one camera each learn from the teachers of that camera alone, and count
        as one.
        """
        parts = self.student.parts(features)
        heads: dict[str, list[Tensor]] = {}
        for name, head in self.student.remap_heads().items():
            student = head(parts[name])  # without the margin that training puts on the true row
            group = name if head.camera is None else ""
            values = heads.setdefault(group, [0.0 * student[:0].sum(1)])
            for theirs, mask, shared in zip(logits, own, self.shared, strict=True):
                their_rows, our_rows = shared[name]
                if theirs and len(our_rows) > 1:
                    mean = torch.stack(list(theirs.values())).mean(0)
                    target = theirs.get(name, mean)[:, their_rows.to(mask.device)]
                    ours = student[mask][:, our_rows.to(mask.device)]
                    values.append(logit_loss(ours, target, self.config.logit_temperature))
        found = [torch.cat(values) for values in heads.values()]
        return torch.stack([values.sum() / max(1, len(values)) for values in found]).mean()


def _logits(output: ReIDOutput | None, mask: Tensor) -> dict[str, Tensor]:
    """Logits of some of the images, by head; none without an output."""
    return {} if output is None else {name: x[mask] for name, x in output.logits.items()}


def _shared(teacher: Teacher, head: RemapHead) -> tuple[Tensor, Tensor]:
    """The rows of shared identities in the teacher's head and in the student's; may be empty."""
    apart = teacher.labels.is_anonymous or head.camera not in (None, teacher.camera)
    pids = () if apart else (teacher.labels & head.labels).pids
    both = torch.tensor(pids, dtype=torch.int64)
    return teacher.labels.rows(both), head.labels.rows(both)
