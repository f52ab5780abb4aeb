"""Networks for trainings in several processes, which import them by name."""

from __future__ import annotations

import os
import signal
from typing import Any

import torch.distributed as dist
from torch import Tensor, nn

from senet_lab import models


class FrozenNorm(nn.BatchNorm2d):
    """A batch norm that keeps its running statistics, and so treats every image by itself."""

    def train(self, mode: bool = True) -> FrozenNorm:
        super().train(False)
        return self


class Head(nn.Linear):
    """A classifier in which the second of two processes meets its end when it trains."""

    fault = ""

    def forward(self, x: Tensor) -> Tensor:
        if self.training and dist.is_initialized() and dist.get_rank() == 1:
            if self.fault == "killed":
                os.kill(os.getpid(), signal.SIGKILL)
            raise AwkwardError("a fault of its own", 2)
        return super().forward(x)


class AwkwardError(Exception):
    """An error that cannot be pickled."""

    def __init__(self, said: str, number: int) -> None:
        super().__init__(f"{said}, {number}")


def plain(num_classes: int, in_channels: int = 3) -> nn.Module:
    return models.create("resnet8", None, num_classes, in_channels=in_channels)


def frozen(num_classes: int, in_channels: int = 3) -> nn.Module:
    net = plain(num_classes, in_channels)
    for part in net.modules():
        if type(part) is nn.BatchNorm2d:
            part.__class__ = FrozenNorm
    return net.train()


def failing(num_classes: int, in_channels: int = 3) -> nn.Module:
    return with_fault("failing", num_classes, in_channels)


def killed(num_classes: int, in_channels: int = 3) -> nn.Module:
    return with_fault("killed", num_classes, in_channels)


def with_fault(fault: str, num_classes: int, in_channels: int) -> nn.Module:
    net: Any = plain(num_classes, in_channels)
    net.fc = Head(net.fc.in_features, num_classes)
    net.fc.fault = fault
    return net  # type: ignore[no-any-return]
