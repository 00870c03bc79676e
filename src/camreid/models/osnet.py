"""OSNet, the omni-scale network of Zhou et al. (ICCV 2019), and its instance-norm descendants."""

from collections import OrderedDict
from typing import Literal, get_args

import torch.nn.functional as F
from torch import Tensor, nn

from camreid.errors import InputError

Norm = Literal["bn", "ibn", "ain"]
Instance = Literal["none", "inside", "after"]

WIDTHS = (1.0, 0.75, 0.5, 0.25)
_CHANNELS = (64, 256, 384, 512)
_GATE_REDUCTION = 16
# where the two blocks of each stage normalise every image by itself: IBN after the sum of the
# first stage, as IBN-Net-b (Pan et al. 2018); AIN where its search put it (TPAMI 2021)
_PLACES: dict[Norm, tuple[tuple[Instance, Instance], ...]] = {
    "bn": (("none", "none"), ("none", "none"), ("none", "none")),
    "ibn": (("after", "after"), ("none", "none"), ("none", "none")),
    "ain": (("inside", "inside"), ("none", "inside"), ("inside", "none")),
}


class OSNet(nn.Module):
    """Normalised RGB images (B, 3, H, W) to features (B, dim), state dict as torchreid's.

    The state dict has the names, shapes and order of torchreid's `osnet_x1_0`, `osnet_ibn_x1_0`
    and `osnet_ain_x1_0` without their `classifier.`; the smaller widths follow the same names.

    Args:
        width: factor on the channels 64, 256, 384, 512; one of `WIDTHS`.
        norm: `bn` is OSNet, `ibn` OSNet-IBN, `ain` OSNet-AIN.
        feature_dim: width of the output.

    Raises:
        InputError: an option that is none of these.

    >>> import torch
    >>> OSNet(width=0.25)(torch.zeros(2, 3, 64, 32)).shape
    torch.Size([2, 512])
    """

    def __init__(self, width: float = 1.0, norm: Norm = "bn", feature_dim: int = 512) -> None:
        super().__init__()
        _check(width, norm, feature_dim)
        self.head_hidden_size = feature_dim
        channels = [int(width * count) for count in _CHANNELS]
        searched = norm == "ain"
        stages = [
            (_block(inputs, outputs, first, searched), _block(outputs, outputs, second, searched))
            for inputs, outputs, (first, second) in zip(
                channels[:-1], channels[1:], _PLACES[norm], strict=True
            )
        ]
        self.conv1 = _conv(3, channels[0], 7, "batch" if norm == "bn" else "instance")
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        # torchreid has the transitions outside the stages in AIN, inside elsewhere
        if searched:
            self.conv2 = nn.Sequential(*stages[0])
            self.pool2 = _transition(channels[1])
            self.conv3 = nn.Sequential(*stages[1])
            self.pool3 = _transition(channels[2])
        else:
            self.conv2 = nn.Sequential(*stages[0], _transition(channels[1]))
            self.pool2 = nn.Sequential()
            self.conv3 = nn.Sequential(*stages[1], _transition(channels[2]))
            self.pool3 = nn.Sequential()
        self.conv4 = nn.Sequential(*stages[2])
        self.conv5 = _conv(channels[3], channels[3])
        self.fc = nn.Sequential(
            nn.Linear(channels[3], feature_dim), nn.BatchNorm1d(feature_dim), nn.ReLU(inplace=True)
        )
        _start(self)

    def forward(self, images: Tensor) -> Tensor:
        """Features (B, dim), at least 0; torchreid classifies and compares these, in both modes.

        Args:
            images: (B, 3, H, W) float, RGB, (x / 255 - mean) / std of ImageNet.
        """
        return self.forward_head(self.forward_features(images))

    def forward_features(self, images: Tensor) -> Tensor:
        """The map (B, 512 * width, H/16, W/16) of such images, before pooling."""
        x = self.maxpool(self.conv1(images))  # H/4
        x = self.pool2(self.conv2(x))  # H/8
        x = self.pool3(self.conv3(x))  # H/16
        features: Tensor = self.conv5(self.conv4(x))
        return features

    def forward_head(self, features: Tensor, pre_logits: bool = True) -> Tensor:
        """(B, dim) of such maps; there are no logits."""
        pooled: Tensor = self.fc(features.mean((2, 3)))
        return pooled


