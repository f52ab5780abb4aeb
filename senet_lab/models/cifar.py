"""The plain networks for small images, which no library has: ResNets, pre-activation ResNets and wide ResNets.

All three have a 3×3 stem of 16 channels, three stages (2, 3 and 4 in the paper's numbering, called layer1 to layer3 as
torchvision calls them) that halve the resolution twice, and a global average pool, so that they take 8×8 images as well
as 32×32. They are plain `nn.Sequential`s: what is printed is what is run.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock

Block = Callable[[int, int, int], nn.Module]  # (in_channels, out_channels, stride) → block
Named = list[tuple[str, nn.Module]]
Fan = Literal["fan_in", "fan_out"]


def resnet(depth: int, num_classes: int, in_channels: int = 3) -> nn.Module:
    """ResNet-(6n+2) for CIFAR (He et al. 2015, arXiv 1512.03385, section 4.2), of torchvision's basic blocks.

    Shortcuts have no weights (their option A): where the width doubles, every second pixel, padded with zero channels.
    For 3 input channels and k classes that makes 97,216 n − 22,576 + 65 k weights: 269,722 for ResNet-20 and k = 10.
    """
    n = blocks_a_stage(depth, convolutions=2)
    stem: Named = [
        ("conv1", conv3x3(in_channels, 16)),
        ("bn1", nn.BatchNorm2d(16)),
        ("relu", nn.ReLU(inplace=True)),
    ]
    return assemble(stem, three_stages(basic_block, n, (16, 32, 64)), [], 64, num_classes)


def preact_resnet(depth: int, num_classes: int, in_channels: int = 3, *, bottleneck: bool) -> nn.Module:
    """Pre-activation ResNet (He et al. 2016, arXiv 1603.05027): basic blocks for depth 6n+2, bottlenecks for 9n+2."""
    expansion = 4 if bottleneck else 1
    n = blocks_a_stage(depth, convolutions=3 if bottleneck else 2)
    widths = (16 * expansion, 32 * expansion, 64 * expansion)
    return preact(PreactBottleneck if bottleneck else PreactBasic, n, widths, num_classes, in_channels)


def wide_resnet(depth: int, widen: int, num_classes: int, in_channels: int = 3) -> nn.Module:
    """Wide ResNet WRN-d-k, d = 6n+4 (Zagoruyko and Komodakis 2016, arXiv 1605.07146), without dropout.

    The authors count convolutions: the stem and three projections beside those of the blocks, and not the classifier.
    """
    n = blocks_a_stage(depth, convolutions=2, others=4)
    return preact(PreactBasic, n, (16 * widen, 32 * widen, 64 * widen), num_classes, in_channels)


def blocks_a_stage(depth: int, convolutions: int, others: int = 2) -> int:
    """n of a network of three stages with n blocks of so many convolutions each, and so many other layers.

    Raises:
        ValueError: if no n gives the depth.
    """
    n, rest = divmod(depth - others, 3 * convolutions)
    if rest or n < 1:
        raise ValueError(f"depth: {depth} is not {3 * convolutions}n + {others} for any n of at least 1")
    return n


def preact(block: Block, n: int, widths: tuple[int, int, int], num_classes: int, in_channels: int) -> nn.Module:
    """A network of pre-activation blocks; the last sum still needs its norm and ReLU."""
    stem: Named = [("conv1", conv3x3(in_channels, 16))]
    tail: Named = [("bn", nn.BatchNorm2d(widths[-1])), ("relu", nn.ReLU(inplace=True))]
    return assemble(stem, three_stages(block, n, widths), tail, widths[-1], num_classes)


def three_stages(block: Block, n: int, widths: tuple[int, int, int], before: int = 16) -> Named:
    """layer1 to layer3, n blocks each; the first block of each changes the width, of the last two the resolution.
    `before` is the stem's width."""
    stages: Named = []
    for number, (width, stride) in enumerate(zip(widths, (1, 2, 2), strict=True), start=1):
        first = block(before, width, stride)
        stages.append((f"layer{number}", nn.Sequential(first, *(block(width, width, 1) for _ in range(n - 1)))))
        before = width
    return stages


