"""A network of one's own.

From the folder of this file:

    PYTHONPATH=. camreid-train --config-dir conf model=mynet +split=resplit data=synthetic
"""

import torch
from torch import Tensor, nn

from camreid.labels import LabelMap
from camreid.models import PixelNorm, ReIDNetwork, ReIDOutput, RemapHead


class MyNet(ReIDNetwork):
    """Two convolutions, a neck and a head. `width` is an option of one's own."""

    def __init__(
        self, labels: LabelMap, image_size: tuple[int, int], pixels: str = "raw", width: int = 32
    ) -> None:
        super().__init__()
        mean, std = torch.tensor([124.0, 116.0, 104.0]), torch.tensor([58.0, 57.0, 57.0])
        self.pixel_norm = PixelNorm(pixels, mean, std)
        self.body = nn.Sequential(
            nn.Conv2d(3, width, 7, stride=4, padding=3),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, stride=2, padding=1),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
        )
        self.neck = nn.BatchNorm1d(width)
        self.heads = nn.ModuleDict({"identity": RemapHead(width, labels)})
        self.widths = {"identity": width}

    def forward(
        self, images: Tensor, rows: Tensor | None = None, cameras: Tensor | None = None
    ) -> ReIDOutput:
        """Features and logits of (B, 3, H, W) images, the same in training and evaluation."""
        before = self.body(self.pixel_norm(images))  # (B, width), for the triplet loss
        after = self.neck(before)  # (B, width), compared at test time
        return ReIDOutput(after, {"identity": before}, self.logits(self.parts(after), rows), before)

    def parts(self, features: Tensor) -> dict[str, Tensor]:
        """The features of each head."""
        return {"identity": features}


if __name__ == "__main__":
    from camreid.models.presets import read_model
    from camreid.training import ReIDModule

    config = read_model("small", network___target_="custom_backbone.MyNet")
    module = ReIDModule(config, LabelMap((2, 7, 11)))
    output = module(torch.randint(0, 256, (4, 3, 128, 64), dtype=torch.uint8))
    print(config.name, tuple(output.features.shape), tuple(output.logits["identity"].shape))
