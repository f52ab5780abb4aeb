"""BN-Inception, which no library has: GoogLeNet with batch norm and two 3×3 convolutions for each 5×5.

The network of Ioffe and Szegedy 2015 (arXiv 1502.03167, figure 5) in the form that the SE paper's authors released:
there 4c and 4d have pool projections of 128 where the article prints 96, so they are 608 channels wide, and 4e is 1056.
That form has the printed 2.03 G multiply-adds. No convolution has a bias; a norm and a ReLU follow each.

    layer     output      1×1   3×3        double 3×3   pool
    conv1     112² × 64   7×7, stride 2
    pool1      56² × 64   3×3 maximum, stride 2
    conv2      56² × 192  1×1 of 64, then 3×3
    pool2      28² × 192  3×3 maximum, stride 2
    3a         28² × 256  64    64→64      64→96        average→32
    3b         28² × 320  64    64→96      64→96        average→64
    3c         14² × 576  –     128→160    64→96        maximum       stride 2
    4a         14² × 576  224   64→96      96→128       average→128
    4b         14² × 576  192   96→128     96→128       average→128
    4c         14² × 608  160   128→160    128→160      average→128
    4d         14² × 608  96    128→192    160→192      average→128
    4e          7² × 1056 –     128→192    192→256      maximum       stride 2
    5a          7² × 1024 352   192→320    160→224      average→128
    5b          7² × 1024 352   192→320    192→224      maximum→128

Strided pools are padded by one pixel, as torchvision's ResNets have it, and so meet the convolutions beside them at any
size; the released model's have no padding, but one window over the edge (`create(…, pool="ceil")`).

SE follows the concatenation of every module, 3c and 4e included (figure 2 of the paper, and the released model). Stages
are numbered by the resolution that a module gives: 3a and 3b are stage 3, 3c to 4d stage 4, 4e to 5b stage 5.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from senet_lab.models.cifar import assemble
from senet_lab.models.stages import declare_stages


class Widths(NamedTuple):
    """One line of the table: output channels of the convolutions, what is pooled, and its projection (0: none).
    Without a 1×1 the module halves the resolution."""

    one: int
    three: tuple[int, int]
    double: tuple[int, int]
    pool: str
    projection: int


MODULES = {
    "inception3a": Widths(64, (64, 64), (64, 96), "average", 32),
    "inception3b": Widths(64, (64, 96), (64, 96), "average", 64),
    "inception3c": Widths(0, (128, 160), (64, 96), "maximum", 0),
    "inception4a": Widths(224, (64, 96), (96, 128), "average", 128),
    "inception4b": Widths(192, (96, 128), (96, 128), "average", 128),
    "inception4c": Widths(160, (128, 160), (128, 160), "average", 128),
    "inception4d": Widths(96, (128, 192), (160, 192), "average", 128),
    "inception4e": Widths(0, (128, 192), (192, 256), "maximum", 0),
    "inception5a": Widths(352, (192, 320), (160, 224), "average", 128),
    "inception5b": Widths(352, (192, 320), (192, 224), "maximum", 128),
}


def bn_inception(num_classes: int, in_channels: int = 3) -> nn.Module:
    """BN-Inception; for 3 input channels and 1000 classes it has 11,285,224 weights."""
    layers: list[tuple[str, nn.Module]] = [
        ("conv1", conv(in_channels, 64, 7, stride=2)),
        ("pool1", nn.MaxPool2d(3, stride=2, padding=1)),
        ("conv2", nn.Sequential(conv(64, 64, 1), conv(64, 192, 3))),
        ("pool2", nn.MaxPool2d(3, stride=2, padding=1)),
    ]
    channels, stage = 192, 3
    stages: dict[int, list[str]] = {}
    places: dict[str, int] = {}
    for name, widths in MODULES.items():
        module = Inception(channels, widths)
        channels = module.out_channels
        stage += module.stride - 1
        layers.append((name, module))
        stages.setdefault(stage, []).append(name)
        places[name] = channels
    return declare_stages(assemble(layers, [], [], channels, num_classes), stages, places)


class Inception(nn.Module):
    """Branches side by side on the same input, their outputs one behind the other in channels."""

    def __init__(self, in_channels: int, widths: Widths) -> None:
        super().__init__()
        one, three, double, pool, projection = widths
        self.stride = 1 if one else 2
        pooled = nn.MaxPool2d if pool == "maximum" else nn.AvgPool2d
        branches: dict[str, nn.Module] = {}
        if one:
            branches["conv1x1"] = conv(in_channels, one, 1)
        branches["conv3x3"] = nn.Sequential(conv(in_channels, three[0], 1), conv(*three, 3, self.stride))
        branches["double3x3"] = nn.Sequential(
            conv(in_channels, double[0], 1), conv(*double, 3), conv(double[1], double[1], 3, self.stride)
        )
        branches["pool"] = pooled(3, stride=self.stride, padding=1)
        if projection:
            branches["pool"] = nn.Sequential(branches["pool"], conv(in_channels, projection, 1))
        self.branches = nn.ModuleDict(branches)
        self.out_channels = one + three[1] + double[1] + (projection or in_channels)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        return torch.cat([branch(x_BCHW) for branch in self.branches.values()], 1)


def conv(in_channels: int, out_channels: int, size: int, stride: int = 1) -> nn.Module:
    """Convolution that keeps the resolution but for its stride, norm, ReLU."""
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, size, stride, padding=size // 2, bias=False),
        nn.BatchNorm2d(out_channels),
        nn.ReLU(inplace=True),
    )
