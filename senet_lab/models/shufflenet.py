"""ShuffleNet (Zhang et al. 2017, arXiv 1707.01083, table 1), which no library has: the 1× network with 3 groups.

    layer     output      units
    conv1     112² × 24   3×3, stride 2
    maxpool    56² × 24   3×3, stride 2
    stage3     28² × 240  1 of stride 2, 3 of stride 1
    stage4     14² × 480  1 of stride 2, 7 of stride 1
    stage5      7² × 960  1 of stride 2, 3 of stride 1
    global average pool, linear classifier

A unit's branch is a grouped 1×1 of a quarter of the width, a shuffle of its channels among the groups, a depthwise
3×3, and a grouped 1×1; norms follow all three, a ReLU the first. It is added to the unit's input, or with stride 2
stands behind the average-pooled input in channels; a ReLU ends the unit. The very first 1×1 has one group, as the
article says. Stages are numbered by resolution as in the ResNets, one above the article's own numbers.

Where the paper put SE is not said, and its numbers do not decide it. Of 1.8 M parameters it made 2.4 M. SE on the
branch of the 13 units of stride 1, the residual ones, makes 2.43 M (2.41 M without norms), which is printed 2.4; on the
branch of all 16 units 2.48 M (2.45 M), which is 2.4 only if it was cut off, or 1.8 + 0.6 added after rounding; on the
outputs of all units 2.59 M (2.56 M), which does not fit. The first is what is built here. Multiply-adds cannot tell:
the printed 140 M are the article's nominal number where 137.5 M are counted, and all readings add 2 M to 4 M to it.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from senet_lab.models.cifar import assemble
from senet_lab.models.stages import declare_stages

GROUPS = 3
STAGES = {3: (4, 240), 4: (8, 480), 5: (4, 960)}  # stage → units, channels


def shufflenet(num_classes: int, in_channels: int = 3) -> nn.Module:
    """ShuffleNet 1×, g = 3; for 3 input channels and 1000 classes it has 1,865,728 weights."""
    stem = [
        ("conv1", nn.Conv2d(in_channels, 24, 3, stride=2, padding=1, bias=False)),
        ("bn1", nn.BatchNorm2d(24)),
        ("relu", nn.ReLU(inplace=True)),
        ("maxpool", nn.MaxPool2d(3, stride=2, padding=1)),
    ]
    stages: list[tuple[str, nn.Module]] = []
    places: dict[str, int] = {}
    before = 24
    for number, (units, width) in STAGES.items():
        first = Unit(before, width, stride=2, groups=GROUPS if stages else 1)
        stages.append((f"stage{number}", nn.Sequential(first, *(Unit(width, width) for _ in range(units - 1)))))
        places |= {f"stage{number}.{unit}.branch": width for unit in range(1, units)}
        before = width
    # By fan-in: torch's fan-out ignores that a group sees its own channels only.
    net = assemble(stem, stages, [], before, num_classes, fan="fan_in")
    return declare_stages(net, {number: [f"stage{number}"] for number in STAGES}, places)


class Unit(nn.Module):
    """A residual unit; with stride 2 the input is pooled and keeps its own channels. `groups` is of the first 1×1."""

    def __init__(self, in_channels: int, out_channels: int, stride: int = 1, groups: int = GROUPS) -> None:
        super().__init__()
        middle = out_channels // 4
        width = out_channels - in_channels if stride == 2 else out_channels
        self.branch = nn.Sequential(
            nn.Conv2d(in_channels, middle, 1, groups=groups, bias=False),
            nn.BatchNorm2d(middle),
            nn.ReLU(inplace=True),
            Shuffle(GROUPS),
            nn.Conv2d(middle, middle, 3, stride, padding=1, groups=middle, bias=False),
            nn.BatchNorm2d(middle),
            nn.Conv2d(middle, width, 1, groups=GROUPS, bias=False),
            nn.BatchNorm2d(width),
        )
        self.pool = nn.AvgPool2d(3, stride=2, padding=1) if stride == 2 else None

    def forward(self, x_BCHW: Tensor) -> Tensor:
        y_BCHW = self.branch(x_BCHW)
        return F.relu(x_BCHW + y_BCHW if self.pool is None else torch.cat([self.pool(x_BCHW), y_BCHW], 1))


class Shuffle(nn.Module):
    """Deals the channels of each group out to all groups in turn."""

    def __init__(self, groups: int) -> None:
        super().__init__()
        self.groups = groups

    def forward(self, x_BCHW: Tensor) -> Tensor:
        channels = x_BCHW.shape[1]
        grouped_BGCHW = x_BCHW.view(-1, self.groups, channels // self.groups, *x_BCHW.shape[2:])
        return grouped_BGCHW.transpose(1, 2).flatten(1, 2)

    def extra_repr(self) -> str:
        return f"groups={self.groups}"
