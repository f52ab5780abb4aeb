"""A tree of images that fits in memory: decoded once, kept as bytes, augmented in whole batches.

Validation and test images are kept as the network sees them, and are the same as from files to the last bit. So are
training images that are only padded, cropped and flipped. For random resized crops the whole image is kept, and only
shrunk where its short side is more than twice the network's input: a crop of a quarter of the image is then still not
magnified, and four of five crops are larger.

Next to the DataLoader with torchvision's transforms the images are statistically the same, not the same numbers: what
is random is drawn for a batch instead of for each image, and a large image is resized twice.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import v2

from senet_lab.config import Data
from senet_lab.training.augment import Parts
from senet_lab.training.decoding import mode_of, opened
from senet_lab.training.feeds import FolderFeed, TensorFeed
from senet_lab.training.transforms import centre, channels_of, views_of

Files = Sequence[tuple[str, int]]

SPARE = 2  # short side of what is kept for random resized crops, in sides of the network's input
LOOKED_AT = 64  # files whose sizes are read to tell how much memory all of them take


DECODED: dict[str, list[TensorFeed | FolderFeed]] = {}  # the last tree: a worker's next trial is mostly of the same


def feeds(
    splits: Sequence[Files], states: Sequence[list[bytes]], data: Data, device: str, identity: str
) -> list[TensorFeed | FolderFeed]:
    """The training, validation and test images, decoded; where the test wants several views of an image, it reads its
    files, which it does but once.

    Args:
        splits: their files and labels.
        states: of the files (`contents.state`).
        data: how they are read.
        device: where they are to lie.
        identity: of the images.

    Raises:
        RunError: an image that cannot be read, or that has changed, by name.
    """
    train, validation, test = zip(splits, states, strict=True)
    key = f"{identity} {device} {data}"
    if key not in DECODED:
        DECODED.clear()
        DECODED[key] = [
            held(*train, data, True, device),
            held(*validation, data, False, device),
            FolderFeed(list(test[0]), data, device == "cuda", test[1])
            if views_of(data)
            else held(*test, data, False, device),
        ]
    return DECODED[key]


def held(files: Files, states: Sequence[bytes], data: Data, training: bool, device: str) -> TensorFeed:
    """A split, decoded.

    Raises:
        RunError: an image that cannot be read, by name.
    """
    labels_N = torch.tensor([label for _, label in files])
    if not cropped(data, training):
        none = torch.empty(0, data.size, data.size, channels_of(data), dtype=torch.uint8)
        images_NHWC = torch.stack(decoded(files, states, data, training)) if files else none
        return TensorFeed(images_NHWC.permute(0, 3, 1, 2).contiguous(), labels_N, data, device)
    return TensorFeed(Parts(decoded(files, states, data, training), data.size, device), labels_N, data, device)


def cropped(data: Data, training: bool) -> bool:
    """Whether random parts of the images are wanted, so that they must be kept whole."""
    return training and data.augment == "imagenet"


def decoded(files: Files, states: Sequence[bytes], data: Data, training: bool) -> list[Tensor]:
    """Each image as bytes (H, W, C). Threads suffice: decoding and resizing leave Python alone."""

    def read(path: str, state: bytes) -> Tensor:
        image = opened(path, mode_of(data), state)
        for change in steps:
            image = change(image)
        return torch.from_numpy(np.array(image)).view(image.height, image.width, -1)

    steps: list[Any] = [lambda image: shrunk(image, data)] if cropped(data, training) else centre(data)
    with ThreadPoolExecutor(max(1, data.workers)) as threads:
        return list(threads.map(read, [path for path, _ in files], states))


def shrunk(image: Image.Image, data: Data) -> Image.Image:
    """An image as it is kept for random resized crops."""
    if min(image.size) <= SPARE * data.size:
        return image
    smaller: Image.Image = v2.Resize(SPARE * data.size, antialias=True)(image)
    return smaller


def size_of(files: Files, data: Data, counts: tuple[int, int, int]) -> int:
    """Bytes that so many training, validation and test images take in memory; for random resized crops an estimate from
    some of the files, which are not decoded for it."""
    train, validation, test = counts
    each = data.size**2
    kept = each
    if cropped(data, training=True):
        areas = []
        for path, _ in files[:: -(-len(files) // LOOKED_AT)]:
            try:
                with Image.open(path) as file:
                    scale = min(1, SPARE * data.size / min(file.size))
                    areas.append(file.width * file.height * scale**2)
            except OSError:
                continue  # training says which it is
        kept = round(sum(areas) / len(areas)) if areas else each
    return channels_of(data) * (train * kept + (validation + test) * each)