class OSBlock(nn.Module):
    """Residual bottleneck whose streams see 3x3, 5x5, 7x7 and 9x9, mixed by one shared gate.

    Args:
        inputs: channels of its input.
        outputs: channels of its output; the streams have a quarter.
        instance: instance norm `inside` the residual branch, in place of its last batch norm, or
            `after` the sum.
    """

    def __init__(self, inputs: int, outputs: int, instance: Instance) -> None:
        super().__init__()
        middle = outputs // 4
        self.conv1 = _conv(inputs, middle)
        self._add_streams([_stream(middle, depth) for depth in (1, 2, 3, 4)])
        self.gate = Gate(middle)
        last: Literal["batch", "none"] = "none" if instance == "inside" else "batch"
        self.conv3 = _conv(middle, outputs, norm=last, relu=False)
        same = inputs == outputs
        self.downsample = nn.Identity() if same else _conv(inputs, outputs, relu=False)
        self.instance = instance
        if instance != "none":
            self.IN = nn.InstanceNorm2d(outputs, affine=True)

    def forward(self, x: Tensor) -> Tensor:
        """(B, outputs, h, w) of (B, inputs, h, w)."""
        narrow = self.conv1(x)
        residual = self.conv3(sum(self.gate(stream(narrow)) for stream in self._streams()))
        if self.instance == "inside":
            residual = self.IN(residual)
        total = residual + self.downsample(x)
        if self.instance == "after":
            total = self.IN(total)
        return F.relu(total, inplace=True)

    def _add_streams(self, streams: list[nn.Sequential]) -> None:
        self.conv2a = streams[0][0]
        self.conv2b, self.conv2c, self.conv2d = streams[1:]

    def _streams(self) -> tuple[nn.Module, ...]:
        return self.conv2a, self.conv2b, self.conv2c, self.conv2d


class SearchedBlock(OSBlock):
    """The block of OSNet-AIN: its streams go by other names."""

    def _add_streams(self, streams: list[nn.Sequential]) -> None:
        self.conv2 = nn.ModuleList(nn.Sequential(OrderedDict(layers=s)) for s in streams)

    def _streams(self) -> tuple[nn.Module, ...]:
        return tuple(self.conv2)


class Gate(nn.Module):
    """The paper's aggregation gate: each channel of an image times a weight in 0..1."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.fc1 = nn.Conv2d(channels, channels // _GATE_REDUCTION, 1)
        self.fc2 = nn.Conv2d(channels // _GATE_REDUCTION, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """`x` (B, C, h, w), weighted."""
        pooled = x.mean((2, 3), keepdim=True)  # (B, C, 1, 1)
        weights: Tensor = self.fc2(F.relu(self.fc1(pooled))).sigmoid()
        return x * weights


def _block(inputs: int, outputs: int, instance: Instance, searched: bool) -> OSBlock:
    return (SearchedBlock if searched else OSBlock)(inputs, outputs, instance)


def _conv(
    inputs: int,
    outputs: int,
    size: int = 1,
    norm: Literal["batch", "instance", "none"] = "batch",
    relu: bool = True,
) -> nn.Sequential:
    """Convolution, norm and ReLU; the 7x7 of the stem halves the map."""
    stride = 2 if size > 1 else 1
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    layers["conv"] = nn.Conv2d(inputs, outputs, size, stride, size // 2, bias=False)
    if norm == "batch":
        layers["bn"] = nn.BatchNorm2d(outputs)
    elif norm == "instance":
        layers["bn"] = nn.InstanceNorm2d(outputs, affine=True)
    if relu:
        layers["relu"] = nn.ReLU(inplace=True)
    return nn.Sequential(layers)


def _stream(channels: int, depth: int) -> nn.Sequential:
    """`depth` of the paper's Lite 3x3, which see 2 * depth + 1 pixels."""
    return nn.Sequential(*(_lite(channels) for _ in range(depth)))


def _lite(channels: int) -> nn.Sequential:
    """Pointwise then depthwise: the reverse of MobileNet's order, and only one norm and ReLU."""
    return nn.Sequential(
        OrderedDict(
            conv1=nn.Conv2d(channels, channels, 1, bias=False),
            conv2=nn.Conv2d(channels, channels, 3, padding=1, groups=channels, bias=False),
            bn=nn.BatchNorm2d(channels),
            relu=nn.ReLU(inplace=True),
        )
    )


def _transition(channels: int) -> nn.Sequential:
    return nn.Sequential(_conv(channels, channels), nn.AvgPool2d(2))


def _start(network: nn.Module) -> None:
    """He initialisation; norms start at 1 and 0, biases at 0."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)


def _check(width: float, norm: str, feature_dim: int) -> None:
    if width not in WIDTHS:
        widths = ", ".join(map(str, WIDTHS))
        raise InputError(
            f"model.network.width={width}: OSNet has the widths {widths}; type "
            "model.network.width=1.0."
        )
    if norm not in get_args(Norm):
        raise InputError(
            f"model.network.norm={norm}: type bn for OSNet, ibn for OSNet-IBN or ain for OSNet-AIN."
        )
    if not isinstance(feature_dim, int) or feature_dim < 1:
        raise InputError(
            f"model.network.feature_dim={feature_dim}: type a whole number of at least 1, such as "
            "512."
        )
