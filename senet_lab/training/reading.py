"""The images of a data set that the lab does not bring (`datasets`), read into memory.

A set is anything with `__len__` and `__getitem__` → (image, label), or a pair of arrays (images, labels). An image is
one of PIL, or an array or tensor (H, W), (H, W, C) or (C, H, W) of 1 or 3 channels: bytes, or numbers from 0 to 1,
which are kept as bytes. A label is a whole number from 0 on; classes are called as `classes` of the training set says.

Shapes: N images, C colour channels, H W pixels; K classes, L levels.
"""

from __future__ import annotations

import hashlib
import operator
from collections.abc import Iterator
from typing import Any

import numpy as np

from senet_lab.config import Data, UserError, first_line
from senet_lab.counting import counting
from senet_lab.training.content_digests import DIGEST
from senet_lab.training.images import Pixels, in_eight_bits, picture_of, resize_picture

Levels = np.ndarray[Any, np.dtype[np.uint8]]  # (C, H, W)
GREY = ("1", "L", "I", "F")  # PIL's modes of one channel, beside those that begin with `I;`


def pixels_of(data: Data, given: Any, part: str) -> tuple[Pixels, list[bytes]]:
    """The images of a set, and a digest of each as it was given."""
    what = f"data={data.name}: the {part} set"
    images: list[Levels] = []
    labels: list[int] = []
    marks: list[bytes] = []
    for place, (image, label) in enumerate(items(given, what)):
        x_CHW = levels(image, images[0].shape[0] if images else 0, f"{what}, image {place}")
        mark = hashlib.blake2b(f"{x_CHW.shape}".encode(), digest_size=DIGEST)
        mark.update(x_CHW.data)
        marks.append(mark.digest())
        labels.append(label_of(label, f"{what}, image {place}"))
        if data.size and x_CHW.shape[1:] != (data.size, data.size):
            x_CHW = resize_picture(picture_of(x_CHW), data.size)
        if images and x_CHW.shape != images[0].shape:
            raise different(data, f"{part} image 0", images[0], f"image {place}", x_CHW)
        images.append(x_CHW)
    if not images:
        raise UserError(f"{what} is empty")
    if images[0].shape[1] != images[0].shape[2]:
        raise UserError(f"{what}: its images are {shape_text(images[0])}; data.size=N cuts N × N out of each")
    return Pixels(np.stack(images), np.array(labels, np.int64)), marks


def items(given: Any, what: str) -> Iterator[tuple[Any, Any]]:
    """Image and label, one after the other."""
    if isinstance(given, (tuple, list)) and len(given) == 2 and all(hasattr(each, "shape") for each in given):
        images, labels = given
        if len(images) != len(labels):
            raise UserError(f"{what} has {len(images)} images and {len(labels)} labels")
        yield from zip(images, labels, strict=True)
        return
    if not (hasattr(given, "__len__") and hasattr(given, "__getitem__")) or isinstance(given, (tuple, list, dict, str)):
        raise UserError(
            f"{what} is a {type(given).__name__}: neither a pair of arrays (images, labels) nor a set with __len__ and "
            "__getitem__"
        )
    report = counting(len(given), "images read")
    for place in range(len(given)):
        try:
            item = given[place]
        except Exception as error:
            raise UserError(f"{what}, image {place}: reading it raised {reason(error)}") from error
        if not isinstance(item, (tuple, list)) or len(item) != 2:
            raise UserError(f"{what}, image {place}: it gave a {type(item).__name__} in place of (image, label)")
        yield item[0], item[1]
        report(place + 1)


def levels(image: Any, channels: int, what: str) -> Levels:
    """An image as bytes (C, H, W), where the first one had so many channels (0: it is the first): grey ones among
    those in colour are shown in colour."""
    if hasattr(image, "getbands"):  # PIL's
        grey = image.mode in GREY or image.mode.startswith("I;")
        try:
            image = np.array(in_eight_bits(image).convert("L" if grey and channels != 3 else "RGB"))
        except Exception as error:  # PIL's decoders raise errors of many kinds
            raise UserError(f"{what}: it cannot be read: {reason(error)}") from error
    x = np.asarray(image)
    x = x[None] if x.ndim == 2 else x
    if x.ndim != 3 or not {1, 3} & {x.shape[0], x.shape[2]} or not x.size:
        raise UserError(
            f"{what}: {described(image)} is no image, which is one of PIL, or (H, W), (H, W, C) or (C, H, W) of 1 or 3 "
            "channels"
        )
    x_CHW = x.transpose(2, 0, 1) if np.ndim(image) == 3 and x.shape[2] in (1, 3) else x
    if x.dtype.kind == "f" and x.min() >= 0 and x.max() <= 1:  # not so for nan
        x_CHW = (x_CHW * 255).round().astype(np.uint8)
    if x_CHW.dtype != np.uint8:
        raise UserError(f"{what}: {described(image)} is neither bytes nor numbers from 0 to 1")
    return np.ascontiguousarray(x_CHW)


def label_of(label: Any, what: str) -> int:
    """A label as a number."""
    try:
        number = operator.index(label.item() if hasattr(label, "item") else label)
    except (TypeError, ValueError, RuntimeError):
        number = -1
    if number < 0 or isinstance(label, bool):
        raise UserError(f"{what}: its label is {label!r:.40}, no whole number from 0 on")
    return number


def classes_of(data: Data, given: Any, train: Pixels, test: Pixels) -> tuple[str, ...]:
    """Names of the classes: the training set's own, or as many numbers as its labels need."""
    names = getattr(given, "classes", None)
    if not (isinstance(names, (list, tuple)) and names and all(isinstance(name, str) for name in names)):
        names = [str(label) for label in range(int(train.labels.max()) + 1)]
    for pixels, part in ((train, "training"), (test, "test")):
        if pixels.labels.max() >= len(names):
            place, label = int(pixels.labels.argmax()), int(pixels.labels.max())
            raise UserError(
                f"data={data.name}: the {part} set, image {place}: its label is {label}, and there are {len(names)} "
                f"classes, 0 to {len(names) - 1}"
            )
    return tuple(names)


def different(data: Data, one: str, x_CHW: Levels, other: str, y_CHW: Levels) -> UserError:
    hint = "; data.size=N brings all to N × N" if len(x_CHW) == len(y_CHW) else ""
    return UserError(
        f"data={data.name}: images of different shapes: {one} is {shape_text(x_CHW)}, {other} {shape_text(y_CHW)}{hint}"
    )


def shape_text(x_CHW: Levels) -> str:
    C, H, W = x_CHW.shape
    return f"{H} × {W} in {'grey' if C == 1 else 'colour'}"


def described(value: Any) -> str:
    array = np.asarray(value)
    return f"a {type(value).__name__}" + f" of {array.dtype} {array.shape}" * (array.dtype != object)


def statistics(pixels: Pixels) -> tuple[list[float], list[float]]:
    """Mean and standard deviation of each channel, in units of the full range."""
    counts_CL = np.stack([np.bincount(channel.ravel(), minlength=256) for channel in pixels.images.swapaxes(0, 1)])
    levels_L = np.arange(256) / 255
    mean_C = counts_CL @ levels_L / counts_CL.sum(1)
    std_C = np.sqrt((counts_CL * (levels_L - mean_C[:, None]) ** 2).sum(1) / counts_CL.sum(1))
    return mean_C.round(4).tolist(), std_C.round(4).tolist()


def reason(error: Exception) -> str:
    return f"{type(error).__name__}: {first_line(error)}"
