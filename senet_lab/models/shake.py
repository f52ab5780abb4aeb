"""Shake-Shake networks for CIFAR (Gastaldi 2017, arXiv 1705.07485), which the paper puts SE into (Tables 4 and 5).

A residual block has two branches instead of one; in training they are mixed at random, afresh for each image:
x + α branch1(x) + (1 − α) branch2(x), with α from U(0, 1). The backward pass takes another number β instead of α, which
adds noise to the gradients. In evaluation both branches count one half.

Built after the author's code, in which the shortcuts of the bottleneck network are ResNeXt's projections and not the
two paths of the basic one. For ten classes that makes 26,192,922 weights at width 96 (printed 26.2 M) and 34,437,450 at
cardinality 4 (printed 34.4 M, though used with a hundred classes: 34,529,700).
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from senet_lab.models.cifar import Named, assemble, blocks_a_stage, conv1x1, conv3x3, three_stages


def shake26(width: int, num_classes: int, in_channels: int = 3) -> nn.Module:
    """Shake-Shake-26 2×`width`d with fresh numbers forward and backward, for each image ("S-S-I")."""
    n = blocks_a_stage(26, convolutions=2)
    stem: Named = [("conv1", conv3x3(in_channels, 16)), ("bn1", nn.BatchNorm2d(16))]
    stages = three_stages(shake_basic, n, (width, 2 * width, 4 * width))
    return assemble(stem, stages, [("relu", nn.ReLU(inplace=True))], 4 * width, num_classes)


def shake29(cardinality: int, num_classes: int, in_channels: int = 3) -> nn.Module:
    """Shake-Even-29 2×`cardinality`×64d: ResNeXt-29 with two branches, gradients shared in halves ("S-E-I")."""
    n = blocks_a_stage(29, convolutions=3)
    stem: Named = [
        ("conv1", conv3x3(in_channels, 64)),
        ("bn1", nn.BatchNorm2d(64)),
        ("relu", nn.ReLU(inplace=True)),
    ]
    stages = three_stages(partial(shake_bottleneck, cardinality), n, (256, 512, 1024), before=64)
    return assemble(stem, stages, [], 1024, num_classes)


def shake_basic(in_channels: int, out_channels: int, stride: int) -> ShakeBlock:
    """Both branches are ReLU, 3×3, norm, ReLU, 3×3, norm; nothing follows the sum."""

    def path() -> nn.Module:
        return nn.Sequential(
            conv3x3(in_channels, out_channels, stride),
            nn.BatchNorm2d(out_channels),
            nn.ReLU(inplace=True),
            conv3x3(out_channels, out_channels),
            nn.BatchNorm2d(out_channels),
        )

    branch = Branches(in_channels, out_channels, nn.ReLU(), path(), path(), backward="shake")
    changes = in_channels != out_channels
    shortcut = ShiftShortcut(in_channels, out_channels, stride) if changes else nn.Identity()
    return ShakeBlock(branch, shortcut, nn.Identity())


def shake_bottleneck(cardinality: int, in_channels: int, out_channels: int, stride: int) -> ShakeBlock:
    """Both branches are ResNeXt's 1×1, grouped 3×3 and 1×1 with their norms; a ReLU follows the sum."""
    width = out_channels * cardinality // 4  # 64 channels a group in the first stage, 128 and 256 in the others

    def path() -> nn.Module:
        grouped = nn.Conv2d(width, width, 3, stride=stride, padding=1, groups=cardinality, bias=False)
        return nn.Sequential(
            conv1x1(in_channels, width),
            nn.BatchNorm2d(width),
            nn.ReLU(inplace=True),
            grouped,
            nn.BatchNorm2d(width),
            nn.ReLU(inplace=True),
            conv1x1(width, out_channels),
            nn.BatchNorm2d(out_channels),
        )

    branch = Branches(in_channels, out_channels, nn.Identity(), path(), path(), backward="even")
    shortcut: nn.Module = nn.Identity()
    if in_channels != out_channels:
        shortcut = nn.Sequential(conv1x1(in_channels, out_channels, stride), nn.BatchNorm2d(out_channels))
    return ShakeBlock(branch, shortcut, nn.ReLU(inplace=True))


