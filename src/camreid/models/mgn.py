"""Multiple granularity network (Wang et al. 2018) as FastReID has it: eight heads."""

import copy
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor, nn

from camreid.errors import InputError
from camreid.labels import Identities
from camreid.models.backbone import Backbone, BackboneOptions, GeM, TrunkOptions, is_resnet
from camreid.models.baseline import bn_neck
from camreid.models.config import build_options
from camreid.models.head import Classifier, RemapHead
from camreid.models.network import Cameras, ReIDNetwork, ReIDOutput, Rows
from camreid.models.pixels import PixelNorm, Pixels, Size

PARTS = ("b1", "b2", "b3", "b21", "b22", "b31", "b32", "b33")  # as in the feature: whole maps first
# a metric loss takes the stripes of a branch as one
JOINED = {"b1": PARTS[:1], "b2": PARTS[1:2], "b3": PARTS[2:3], "b22": PARTS[3:5], "b33": PARTS[5:]}


@dataclass(frozen=True, kw_only=True)
class MGNOptions(TrunkOptions):
    """Options of `MGN`: those of `TrunkOptions` and `RemapHead`, and its own."""

    backbone: str  # a timm ResNet of bottlenecks
    dim: int = 256  # of each part
    extra_norm: bool = False  # and ReLU between reduction and neck, as FastReID v0.1.1
    classifier: Classifier = "circle"
    scale: float = 64.0
    margin: float = 0.35


class MGN(ReIDNetwork):
    """A ResNet up to the first block of stage 3, then three copies of the rest.

    Branch 1 takes the whole map, branch 2 the whole and two stripes, branch 3 the whole and three.
    Each of the eight parts is pooled, reduced by a 1 x 1 convolution and batch-normalised, and has
    a head; all heads are over one label map. The feature is the parts in the order of `PARTS`.
    Options: see `MGNOptions`. The map of H / 16 rows must have three stripes.
    """

    def __init__(
        self, labels: Identities, image_size: Size, pixels: Pixels = "raw", **options: Any
    ) -> None:
        super().__init__()
        own = build_options(MGNOptions, "network", options)
        if len(torch.empty(-(-image_size[0] // 16)).chunk(3)) < 3:
            needs = f"image_size={list(image_size)}: MGN needs three stripes of the map."
            raise InputError(needs, image_size=[384, 128])
        if not is_resnet(own.backbone):
            needs = f"backbone={own.backbone} is no ResNet, and MGN divides layer3 and layer4."
            raise InputError(needs, backbone="resnet50.tv_in1k")
        given = {field.name: getattr(own, field.name) for field in fields(TrunkOptions)}
        whole = Backbone(own.backbone, image_size, BackboneOptions(last_stride=1, **given))
        self.pixel_norm = PixelNorm(pixels, whole.mean, whole.std)
        trunk = whole.trunk
        stem = (trunk.conv1, trunk.bn1, trunk.act1, trunk.maxpool)
        self.trunk = nn.Sequential(*stem, trunk.layer1, trunk.layer2, trunk.layer3[0])
        rest = nn.Sequential(nn.Sequential(*trunk.layer3[1:]), trunk.layer4)
        self.branches = nn.ModuleDict({name: copy.deepcopy(rest) for name in ("b1", "b2", "b3")})
        self.pools = nn.ModuleDict({part: GeM(learned=True) for part in PARTS})
        reductions = {part: nn.Conv2d(whole.dim, own.dim, 1, bias=False) for part in PARTS}
        self.reductions = nn.ModuleDict(reductions)
        self.norms = nn.ModuleDict({p: nn.BatchNorm1d(own.dim) for p in PARTS if own.extra_norm})
        self.necks = nn.ModuleDict({part: bn_neck(own.dim) for part in PARTS})
        how = (own.dim, labels, own.classifier, own.scale, own.margin)
        self.heads = nn.ModuleDict({part: RemapHead(*how) for part in PARTS})
        self.widths = dict.fromkeys(PARTS, own.dim)
        for reduction in self.reductions.parameters():
            nn.init.kaiming_normal_(reduction, mode="fan_out")

    def forward(self, images: Tensor, rows: Rows = None, cameras: Cameras = None) -> ReIDOutput:
        """See `ReIDNetwork.forward`; embeddings are after the necks, `cameras` are not used."""
        shared = self.trunk(self.pixel_norm(images))
        maps = {name: branch(shared) for name, branch in self.branches.items()}
        maps["b21"], maps["b22"] = maps["b2"].chunk(2, dim=2)
        maps["b31"], maps["b32"], maps["b33"] = maps["b3"].chunk(3, dim=2)
        before = {part: self._reduced(part, maps[part]) for part in PARTS}
        parts = {part: self.necks[part](before[part]) for part in PARTS}
        joined = {k: torch.cat([parts[p] for p in names], 1) for k, names in JOINED.items()}
        features, reduced = (torch.cat([own[p] for p in PARTS], 1) for own in (parts, before))
        return ReIDOutput(features, joined, self.logits(parts, rows), reduced)

    def _reduced(self, part: str, features: Tensor) -> Tensor:
        pooled = self.pools[part](features)[:, :, None, None]
        reduced: Tensor = self.reductions[part](pooled).flatten(1)
        return self.norms[part](reduced).relu() if part in self.norms else reduced

    def parts(self, features: Tensor) -> dict[str, Tensor]:
        """The slice of each head."""
        return dict(zip(PARTS, features.chunk(len(PARTS), dim=1), strict=True))
