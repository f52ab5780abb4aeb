"""Augmentation of whole batches, on whatever device they lie (paper, sections 5.1 and 5.4).

Each is in two halves. What is random is drawn on the CPU, as whole numbers, a few for each image; what is done to the
pixels follows from them on the images' own device, where nothing has to be waited for. So a batch is the same on every
kind of device, and an epoch's numbers go to a GPU in one copy.

Shapes: B batch, C colour channels, H W pixels; n numbers of an image.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.transforms import v2

ERASED = (0.02, 0.33)  # share of an image
ERASED_ASPECT = (0.3, 3.3)  # height over width


@dataclass(frozen=True)
class Change:
    """One change of a batch of images."""

    draw: Callable[[int, int, int, torch.Generator], Tensor]  # (B, H, W, generator) → the numbers (B, n), on the CPU
    apply: Callable[[Tensor, Tensor], Tensor]  # (B, C, H, W) and their numbers, on one device → the images, changed

    def __call__(self, x_BCHW: Tensor, generator: torch.Generator) -> Tensor:
        """Both halves at once."""
        B, _, H, W = x_BCHW.shape
        return self.apply(x_BCHW, self.draw(B, H, W, generator).to(x_BCHW.device))


def coins(B: int, H: int, W: int, generator: torch.Generator) -> Tensor:
    """1 for every other image, at random: (B, 1)."""
    return (torch.rand(B, generator=generator) < 0.5).long()[:, None]


def mirrored(x_BCHW: Tensor, coins_B1: Tensor) -> Tensor:
    """The images, left to right where the number is 1."""
    return torch.where(coins_B1.bool()[:, :, None, None], x_BCHW.flip(3), x_BCHW)


def corners(B: int, H: int, W: int, generator: torch.Generator) -> Tensor:
    """Top and left of a window of the padded image: (B, 2)."""
    pad = W // 8
    return torch.stack([torch.randint(2 * pad + 1, (B,), generator=generator) for _ in "yx"], 1)


def shifted(x_BCHW: Tensor, corners_B2: Tensor) -> Tensor:
    """The windows of the zero-padded images, each as large as the image."""
    B, _, H, W = x_BCHW.shape
    pad = W // 8
    windows_BCYXHW = F.pad(x_BCHW, (pad, pad, pad, pad)).unfold(2, H, 1).unfold(3, W, 1)  # every crop, none copied yet
    cut_BCHW = windows_BCYXHW[torch.arange(B, device=x_BCHW.device), :, corners_B2[:, 0], corners_B2[:, 1]]
    return cut_BCHW.clone(memory_format=torch.contiguous_format)  # with C = 1 it passes for channels-last otherwise


flip = Change(coins, mirrored)
crop = Change(corners, shifted)  # pads an eighth of the width: 4 pixels of 32, as in the paper's section 5.1


@dataclass(frozen=True)
class Augmentation:
    """What training does to its images, in order."""

    batch: tuple[Change, ...]  # to a batch of images of the network's size, in memory
    file: Callable[[int], list[Any]]  # to an image from a file; from its size in pixels
    whole: bool = False  # whether it takes a part of the whole image (in a batch, of `Parts`): of a tree only


AUGMENTS = {
    "none": Augmentation((), lambda size: []),
    "crop": Augmentation((crop,), lambda size: [v2.RandomCrop(size, padding=size // 8)]),
    "cifar": Augmentation(
        (flip, crop), lambda size: [v2.RandomHorizontalFlip(), v2.RandomCrop(size, padding=size // 8)]
    ),
    "imagenet": Augmentation(
        (), lambda size: [v2.RandomResizedCrop(size, antialias=True), v2.RandomHorizontalFlip()], whole=True
    ),
}


def cutout(side: int) -> Change:
    """Blank a square in every normalised image, `side` pixels wide; its centre is anywhere, so that part of it may lie
    outside (DeVries and Taylor 2017, arXiv 1708.04552). Blank is 0, the mean of the training images."""

    def squares(B: int, H: int, W: int, generator: torch.Generator) -> Tensor:
        return torch.cat([torch.randint(length, (B, 1), generator=generator) - side // 2 for length in (H, W)], 1)

    def blank(x_BCHW: Tensor, corners_B2: Tensor) -> Tensor:
        return without_boxes(x_BCHW, torch.cat([corners_B2, torch.full_like(corners_B2, side)], 1))

    return Change(squares, blank)


def without_boxes(x_BCHW: Tensor, boxes_B4: Tensor) -> Tensor:
    """The images with a box in each at 0: top, left, height and width."""
    H, W = x_BCHW.shape[2:]
    top_B1, left_B1, height_B1, width_B1 = torch.split(boxes_B4, 1, 1)
    y_H, x_W = torch.arange(H, device=x_BCHW.device), torch.arange(W, device=x_BCHW.device)
    rows_BH = (top_B1 <= y_H) & (y_H < top_B1 + height_B1)
    columns_BW = (left_B1 <= x_W) & (x_W < left_B1 + width_B1)
    return x_BCHW.masked_fill(rows_BH[:, None, :, None] & columns_BW[:, None, None, :], 0.0)


def erasing(probability: float) -> Change:
    """Blank a random rectangle in some of the normalised images, distributed as torchvision's RandomErasing draws it
    (Zhong et al. 2020, arXiv 1708.04896)."""

    def draw(B: int, H: int, W: int, generator: torch.Generator) -> Tensor:
        uniform_2BT = torch.rand(2, B, TRIES, generator=generator, dtype=torch.double)
        area_BT = H * W * (ERASED[0] + (ERASED[1] - ERASED[0]) * uniform_2BT[0])
        low, high = map(math.log, ERASED_ASPECT)
        aspect_BT = (low + (high - low) * uniform_2BT[1]).exp()  # height over width
        h_BT, w_BT = (area_BT * aspect_BT).sqrt().round(), (area_BT / aspect_BT).sqrt().round()
        fits_BT = (h_BT < H) & (w_BT < W)
        first_B1 = fits_BT.long().argmax(1, keepdim=True)
        size_B2 = torch.cat([h_BT.gather(1, first_B1), w_BT.gather(1, first_B1)], 1)
        where_B2 = torch.rand(B, 2, generator=generator, dtype=torch.double)
        corner_B2 = (where_B2 * (torch.tensor([H, W]) - size_B2 + 1)).floor()
        erased_B = (torch.rand(B, generator=generator) < probability) & fits_BT.any(1)
        return (torch.cat([corner_B2, size_B2], 1) * erased_B[:, None]).long()

    return Change(draw, without_boxes)


# --------------------------------------------------------------------------------------------------------------------
# Random resized crops

AREA = (0.08, 1.0)  # share of the image
ASPECT = (3 / 4, 4 / 3)  # width over height
TRIES = 10  # after which the largest box in the middle is taken, and nothing is erased


def boxes(sizes_B2: Tensor, generator: torch.Generator) -> Tensor:
    """A random part of each image, distributed as torchvision's RandomResizedCrop draws it (Szegedy et al. 2014): from
    heights and widths in pixels, and a generator of the CPU, top, left, height and width of each part, (B, 4)."""
    H_B1, W_B1 = sizes_B2.double()[:, :1], sizes_B2.double()[:, 1:]
    uniform_2BT = torch.rand(2, len(sizes_B2), TRIES, generator=generator, dtype=torch.double)
    area_BT = H_B1 * W_B1 * (AREA[0] + (AREA[1] - AREA[0]) * uniform_2BT[0])
    low, high = math.log(ASPECT[0]), math.log(ASPECT[1])
    aspect_BT = (low + (high - low) * uniform_2BT[1]).exp()
    h_BT, w_BT = (area_BT / aspect_BT).sqrt().round(), (area_BT * aspect_BT).sqrt().round()
    fits_BT = (h_BT >= 1) & (h_BT <= H_B1) & (w_BT >= 1) & (w_BT <= W_B1)
    first_B1 = fits_BT.long().argmax(1, keepdim=True)
    fits_B1 = fits_BT.any(1, keepdim=True)
    h_B1 = torch.where(fits_B1, h_BT.gather(1, first_B1), torch.minimum(H_B1, (W_B1 / ASPECT[0]).round()))
    w_B1 = torch.where(fits_B1, w_BT.gather(1, first_B1), torch.minimum(W_B1, (H_B1 * ASPECT[1]).round()))
    where_B2 = torch.rand(len(sizes_B2), 2, generator=generator, dtype=torch.double)
    spare_B2 = torch.cat([H_B1 - h_B1, W_B1 - w_B1], 1)
    corner_B2 = torch.where(fits_B1, (where_B2 * (spare_B2 + 1)).floor(), (spare_B2 / 2).floor())
    return torch.cat([corner_B2, h_B1, w_B1], 1).long()


class RaggedImages:
    """Images of any sizes, uint8 (H, W, C) each, that lie in memory as one row of pixels, of which random crops are
    taken and resized to `side` pixels square.

    Bilinear with antialiasing, with torchvision's weights, as two products of matrices: rows @ pixels @ columnsᵀ. What
    torchvision rounds to whole levels (and PIL, which reads files, once more between the two) is not rounded here.
    """

    def __init__(self, images: list[Tensor], side: int, device: str = "cpu") -> None:
        self.side = side
        self.pixels_PC = torch.cat([image_HWC.flatten(0, 1) for image_HWC in images]).to(device)
        self.sizes_N2 = torch.tensor([image_HWC.shape[:2] for image_HWC in images])
        areas_N = self.sizes_N2.prod(1)
        self.starts_N = areas_N.cumsum(0) - areas_N

    def draw(self, index_B: Tensor, generator: torch.Generator) -> Tensor:
        """A crop of each image, as its height and width, the place of its first pixel, the width of its image, and
        whether it is mirrored: (B, 5), on the CPU."""
        sizes_B2 = self.sizes_N2[index_B]
        top_B, left_B, h_B, w_B = boxes(sizes_B2, generator).unbind(1)
        first_B = self.starts_N[index_B] + top_B * sizes_B2[:, 1] + left_B
        coins_B = coins(len(index_B), 0, 0, generator)[:, 0]
        return torch.stack([h_B, w_B, first_B, sizes_B2[:, 1], coins_B], 1)

    def cut(self, numbers_B5: Tensor, largest: tuple[int, int]) -> Tensor:
        """The crops, (B, C, side, side) in levels from 0 to 255, from their numbers on the device of the pixels and the
        greatest height and width among them, which the host knows."""
        (h, w), device = largest, self.pixels_PC.device
        h_B, w_B, first_B, stride_B, coins_B = numbers_B5.unbind(1)
        y_Bh = torch.minimum(torch.arange(h, device=device), h_B[:, None] - 1)  # beyond the crop its last row again,
        x_Bw = torch.minimum(torch.arange(w, device=device), w_B[:, None] - 1)  # of weight 0
        place_Bhw = (first_B[:, None] + y_Bh * stride_B[:, None])[:, :, None] + x_Bw[:, None, :]
        crops_BhwC = self.pixels_PC[place_Bhw].float()
        B, C, S = len(first_B), self.pixels_PC.shape[1], self.side
        rows_BSh, columns_BSw = resampling(h_B, h, S), resampling(w_B, w, S)
        columns_BSw = torch.where(coins_B.bool()[:, None, None], columns_BSw.flip(1), columns_BSw)
        tall_BCSw = torch.bmm(rows_BSh, crops_BhwC.view(B, h, w * C)).view(B, S, w, C).permute(0, 3, 1, 2)
        return torch.bmm(tall_BCSw.reshape(B, C * S, w), columns_BSw.mT).view(B, C, S, S)


def resampling(length_B: Tensor, most: int, side: int) -> Tensor:
    """Weights (B, side, most) by which `side` pixels are means of the first `length` of `most`: a triangle around each
    new pixel's centre, as wide as the new pixel where the picture shrinks, and as an old one where it grows."""
    scale_B11 = length_B.float()[:, None, None] / side
    old_l = torch.arange(most, device=length_B.device) + 0.5
    new_S1 = torch.arange(side, device=length_B.device)[:, None] + 0.5
    weights_BSl = (1 - (old_l - new_S1 * scale_B11).abs() / scale_B11.clamp(min=1)).clamp(min=0)
    weights_BSl = weights_BSl * (old_l < length_B[:, None, None])
    return weights_BSl / weights_BSl.sum(2, keepdim=True)
