"""Distillation: the teachers see the student's augmented images (Beyer et al. 2022)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from camreid.errors import InputError, require_number
from camreid.losses.distillation import cosines, logit_loss, similarity_loss
from camreid.models.head import RemapHead
from camreid.models.network import ReIDNetwork, ReIDOutput
from camreid.models.pixels import PixelNorm
from camreid.training.batch import Batch, gather, share
from camreid.training.module import ReIDModule


@dataclass(frozen=True)
class DistillConfig:
    """Weights and temperatures of the distillation losses."""

    similarity_weight: float  # of `similarity_loss`, towards the mean of the teachers' cosines
    similarity_temperature: float  # divides cosines; a small one emphasises similar images
    logit_weight: float  # of `logit_loss`
    logit_temperature: float  # divides logits; a large one emphasises unlikely identities

    def __post_init__(self) -> None:
        for name in ("similarity", "logit"):
            require_number(f"{name}_weight", getattr(self, f"{name}_weight"), least=0)
            require_number(f"{name}_temperature", getattr(self, f"{name}_temperature"), least=1e-3)
        if not self.similarity_weight + self.logit_weight:
            raise InputError("both weights are 0: there is no loss to distil by.", logit_weight=1)


@dataclass(frozen=True)
class Teacher:
    """A teacher, which does not train."""

    module: ReIDModule  # in evaluation mode, such as `camreid.load` gives
    camera: int | None  # that it was trained on, 1-based; None for several or an unknown one

    @torch.no_grad()
    def __call__(self, images: Tensor, cameras: Tensor) -> ReIDOutput:
        """Its output for raw (B, 3, H, W) images of any size and (B,) cameras, on their device."""
        if images.shape[2:] != (size := self.module.config.image_size):
            images = F.interpolate(images.float(), size, mode="bicubic", antialias=True)
            images = images.clamp(0, 255)  # bicubic overshoots at edges
        return self.module.model.to(images.device).forward_raw(images, cameras)


class Distillation:
    """The losses of a student with final rows; InputError if no teacher shares two of them."""

    def __init__(
        self, teachers: Sequence[Teacher], student: ReIDNetwork, config: DistillConfig
    ) -> None:
        self.teachers, self.student, self.config = tuple(teachers), student, config
        heads = student.remap_heads() if config.logit_weight else {}
        self.shared = [_shared_rows(teacher, heads) for teacher in self.teachers]
        if config.logit_weight and not any(self.shared):
            found = "no teacher has two of the student's identities, to compare logits."
            raise InputError(found, logit_weight=0, similarity_weight=1)

    def __call__(self, batch: Batch, output: ReIDOutput) -> dict[str, tuple[float, Tensor]]:
        """Weight and value of `similarity`, and `logit` by head and image of a teacher's camera."""
        images, cameras, config = self._raw(batch.images), batch.cameras, self.config
        parts, heads = self.student.parts(output.features), self.student.remap_heads()
        logits = {name: head(parts[name]) for name, head in heads.items()}  # without margin
        similarities, divergences = [], [0.0 * own[:0].sum(1) for own in logits.values()]
        for teacher, shared in zip(self.teachers, self.shared, strict=True):
            own = cameras == (cameras if teacher.camera is None else teacher.camera)
            shown = own | (config.similarity_weight > 0)
            if not shown.any():
                continue
            theirs = teacher(images[shown], cameras[shown])
            if config.similarity_weight:  # all images are shown, so ranks have equal shapes
                similarities.append(cosines(gather(theirs.features)))
            for name, (their_rows, our_rows) in shared.items():
                mean = torch.stack(list(theirs.logits.values())).mean(0)
                target = theirs.logits.get(name, mean)[own[shown]][:, their_rows]
                student = logits[name][own][:, our_rows]
                divergences.append(logit_loss(student, target, config.logit_temperature))
        losses: dict[str, tuple[float, Tensor]] = {}
        if config.similarity_weight:
            target = torch.stack(similarities).mean(0)
            ours = cosines(gather(output.features))
            loss = similarity_loss(ours, target, config.similarity_temperature)
            losses["similarity"] = (config.similarity_weight, loss.mean())
        if config.logit_weight:
            found = torch.cat(divergences)
            weight = share(torch.tensor(len(found), device=found.device))
            losses["logit"] = (config.logit_weight, found.sum() / max(1, len(found)) * weight)
        return losses

    def _raw(self, images: Tensor) -> Tensor:
        """The student's images as raw pixels, also those that `pixels=imagenet` declares."""
        for part in self.student.modules():
            if isinstance(part, PixelNorm) and part.pixels == "imagenet":
                images = (images * part.std + part.mean).clamp(0, 255)  # rounding leaves the range
        return images


def _shared_rows(teacher: Teacher, heads: Mapping[str, RemapHead]) -> dict[str, list[list[int]]]:
    """By head of the student, the rows of shared identities in teacher and student, if several."""
    labels, shared = teacher.module.labels, {}
    if labels.is_anonymous or teacher.module.camera_labels:
        return {}
    for name, head in heads.items():
        both = torch.tensor((labels & head.labels).pids, dtype=torch.int64)
        if len(both) > 1 and head.camera in (None, teacher.camera):
            shared[name] = [own.rows(both).tolist() for own in (labels, head.labels)]
    return shared
