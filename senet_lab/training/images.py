"""The images of a data set in memory or in files, and the conversion of a file to 8 bits a channel.

Shapes: N images, C colour channels, H W pixels.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
from torchvision.transforms import v2

from senet_lab.config import Data, RunError
from senet_lab.training.content_digests import STATE, state

Labels = np.ndarray[Any, np.dtype[np.int64]]  # (N,) integers
BITS_PER_SAMPLE, PHOTOMETRIC, WHITE_IS_ZERO = 258, 262, 0  # tags of a TIFF, and a value of the second


@dataclass(frozen=True, eq=False)
class Pixels:
    """Images of one size that lie in memory, and their labels."""

    images: np.ndarray[Any, np.dtype[np.uint8]]  # (N, C, H, W)
    labels: Labels

    def take(self, index: Labels) -> Pixels:
        """Those at some places."""
        return Pixels(self.images[index], self.labels[index])

    def resized(self, size: int) -> Pixels:
        """Those at `size` pixels a side."""
        if self.images.shape[2] == size:
            return self
        return Pixels(
            np.stack([resize_picture(self.picture(place), size) for place in range(len(self.labels))]), self.labels
        )

    def picture(self, place: int) -> Any:
        """One of them as a PIL image."""
        return picture_of(self.images[place])


def resize_picture(picture: Any, size: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """A PIL image as bytes (C, size, size), as those of files are read: its short side resized, its centre cut out."""
    picture = v2.functional.center_crop(v2.functional.resize(picture, [size], antialias=True), [size, size])
    levels = np.asarray(picture)
    return levels[None] if levels.ndim == 2 else np.ascontiguousarray(levels.transpose(2, 0, 1))


def picture_of(x_CHW: np.ndarray[Any, np.dtype[np.uint8]]) -> Any:
    """Bytes as a PIL image, grey or in colour."""
    from PIL import Image

    return Image.fromarray(np.ascontiguousarray(x_CHW[0] if len(x_CHW) == 1 else x_CHW.transpose(1, 2, 0)))


@dataclass(frozen=True, eq=False)
class Files:
    """Images that lie in files, and their labels. One that is no longer in its state when it is read is an error."""

    paths: list[str]  # strings, because a million `Path`s would take a gigabyte
    labels: Labels
    mode: str = "RGB"  # PIL's word for the colours that a network sees, `L` or `RGB`
    states: bytes = b""  # `content_digests.state` of each, joined: a list takes ten times the memory; or empty

    def __len__(self) -> int:
        return len(self.paths)

    def __iter__(self) -> Iterator[tuple[str, int]]:
        return zip(self.paths, self.labels.tolist(), strict=True)

    def take(self, index: Labels) -> Files:
        """Those at some places."""
        paths = [self.paths[place] for place in index]
        return Files(paths, self.labels[index], self.mode, b"".join(map(self.state, index.tolist())))

    def state(self, place: int) -> bytes:
        return self.states[place * STATE.size : (place + 1) * STATE.size]

    def picture(self, place: int) -> Any:
        """One of them as a PIL image of 8 bits.

        Raises:
            RunError: in one line that names the file, if it cannot be decoded, holds numbers of no known range, or has
                changed.
        """
        from PIL import Image

        path, known = self.paths[place], self.state(place)
        try:
            with open(path, "rb") as file:  # noqa: PTH123
                if known and state(os.fstat(file.fileno())) != known:
                    raise RunError(f"the image {path} has changed since the study began; start it again")
                with Image.open(file) as image:
                    return in_eight_bits(image).convert(self.mode)
        except (MemoryError, RunError):
            raise
        except Exception as error:  # PIL's decoders raise OSError, SyntaxError, struct.error …: no common class
            raise RunError(f"the image {path} cannot be read: {error}") from error


def pil_mode(data: Data) -> str:
    """PIL's word for the colours that a network is shown of the images of a tree."""
    return "L" if len(data.mean) == 1 else "RGB"