def assemble(
    stem: Named, stages: Named, tail: Named, features: int, num_classes: int, fan: Fan = "fan_out"
) -> nn.Module:
    """Stem, stages and tail, then a global pool and a linear classifier; convolutions drawn after He."""
    head = [("avgpool", nn.AdaptiveAvgPool2d(1)), ("flatten", nn.Flatten()), ("fc", nn.Linear(features, num_classes))]
    net = nn.Sequential(OrderedDict([*stem, *stages, *tail, *head]))
    he_normal(net, fan)
    return net


def he_normal(net: nn.Module, fan: Fan = "fan_out") -> None:
    """Draw all convolutions after He et al. (normal); their biases are 0."""
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode=fan, nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)


def conv3x3(in_channels: int, out_channels: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(in_channels, out_channels, kernel_size=3, stride=stride, padding=1, bias=False)


def conv1x1(in_channels: int, out_channels: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(in_channels, out_channels, kernel_size=1, stride=stride, bias=False)


def basic_block(in_channels: int, out_channels: int, stride: int) -> nn.Module:
    """torchvision's basic block with a shortcut of option A."""
    changes = stride != 1 or in_channels != out_channels
    shortcut = PadShortcut(out_channels - in_channels, stride) if changes else None
    block: nn.Module = BasicBlock(in_channels, out_channels, stride, shortcut)
    return block


class PadShortcut(nn.Module):
    """Shortcut without weights (He et al. 2015, option A): every `stride`-th pixel, and `extra` channels of zeros."""

    def __init__(self, extra: int, stride: int) -> None:
        super().__init__()
        self.extra = extra
        self.stride = stride

    def forward(self, x_BCHW: Tensor) -> Tensor:
        return F.pad(x_BCHW[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, 0, self.extra))

    def extra_repr(self) -> str:
        return f"extra={self.extra}, stride={self.stride}"


class PreactBasic(nn.Module):
    """x + conv(relu(bn(conv(relu(bn(x)))))): two 3×3 convolutions, each after its norm and ReLU.

    Where the width or the resolution changes, the shortcut is a 1×1 convolution that shares the first norm and ReLU
    with the branch (`shares_norm`), as in the original code of both papers; elsewhere it is x itself.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.conv1 = conv3x3(in_channels, out_channels, stride)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.conv2 = conv3x3(out_channels, out_channels)
        self.relu = nn.ReLU(inplace=True)
        self.shares_norm = stride != 1 or in_channels != out_channels
        self.downsample = conv1x1(in_channels, out_channels, stride) if self.shares_norm else nn.Identity()

    def forward(self, x_BCHW: Tensor) -> Tensor:
        a_BCHW = self.relu(self.bn1(x_BCHW))
        shortcut: Tensor = self.downsample(a_BCHW if self.shares_norm else x_BCHW)
        branch: Tensor = self.conv1(a_BCHW)
        branch = self.conv2(self.relu(self.bn2(branch)))
        return shortcut + branch

    def extra_repr(self) -> str:
        return f"shares_norm={self.shares_norm}"


class PreactBottleneck(nn.Module):
    """`PreactBasic` with a 1×1, a 3×3 and a 1×1 convolution, the first two a quarter as wide as the block.

    The stride is on the first 1×1, as in the authors' code.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        width = out_channels // 4
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.conv1 = conv1x1(in_channels, width, stride)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv2 = conv3x3(width, width)
        self.bn3 = nn.BatchNorm2d(width)
        self.conv3 = conv1x1(width, out_channels)
        self.relu = nn.ReLU(inplace=True)
        self.shares_norm = stride != 1 or in_channels != out_channels
        self.downsample = conv1x1(in_channels, out_channels, stride) if self.shares_norm else nn.Identity()

    def forward(self, x_BCHW: Tensor) -> Tensor:
        a_BCHW = self.relu(self.bn1(x_BCHW))
        shortcut: Tensor = self.downsample(a_BCHW if self.shares_norm else x_BCHW)
        branch: Tensor = self.conv1(a_BCHW)
        branch = self.conv2(self.relu(self.bn2(branch)))
        branch = self.conv3(self.relu(self.bn3(branch)))
        return shortcut + branch

    def extra_repr(self) -> str:
        return f"shares_norm={self.shares_norm}"
