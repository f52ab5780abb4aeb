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
from contextlib import suppress
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import v2

from senet_lab.config import Data
from senet_lab.training.augment import AUGMENTS, RaggedImages
from senet_lab.training.feeds import Feed, FolderFeed, TensorFeed
from senet_lab.training.folder import list_folder
from senet_lab.training.images import Files, split_counts
from senet_lab.training.transforms import centre, channels_of, views_of

SPARE = 2  # short side of what is kept for random resized crops, in sides of the network's input
LOOKED_AT = 64  # files whose sizes are read to tell how much memory all of them take
SIZES: dict[str, int] = {}  # data set → bytes
DECODED: dict[str, list[Feed]] = {}  # the last tree: a worker's next trial is mostly of the same


def feeds(splits: Sequence[Files], data: Data, device: str, identity: str) -> list[Feed]:
    """The training, validation and test images of an identity, decoded to a device; where the test wants several views
    of an image, it reads its files, which it does but once.

    Raises:
        RunError: an image that cannot be read, or that has changed, by name.
    """
    train, validation, test = splits
    shown = data.tested
    key = f"{identity} {device} {data}"
    if key not in DECODED:
        DECODED.clear()
        DECODED[key] = [
            decoded_feed(train, data, True, device),
            decoded_feed(validation, shown, False, device),
            FolderFeed(test, shown, device == "cuda") if views_of(data) else decoded_feed(test, shown, False, device),
        ]
    return DECODED[key]


def decoded_feed(files: Files, data: Data, training: bool, device: str) -> TensorFeed:
    """A split, decoded."""
    labels_N, images = torch.from_numpy(files.labels), decode(files, data, training)
    if keeps_whole_images(data, training):
        return TensorFeed(RaggedImages(images, data.size, device), labels_N, data, device)
    none = torch.empty(0, data.size, data.size, channels_of(data), dtype=torch.uint8)
    images_NHWC = torch.stack(images) if images else none
    return TensorFeed(images_NHWC.permute(0, 3, 1, 2).contiguous(), labels_N, data, device)


def keeps_whole_images(data: Data, training: bool) -> bool:
    """Whether random crops need the whole images."""
    return training and AUGMENTS[data.augment].whole


def decode(files: Files, data: Data, training: bool) -> list[Tensor]:
    """Each image as bytes (H, W, C). Threads suffice: decoding and resizing leave Python alone."""

    def read(place: int) -> Tensor:
        image = files.picture(place)
        for change in steps:
            image = change(image)
        return torch.from_numpy(np.array(image)).view(image.height, image.width, -1)

    steps: list[Any] = [lambda image: shrink(image, data)] if keeps_whole_images(data, training) else centre(data)
    with ThreadPoolExecutor(max(1, data.workers)) as threads:
        return list(threads.map(read, range(len(files))))


def shrink(image: Image.Image, data: Data) -> Image.Image:
    """An image shrunk as far as random resized crops allow."""
    if min(image.size) <= SPARE * data.size:
        return image
    smaller: Image.Image = v2.Resize(SPARE * data.size, antialias=True)(image)
    return smaller


def size_in_memory(data: Data) -> int:
    """Bytes that the images of a tree take in memory, approximately; for random resized crops estimated from the sizes
    of some files. Cached, because every row and seed asks."""
    if repr(data) not in SIZES:
        train, test, _ = list_folder(data)
        trained, *others = split_counts(data, len(train), len(test))
        kept = data.size**2
        if keeps_whole_images(data, training=True):
            kept = size_of_whole(train.paths, SPARE * data.size) or kept
        SIZES[repr(data)] = channels_of(data) * (trained * kept + sum(others) * data.tested.size**2)
    return SIZES[repr(data)]


def size_of_whole(paths: list[str], side: int) -> int:
    """Pixels of an image on average, where larger ones are shrunk to a short side; 0 where none can be read."""
    areas = []
    for path in paths[:: -(-len(paths) // LOOKED_AT)]:
        with suppress(OSError), Image.open(path) as file:  # training says which cannot be read
            areas.append(file.width * file.height * min(1, side / min(file.size)) ** 2)
    return round(sum(areas) / len(areas)) if areas else 0
