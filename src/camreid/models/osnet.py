"""OSNet, the omni-scale network of Zhou et al. (ICCV 2019), and its instance-norm descendants."""

from collections import OrderedDict
from functools import reduce
from typing import Literal

import torch
import torch.nn.functional as F
from timm.layers.squeeze_excite import SEModule
from torch import Tensor, nn

Norm = Literal["bn", "ibn", "ain"]
Instance = Literal["none", "inside", "after"]
Layer = type[nn.Module]

_FEATURES = 512
# where the two blocks of each stage normalise every image by itself: IBN after the sum of the
# first stage, as IBN-Net-b (Pan et al. 2018); AIN where its search put it (TPAMI 2021)
_PLACES: dict[Norm, tuple[tuple[Instance, Instance], ...]] = {
    "bn": (("none", "none"), ("none", "none"), ("none", "none")),
    "ibn": (("after", "after"), ("none", "none"), ("none", "none")),
    "ain": (("inside", "inside"), ("none", "inside"), ("inside", "none")),
}


class OSNet(nn.Module):
    """Normalised RGB images (B, 3, H, W) to features (B, 512).

    The state dict has the names, shapes and order of torchreid's, without `classifier.`.

    Args:
        width: factor on the channels 64, 256, 384, 512: 1, 0.75, 0.5 or 0.25.
        norm: `bn` is OSNet, `ibn` OSNet-IBN, `ain` OSNet-AIN.
    """

    def __init__(self, width: float = 1.0, norm: Norm = "bn") -> None:
        super().__init__()
        self.head_hidden_size = _FEATURES
        channels = [int(width * count) for count in (64, 256, 384, 512)]
        self.conv1 = _conv(3, channels[0], 7, nn.BatchNorm2d if norm == "bn" else nn.InstanceNorm2d)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        apart = norm == "ain"
        for n, (first, second) in enumerate(_PLACES[norm]):
            inputs, outputs = channels[n : n + 2]
            own = OSBlock(inputs, outputs, first, apart), OSBlock(outputs, outputs, second, apart)
            stage = nn.Sequential(*own)
            self.add_module(f"conv{n + 2}", stage)
            if n < 2:  # torchreid has the transitions outside the stages in AIN, inside elsewhere
                pool = nn.Sequential(_conv(outputs, outputs), nn.AvgPool2d(2))
                (self if apart else stage).add_module(f"pool{n + 2}" if apart else "2", pool)
        self.conv5 = _conv(channels[3], channels[3])
        reduction = nn.Linear(channels[3], _FEATURES), nn.BatchNorm1d(_FEATURES)
        self.fc = nn.Sequential(*reduction, nn.ReLU(inplace=True))
        for module in self.modules():  # He initialisation
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, images: Tensor) -> Tensor:
        """Features (B, 512), at least 0; torchreid classifies and compares these, in both modes."""
        return self.forward_head(self.forward_features(images))

    def forward_features(self, images: Tensor) -> Tensor:
        """The map (B, 512 * width, H/16, W/16), before pooling."""
        *parts, _ = self.children()  # without fc
        for part in parts:
            images = part(images)
        return images

    def forward_head(self, features: Tensor, pre_logits: bool = True) -> Tensor:
        """(B, 512) of such maps; there are no logits."""
        pooled: Tensor = self.fc(features.mean((2, 3)))
        return pooled


class OSBlock(nn.Module):
    """Residual bottleneck: streams of 3x3, 5x5, 7x7 and 9x9 pixels, mixed by one shared gate.

    Instance norm is `inside` the residual branch, in place of its last batch norm, or `after` the
    sum; `searched` streams have the names of OSNet-AIN.
    """

    def __init__(self, inputs: int, outputs: int, instance: Instance, searched: bool) -> None:
        super().__init__()
        middle = outputs // 4
        self.conv1 = _conv(inputs, middle)
        # a stream of n Lite 3x3 sees 2 n + 1 pixels
        streams = [nn.Sequential(*(_lite(middle) for _ in range(n))) for n in (1, 2, 3, 4)]
        self.searched = searched
        if searched:
            self.conv2 = nn.ModuleList(nn.Sequential(OrderedDict(layers=s)) for s in streams)
        else:
            self.conv2a = streams[0][0]
            self.conv2b, self.conv2c, self.conv2d = streams[1:]
        self.gate = SEModule(middle, rd_channels=middle // 16)
        last = nn.Identity if instance == "inside" else nn.BatchNorm2d
        self.conv3 = _conv(middle, outputs, norm=last, relu=False)
        same = inputs == outputs
        self.downsample = nn.Identity() if same else _conv(inputs, outputs, relu=False)
        self.instance = instance
        if instance != "none":
            self.IN = nn.InstanceNorm2d(outputs, affine=True)

    def forward(self, x: Tensor) -> Tensor:
        """(B, outputs, h, w) of (B, inputs, h, w)."""
        plain = () if self.searched else (self.conv2a, self.conv2b, self.conv2c, self.conv2d)
        narrow = self.conv1(x)
        streams = [self.gate(stream(narrow)) for stream in plain or self.conv2]
        residual = self.conv3(reduce(torch.add, streams))
        if self.instance == "inside":
            residual = self.IN(residual)
        total = residual + self.downsample(x)
        if self.instance == "after":
            total = self.IN(total)
        return F.relu(total, inplace=True)


def _conv(
    inputs: int, outputs: int, size: int = 1, norm: Layer = nn.BatchNorm2d, relu: bool = True
) -> nn.Sequential:
    """Convolution, norm and ReLU; the 7x7 of the stem halves the map."""
    conv = nn.Conv2d(inputs, outputs, size, 2 if size > 1 else 1, size // 2, bias=False)
    layers = {"conv": conv, "bn": norm(outputs, affine=True)}
    return nn.Sequential(OrderedDict({**layers, "relu": nn.ReLU(inplace=True)} if relu else layers))


def _lite(channels: int) -> nn.Sequential:
    """Lite 3x3: pointwise then depthwise, the reverse of MobileNet, with one norm and ReLU."""
    pointwise = nn.Conv2d(channels, channels, 1, bias=False)
    depthwise = nn.Conv2d(channels, channels, 3, padding=1, groups=channels, bias=False)
    after = {"bn": nn.BatchNorm2d(channels), "relu": nn.ReLU(inplace=True)}
    return nn.Sequential(OrderedDict(conv1=pointwise, conv2=depthwise, **after))
