"""How a split is fed to the network: batches, in an order and with an augmentation that (seed, epoch) decide.

What happens in epoch e depends on (seed, e) alone: every row of a study sees the same batches, and a training that was
cut off goes on as if it had not been.

Shapes: B batch, N images of a split, C colour channels, H W pixels.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from senet_lab.config import Data, RunError

# Per-channel mean and standard deviation of the training images, in units of the full range.
STATISTICS = {
    "digits": ((0.3053,), (0.3760,)),
    "cifar10": ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
    "cifar100": ((0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)),
    "folder": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),  # ImageNet's
}


def mixed(*numbers: int) -> int:
    """One seed from several numbers, the same on every machine (Python's and NumPy's hashes are not meant for it)."""
    digest = hashlib.sha256(",".join(map(str, numbers)).encode()).digest()
    return int.from_bytes(digest[:7], "big")


class TensorFeed:
    """A split that lies in memory as one tensor; whole batches are augmented at once."""

    def __init__(self, images_NCHW: Tensor, labels_N: Tensor, data: Data) -> None:
        self.images_NCHW = images_NCHW  # uint8
        self.labels_N = labels_N
        mean, std = STATISTICS[data.name]
        self.mean = torch.tensor(mean).view(1, -1, 1, 1) * 255
        self.std = torch.tensor(std).view(1, -1, 1, 1) * 255
        self.augment = data.augment

    def __len__(self) -> int:
        return len(self.labels_N)

    def batches(self, batch_size: int, seed: int | None = None, epoch: int = 0) -> Batches:
        """The split in its own order, or, with a seed, shuffled and augmented as that epoch wants it."""

        def make() -> Iterator[tuple[Tensor, Tensor]]:
            generator = torch.Generator().manual_seed(mixed(seed or 0, epoch))
            order = torch.arange(len(self)) if seed is None else torch.randperm(len(self), generator=generator)
            for index_B in torch.split(order, batch_size):
                x_BCHW = self.images_NCHW[index_B]
                for change in AUGMENTS[self.augment] if seed is not None else ():
                    x_BCHW = change(x_BCHW, generator)
                yield (x_BCHW - self.mean) / self.std, self.labels_N[index_B]

        return Batches(make, -(-len(self) // batch_size))


class FolderFeed:
    """A split that lies on disk as one image a file; every image is decoded and augmented by itself."""

    def __init__(self, files: list[tuple[Path, int]], data: Data) -> None:
        self.files = files
        self.data = data

    def __len__(self) -> int:
        return len(self.files)

    def batches(self, batch_size: int, seed: int | None = None, epoch: int = 0) -> Batches:
        """The split in its own order, or, with a seed, shuffled and augmented as that epoch wants it."""
        from torch.utils.data import DataLoader

        generator = torch.Generator().manual_seed(mixed(seed or 0, epoch))
        order = torch.arange(len(self)) if seed is None else torch.randperm(len(self), generator=generator)
        images = DecodedImages(self.files, image_transform(self.data, training=seed is not None), seed, epoch)
        loader: DataLoader[Any] = DataLoader(
            images, batch_size=batch_size, sampler=order.tolist(), num_workers=self.data.workers, generator=generator
        )
        return Batches(lambda: iter(loader), len(loader))


class Batches:
    """An iterable with a length, which is all that Lightning asks of a loader."""

    def __init__(self, make: Callable[[], Iterator[Any]], length: int) -> None:
        self.make = make
        self.length = length

    def __iter__(self) -> Iterator[Any]:
        return self.make()

    def __len__(self) -> int:
        return self.length


class DecodedImages(torch.utils.data.Dataset[tuple[Tensor, int]]):
    """Files as tensors. The augmentation of an image is seeded by (seed, epoch, index), so that it does not depend on
    how many processes decode."""

    def __init__(self, files: list[tuple[Path, int]], transform: Callable[[Any], Tensor], seed: int | None, epoch: int):
        self.files = files
        self.transform = transform
        self.seed = seed
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        from PIL import Image

        path, label = self.files[index]
        try:
            with Image.open(path) as file:
                image = file.convert("RGB")
        except OSError as error:  # PIL's error for a file that is cut short or is no image is an OSError, too
            raise RunError(f"the image {path} cannot be read: {error}") from error
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(mixed(self.seed or 0, self.epoch, index))
            return self.transform(image), label


def flip(x_BCHW: Tensor, generator: torch.Generator) -> Tensor:
    """Mirror every other image, at random, left to right."""
    flipped_B = torch.rand(len(x_BCHW), generator=generator) < 0.5
    return torch.where(flipped_B.view(-1, 1, 1, 1), x_BCHW.flip(3), x_BCHW)


def crop(x_BCHW: Tensor, generator: torch.Generator) -> Tensor:
    """Zero-pad by an eighth of the width (4 pixels of 32, as in the paper's section 5.1) and cut the size out again,
    at random places."""
    B, C, H, W = x_BCHW.shape
    pad = W // 8
    x_BCHW = F.pad(x_BCHW, (pad, pad, pad, pad))
    rows_BH = torch.randint(2 * pad + 1, (B, 1), generator=generator) + torch.arange(H)
    columns_BW = torch.randint(2 * pad + 1, (B, 1), generator=generator) + torch.arange(W)
    batch, channels = torch.arange(B).view(B, 1, 1, 1), torch.arange(C).view(1, C, 1, 1)
    return x_BCHW[batch, channels, rows_BH.view(B, 1, H, 1), columns_BW.view(B, 1, 1, W)]


# Name → what is done, in order, to a batch that lies in memory.
AUGMENTS: dict[str, tuple[Callable[[Tensor, torch.Generator], Tensor], ...]] = {
    "none": (),
    "crop": (crop,),
    "cifar": (flip, crop),
}


def image_transform(data: Data, training: bool) -> Any:
    """From a PIL image to a normalised (C, H, W) tensor: the paper's section 5.1.

    Training crops a random part (8-100% of the area, aspect 3/4 to 4/3) to `size` and flips; testing resizes the short
    side to `data.resize` (224 from 256, 299 from 352) and takes the centre.
    """
    from torchvision.transforms import v2

    mean, std = STATISTICS["folder"]
    resize = data.resize or round(data.size * 256 / 224)
    pixels = v2.Compose([v2.PILToTensor(), v2.ToDtype(torch.float32, scale=True), v2.Normalize(mean, std)])
    if training and data.augment == "imagenet":
        return v2.Compose([v2.RandomResizedCrop(data.size, antialias=True), v2.RandomHorizontalFlip(), pixels])
    return v2.Compose([v2.Resize(resize, antialias=True), v2.CenterCrop(data.size), pixels])