class ShakeBlock(nn.Module):
    """relu(downsample(x) + branch(x)), `branch` being the mix of two; `relu` is an identity in the basic network."""

    def __init__(self, branch: Branches, downsample: nn.Module, relu: nn.Module) -> None:
        super().__init__()
        self.branch = branch
        self.downsample = downsample
        self.relu = relu

    def forward(self, x_BCHW: Tensor) -> Tensor:
        y_BCHW: Tensor = self.relu(self.downsample(x_BCHW) + self.branch(x_BCHW))
        return y_BCHW


class Branches(nn.Module):
    """The two branches of a block, mixed: one child of it, so that a gate can go before or after the whole.

    Args:
        in_channels: width of the input.
        out_channels: width of the output.
        first: what both branches begin with.
        branch1: the first branch.
        branch2: the second branch, built alike.
        backward: `shake` shares the gradients out at random, `even` in halves.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        first: nn.Module,
        branch1: nn.Module,
        branch2: nn.Module,
        backward: str,
    ) -> None:
        super().__init__()
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.first = first
        self.branch1 = branch1
        self.branch2 = branch2
        self.backward = backward

    def forward(self, x_BCHW: Tensor) -> Tensor:
        # A view is a node of its own in the graph: the branches' gradients are summed first, gated or not.
        a_BCHW = self.first(x_BCHW).view_as(x_BCHW)
        one_BCHW, two_BCHW = self.branch1(a_BCHW), self.branch2(a_BCHW)
        if not self.training:
            return 0.5 * (one_BCHW + two_BCHW)  # type: ignore[no-any-return]
        # Both are drawn here and in single precision: the same numbers whichever branch is differentiated first, and
        # in mixed precision, too.
        shape = (2, len(x_BCHW), 1, 1, 1)
        alpha_B111, beta_B111 = torch.rand(shape, device=x_BCHW.device).to(one_BCHW.dtype)
        if self.backward == "even":
            beta_B111 = torch.full_like(beta_B111, 0.5)
        mixed_BCHW: Tensor = Shake.apply(one_BCHW, two_BCHW, alpha_B111, beta_B111)
        return mixed_BCHW

    def extra_repr(self) -> str:
        return f"backward={self.backward}"


class Shake(torch.autograd.Function):
    """α one + (1 − α) two, and β and 1 − β times its gradient."""

    @staticmethod
    def forward(ctx: Any, one_BCHW: Tensor, two_BCHW: Tensor, alpha_B111: Tensor, beta_B111: Tensor) -> Tensor:
        ctx.save_for_backward(beta_B111)
        return alpha_B111 * one_BCHW + (1 - alpha_B111) * two_BCHW

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None, None]:
        (gradient_BCHW,), (beta_B111,) = gradients, ctx.saved_tensors
        return beta_B111 * gradient_BCHW, (1 - beta_B111) * gradient_BCHW, None, None


class ShiftShortcut(nn.Module):
    """Half of the channels from every `stride`-th pixel and half from its neighbours, so that the halves of a stage
    that lowers the resolution see different pixels: ReLU, two 1×1 convolutions side by side, a norm over both."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = conv1x1(in_channels, out_channels // 2)
        self.conv2 = conv1x1(in_channels, out_channels // 2)
        self.bn = nn.BatchNorm2d(out_channels)
        self.stride = stride

    def forward(self, x_BCHW: Tensor) -> Tensor:
        a_BCHW = F.relu(x_BCHW)
        shifted_BCHW = F.pad(a_BCHW, (1, -1, 1, -1))  # a pixel to the right and down, zeros coming in
        halves = [
            conv(half_BCHW[:, :, :: self.stride, :: self.stride])
            for conv, half_BCHW in ((self.conv1, a_BCHW), (self.conv2, shifted_BCHW))
        ]
        y_BCHW: Tensor = self.bn(torch.cat(halves, 1))
        return y_BCHW

    def extra_repr(self) -> str:
        return f"stride={self.stride}"
