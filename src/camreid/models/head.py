"""The classifier that stores the identity of each row."""

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from camreid.errors import HeadMismatch, require_choice, require_number
from camreid.labels import Identities, LabelMap, rows_of

Classifier = Literal["linear", "cosine", "arc", "circle"]


class RemapHead(nn.Module):
    """A classifier with one row per identity; the identities are a buffer.

    With c the cosine of feature and row, s `scale` and m `margin`, the logits of the true row and
    of the others are

    - `linear`: s w.x for both
    - `cosine` (Wang et al. 2018, CosFace): s (c - m); s c
    - `arc` (Deng et al. 2019, ArcFace): s cos(acos c + m), from acos c = pi - m
      on s (c - m sin m); s c
    - `circle` (Sun et al. 2020): s max(1 + m - c, 0) (c - 1 + m); s max(c + m, 0) (c - m), the
      max(..) without gradient
    - without rows (evaluation): s c, or s w.x

    Args:
        bias: of `linear` logits, as in torchreid's classifiers.
        camera: 1-based, of the images that the head classifies; None for all cameras.
    """

    pids: Tensor

    def __init__(
        self,
        dim: int,
        labels: Identities,
        classifier: Classifier = "linear",
        scale: float = 1.0,
        margin: float = 0.0,
        bias: bool = False,
        camera: int | None = None,
    ) -> None:
        super().__init__()
        require_choice("classifier", classifier, Classifier)
        require_number("scale", scale, least=0)
        require_number("margin", margin, least=0)
        self.classifier, self.scale, self.margin = classifier, float(scale), float(margin)
        self.dim, self.camera = dim, camera
        labels = labels if isinstance(labels, LabelMap) else LabelMap(tuple(labels))
        self.weight = nn.Parameter(torch.empty(len(labels), dim))
        self.bias = nn.Parameter(torch.zeros(len(labels))) if bias else None
        self.register_buffer("pids", torch.tensor(labels.pids, dtype=torch.int64))
        nn.init.normal_(self.weight, std=0.01)

    @property
    def labels(self) -> LabelMap:
        """The identities, in row order."""
        return LabelMap(tuple(self.pids.tolist()))

    def rows(self, pids: Tensor, cameras: Tensor | None = None) -> Tensor:
        """(B,) row of each pid, -1 for none and where (B,) 1-based `cameras` are not the head's."""
        rows = rows_of(self.pids, pids)
        if self.camera is None or cameras is None:
            return rows
        return rows.where(cameras == self.camera, -1)

    def forward(self, features: Tensor, rows: Tensor | None = None) -> Tensor:
        """(B, rows) logits of (B, dim) features; (B,) true `rows`, -1 for none, get the margin."""
        if self.classifier == "linear":
            return self.scale * F.linear(features, self.weight, self.bias)
        with torch.autocast(features.device.type, enabled=False):  # the scale is large
            cosine = F.linear(F.normalize(features.to(self.weight.dtype)), F.normalize(self.weight))
        if rows is None:
            return self.scale * cosine
        true = rows[:, None] == torch.arange(len(self.pids), device=rows.device)
        return self.scale * self._margin(cosine, true)

    def _margin(self, c: Tensor, true: Tensor) -> Tensor:
        m = self.margin
        if self.classifier == "cosine":
            return torch.where(true, c - m, c)
        if self.classifier == "arc":
            angle = c.clamp(-1 + 1e-7, 1 - 1e-7).acos()
            beyond = c - m * math.sin(m)  # cos(angle + m) would rise again
            moved = torch.where(angle <= math.pi - m, (angle + m).cos(), beyond)
            return torch.where(true, moved, c)
        positive = (1 + m - c).clamp(min=0).detach() * (c - (1 - m))
        negative = (c + m).clamp(min=0).detach() * (c - m)
        return torch.where(true, positive, negative)

    @torch.no_grad()
    def take(self, weight: Tensor, labels: LabelMap, bias: Tensor | None = None) -> None:
        """Copy the rows of shared identities from the (N, dim) weight and (N,) bias of a head."""
        if weight.shape != (len(labels), self.dim):
            found = f"the starting head is {tuple(weight.shape)}, but its label map names"
            raise HeadMismatch(f"{found} {len(labels)} identities; expected width {self.dim}.")
        rows = labels.rows(self.pids)
        known, theirs = rows >= 0, rows[rows >= 0]
        self.weight[known] = weight.to(self.weight)[theirs]
        if self.bias is not None and bias is not None:
            self.bias[known] = bias.to(self.bias)[theirs]

    @torch.no_grad()
    def start_rows(self, pids: Tensor, directions: Tensor) -> None:
        """Imprint (Qi et al. 2018) rows of (N,) pids: (N, dim) features, as long as other rows."""
        rows = self.rows(pids.to(self.pids.device))
        others = torch.ones_like(self.pids, dtype=torch.bool)
        others[rows] = False
        length = self.weight[others].norm(dim=1).mean() if others.any() else 1.0
        self.weight[rows] = F.normalize(directions.to(self.weight)) * length
