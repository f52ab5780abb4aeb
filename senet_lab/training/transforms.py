"""From an image to the numbers that a network sees (paper, sections 5.1 and 5.4).

Shapes: V views of an image, C colour channels, H W pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torchvision.transforms import v2

from senet_lab.config import Data
from senet_lab.training.augment import AUGMENTS, Change, cutout, erasing
from senet_lab.training.policies import POLICIES
from senet_lab.training.sources import SOURCES, source_of


class Normalised:
    """From bytes to numbers of mean 0 and variance 1 over the training images, channel by channel.

    Args:
        mean: of each channel, in units of the full range.
        std: likewise.
        device: that the images lie on.
        shares: whether levels become shares of the full range first, as torchvision's transforms have it; the two ways
            differ in the last bit.
    """

    def __init__(self, mean: Sequence[float], std: Sequence[float], device: str = "cpu", shares: bool = False) -> None:
        full = 1 if shares else 255
        self.mean = (torch.tensor(mean).view(-1, 1, 1) * full).to(device)
        self.std = (torch.tensor(std).view(-1, 1, 1) * full).to(device)
        self.shares = shares

    def __call__(self, x_CHW: Tensor) -> Tensor:
        """One image (C, H, W), or a batch of them."""
        return ((x_CHW * (1 / 255) if self.shares else x_CHW) - self.mean) / self.std


def late_changes(data: Data) -> list[Change]:
    """What training does to normalised images, in order."""
    return [*([cutout(data.cutout)] if data.cutout else []), *([erasing(data.erasing)] if data.erasing else [])]


def changed_alone(x_CHW: Tensor, change: Change) -> Tensor:
    """One image as `change` makes it of a batch, from the global generator as torchvision's transforms do."""
    return change(x_CHW[None], torch.default_generator)[0]


PAPER_RESIZE = {224: 256, 299: 352}  # crop → short side, in pixels (section 5.1)


def image_transform(data: Data, training: bool) -> Any:
    """From a PIL image to a normalised (C, H, W) tensor: the paper's section 5.1.

    Training crops a random part (8-100% of the area, aspect 3/4 to 4/3) to `size` and flips, or does what else
    `data.augment` says; testing resizes the short side to `data.resize` (224 from 256, 299 from 352) and takes the
    centre. A policy, cutout and erasing come last, in training only.
    """
    augment = AUGMENTS[data.augment]
    steps = [] if training and augment.whole else centre(data)
    random = augment.file(data.size) if training else []
    if training and data.policy != "none":
        random.append(POLICIES[data.policy](**(data.policy_args or {})))
    late = [partial(changed_alone, change=change) for change in late_changes(data)] if training else []
    return v2.Compose([*steps, *random, pixels(data), *late])


def centre(data: Data) -> list[Any]:
    """What brings a PIL image to the size of the network's input without chance: its short side resized, its centre."""
    return [v2.Resize(short_side(data), antialias=True), v2.CenterCrop(data.size)]


class ManyViews:
    """From a PIL image to its normalised views, (V, C, H, W): `data.crops` crops at each of `data.scales`. An image is
    normalised once at each scale, and not each of its crops, which overlap."""

    def __init__(self, data: Data) -> None:
        self.resized = [v2.Resize(side, antialias=True) for side in data.scales or [short_side(data)]]
        self.cut = v2.TenCrop(data.size) if data.crops == 10 else v2.CenterCrop(data.size)
        self.crops = data.crops
        self.pixels = pixels(data)

    def __call__(self, image: Any) -> Tensor:
        scaled = [self.cut(self.pixels(resize(image))) for resize in self.resized]
        return torch.stack(scaled if self.crops == 1 else [view for ten in scaled for view in ten])


def protocol_text(data: Data) -> str:
    """Which part of an image a test shows to the network, at which size: two tests by one protocol have one text."""
    if data.name != "folder":
        return f"whole images of {data.size} pixels"
    sides = " and ".join(map(str, data.scales or [short_side(data)]))
    return f"{'ten crops' if data.crops == 10 else 'the centre'} of {data.size} pixels, from {sides}"


def views_of(data: Data) -> int:
    """How many views a test takes of an image (`ManyViews`); 0 where it takes its centre, as validation does."""
    return data.crops * max(1, len(data.scales)) if data.crops != 1 or data.scales else 0


def short_side(data: Data) -> int:
    """What the short side of a test image is resized to, in pixels."""
    return data.resize or PAPER_RESIZE.get(data.size, round(data.size * 256 / 224))


def statistics_of(data: Data) -> tuple[Sequence[float], Sequence[float]]:
    """Mean and standard deviation of each colour channel, in units of the full range."""
    return (data.mean, data.std) if data.mean else source_of(data.name).statistics


def channels_of(data: Data) -> int:
    """Colour channels of the images that a network sees."""
    return len(statistics_of(data)[0])


def in_files(data: Data) -> Data:
    """How a file is read that holds an image of the data set, so that a network sees the same numbers as in memory."""
    if data.name == "folder":
        return data
    mean, std = statistics_of(data)
    return replace(data, name="folder", resize=data.size, mean=list(mean), std=list(std))


def in_memory(data: Data, device: str) -> Normalised:
    """What normalises batches of bytes on a device: to the last bit as `pixels` does it image by image."""
    return Normalised(*statistics_of(data), device, shares=data.name == "folder" and not data.mean)


def pixels(data: Data) -> Any:
    """From a PIL image to a normalised tensor; where the statistics are named, to the last bit as in memory."""
    if data.mean:
        return v2.Compose([v2.PILToTensor(), Normalised(data.mean, data.std)])
    return v2.Compose(
        [v2.PILToTensor(), v2.ToDtype(torch.float32, scale=True), v2.Normalize(*SOURCES["folder"].statistics)]
    )