def in_eight_bits(image: Any) -> Any:
    """A PIL image of 8 bits a channel, which PIL brings to the wanted colours. Those of 16 bits it would clip: they are
    scaled, so that a level of 8 bits that was stored in 16 (times 257) is that level again.

    Raises:
        ValueError: for numbers whose range is not known: whole ones of 32 bits, and floating-point ones.
    """
    from PIL import Image

    if image.mode not in ("I", "F") and not image.mode.startswith("I;"):
        return image
    bits = image.tag_v2.get(BITS_PER_SAMPLE, (16,))[0] if image.format == "TIFF" else 16
    if image.mode == "F" or (image.mode == "I" and image.format not in ("PNG", "PPM")) or bits > 16:
        raise ValueError(f"its mode is {image.mode}: the range of its numbers is not known; convert it to 8 or 16 bits")
    levels = np.asarray(image).astype(np.uint32) * 255
    full = 2**bits - 1
    if image.format == "TIFF" and image.tag_v2.get(PHOTOMETRIC) == WHITE_IS_ZERO:
        levels = 255 * full - levels  # as PIL does with 8 bits
    return Image.fromarray(((levels + full // 2) // full).astype(np.uint8))


class ImageIndex(NamedTuple):
    """What a source knows of its images before they are read."""

    identity: str  # what they are: official checksums, or a digest of contents or of names and sizes
    classes: tuple[str, ...]  # their names, in the order of their labels
    labels: tuple[Labels, Labels]  # of training and test images; of CIFAR as many of each class, in some order
    read: Callable[[], tuple[Any, Any]]  # gives the training and the test images, `Pixels` or `Files`
    earlier: str = ""  # what trials of earlier versions know them by, where that is not `identity`
    shared: int = 0  # how many of the test images are training images, too


@dataclass(frozen=True)
class Source:
    """One data set.

    Attributes:
        statistics: mean and standard deviation of each colour channel of the training images, in units of the full
            range; empty where they are measured (`resolve`).
        size: height and width of its images, in pixels; 0 where that is not known.
    """

    statistics: tuple[Sequence[float], Sequence[float]] = ((), ())
    size: int = 0

    def index(self, data: Data) -> ImageIndex:
        """What is known of its images before they are read.

        Raises:
            UserError: files that are missing or damaged, as far as that is seen without reading the images.
        """
        raise NotImplementedError

    def check(self, data: Data) -> None:
        """A UserError for a file that is missing or damaged, and what to do, where that is no part of what is known."""

    def resolve(self, data: Data) -> Data:
        """The data set with what its images tell in place of the words that leave it open."""
        return replace(data, size=data.size or self.size)

    def names(self, data: Data, classes: list[str]) -> list[str]:
        """What its classes are called, from their own names. The files must have been checked."""
        return classes


# --------------------------------------------------------------------------------------------------------------------
# How they are split


def split_counts(data: Data, train: int, test: int) -> tuple[int, int, int]:
    """How many images train, validate and test. With `subset`, validation shrinks by the same share, so that a small
    study does not spend its time on it."""
    held_out = round(data.validation * train)
    rest = train - held_out
    trained = min(rest, data.subset or rest)
    validated = min(held_out, max(1, round(held_out * trained / max(1, rest))))
    return trained, validated, min(test, data.test_subset or test)


def split_indices(data: Data, train_labels: Labels, test_labels: Labels) -> tuple[Labels, Labels, Labels]:
    """Indices of the training, validation and test images."""
    train, validation, test = split_counts(data, len(train_labels), len(test_labels))
    held_out = balanced(train_labels, round(data.validation * len(train_labels)))
    rest = np.setdiff1d(np.arange(len(train_labels)), held_out)
    return rest[balanced(train_labels[rest], train)], balanced(train_labels, validation), balanced(test_labels, test)


def balanced(labels_N: Labels, count: int) -> Labels:
    """Ascending indices of `count` images, every class present in proportion; always the same ones, and those of a
    smaller count are among those of a larger one."""
    shuffled = np.random.RandomState(0).permutation(len(labels_N))  # RandomState's stream is frozen for good
    share = np.empty(len(labels_N))  # how far into its own class an image comes, from 0 to 1
    for label in np.unique(labels_N):
        members = shuffled[labels_N[shuffled] == label]
        share[members] = (np.arange(len(members)) + 0.5) / len(members)
    return np.sort(shuffled[np.argsort(share[shuffled], kind="stable")][:count])
