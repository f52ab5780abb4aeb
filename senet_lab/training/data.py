"""The images that a study trains, validates and tests on.

Selection happens on a validation split taken from the training images; it depends on the data set alone, so that the
same images validate for every row and seed. The test images are read once, when a training has ended. Where
nothing is selected, no image need be held out: `data.validation=0` trains on all of them.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch

from senet_lab.config import Data, RunError, UserError
from senet_lab.training import memory
from senet_lab.training.augment import AUGMENTS
from senet_lab.training.feeds import Feed, FolderFeed, TensorFeed
from senet_lab.training.folder import IDENTITIES
from senet_lab.training.images import Files, Labels, Pixels, split_counts, split_indices
from senet_lab.training.policies import check_policy
from senet_lab.training.sources import source_of
from senet_lab.training.transforms import channels_of

SAMPLED = 64  # files of a tree, to be timed
SHOWN = 5  # names of classes in one line
ALL = "all classes"  # in place of a class's name: the images of all of them


@dataclass(frozen=True)
class DataFacts:
    """What is known of a data set before an image is read."""

    identity: str  # what the images are: official checksums, or a digest of contents or of names and sizes
    classes: tuple[str, ...]  # their names, in the order of their labels
    channels: int  # colour channels
    train: int  # number of training images, after the validation split and the subset
    validation: int  # number of validation images
    test: int  # number of test images
    earlier: str = ""  # what trials of earlier versions know the images by, where that is not `identity`
    remarks: tuple[str, ...] = ()  # what a user should know of the images before training; a line each
    # Some training and some test images, from anywhere in a tree, to time how long they take to be read; none where
    # they lie in memory.
    samples: tuple[Files, ...] = field(default=(), compare=False)


@dataclass(frozen=True)
class Splits:
    """The three parts of a data set, ready to be fed, and the names of its classes."""

    train: Feed
    validation: Feed
    test: Feed
    classes: tuple[str, ...]

    def close(self) -> None:
        """End the processes that decode images, if there are any."""
        for feed in (self.train, self.validation, self.test):
            feed.close()


def resolve_data(data: Data) -> Data:
    """The data set as it is trained on: with the size and the normalisation of its images, where the words leave them
    to be measured.

    Raises:
        UserError: as for `check_data`; images of a named source that cannot be had.
    """
    check_data(data)
    return source_of(data.name).resolve(data)


def data_facts(data: Data) -> DataFacts:
    """What is known of the data set (as `resolve_data` leaves it) without reading its images.

    Raises:
        UserError: an unknown name, a share that leaves nothing, a folder that is missing or has no images.
    """
    check_data(data)
    index = source_of(data.name).index(data)
    kept = split_counts(data, *map(len, index.labels))
    if min(kept[0], kept[2], kept[1] or data.validation == 0) < 1:
        raise UserError(
            f"data.validation={data.validation:g} of {len(index.labels[0])} training images leaves an empty split"
        )
    remarks = missing_classes(data, index.labels, index.classes)
    if index.shared:
        remarks.insert(0, f"{index.shared:,} of {len(index.labels[1]):,} test images are training images, too")
    samples = tuple(sample_files(images) for images in index.read()) if data.name == "folder" else ()
    return DataFacts(index.identity, index.classes, channels_of(data), *kept, index.earlier, tuple(remarks), samples)


def sample_files(files: Files) -> Files:
    """A few files of any class, always the same."""
    return files.take(np.array(random.Random(0).sample(range(len(files)), min(SAMPLED, len(files)))))


def missing_classes(data: Data, labels: tuple[Labels, Labels], classes: Sequence[str]) -> list[str]:
    """Which classes have no image in a part of the data set, a line a part."""
    lines = []
    verbs = ("trains", "validates", "tests")
    for verb, all_N, index in zip(verbs, (labels[0], *labels), split_indices(data, *labels), strict=True):
        absent = np.flatnonzero(np.bincount(all_N[index], minlength=len(classes)) == 0)
        if len(index) and len(absent):
            names = ", ".join(classes[label] for label in absent[:SHOWN]) + ", …" * (len(absent) > SHOWN)
            lines.append(f"no image {verb} of {len(absent)} of the {len(classes)} classes: {names}")
    return lines


def load_splits(data: Data, feed: str = "files", device: str = "cpu", identity: str = "") -> Splits:
    """Read the data set and split it.

    Args:
        data: which.
        feed: whether a `folder` is decoded into `memory`, or its images are read from `files` whenever they are fed.
            All other data sets lie in memory.
        device: where what lies in memory lies.
        identity: by which the images were known when the study was planned.

    Raises:
        UserError: as for `data_facts`, and a file that is missing or damaged, by name.
        RunError: an image that cannot be decoded, by name; images that are others than those of the plan.
    """
    check_data(data)
    index = source_of(data.name).index(data)
    if identity and index.identity != identity:
        raise RunError(f"data.root={data.root}: the images have changed since the study began; start it again")
    train, test = index.read()
    shown, validated = data.tested, train
    if isinstance(train, Pixels):
        train, test = at_size(train, test, data.size, index.identity)
        validated = train
        if shown.size != data.size:
            again = source_of(data.name).index(replace(data, size=shown.size)).read()
            validated, test = at_size(*again, shown.size, index.identity)
    kept = split_indices(data, train.labels, test.labels)
    split = [images.take(places) for images, places in zip((train, validated, test), kept, strict=True)]
    if feed == "memory" and not isinstance(train, Pixels):
        feeds: list[Any] = memory.feeds(split, data, device, index.identity)
    else:
        feeds = [feed_of(x, seen, device) for x, seen in zip(split, (data, shown, shown), strict=True)]
    return Splits(feeds[0], feeds[1], feeds[2], index.classes)


def feed_of(split: Pixels | Files, data: Data, device: str) -> Feed:
    """A split in memory, or read from its files."""
    if isinstance(split, Files):
        return FolderFeed(split, data, pinned=device == "cuda")
    return TensorFeed(torch.from_numpy(split.images), torch.from_numpy(split.labels), data, device)


RESIZED: dict[str, tuple[Pixels, Pixels]] = {}  # the last two: a worker's next trial is mostly of the same


def at_size(train: Pixels, test: Pixels, size: int, identity: str) -> tuple[Pixels, Pixels]:
    """The images of an identity at `size` pixels a side, resized once."""
    if train.images.shape[2] == size:
        return train, test
    key = f"{identity} {size}"
    if key not in RESIZED:
        for old in [*RESIZED][:-1]:
            del RESIZED[old]
        RESIZED[key] = train.resized(size), test.resized(size)
    return RESIZED[key]


def names_of(data: Data, known: DataFacts | Splits) -> list[str]:
    """What the classes are called, in the order of their labels: names where they are known (CIFAR's, ImageNet's and
    Imagenette's), else those of the data set. The files must have been checked (`load` does)."""
    names = source_of(data.name).names(data, list(known.classes))
    return [f"class {name}" if name == ALL else name for name in names]


def check_files(data: Data) -> None:
    """A UserError for a file that is missing or damaged, by name. CIFAR is downloaded here if the user asked for it."""
    source_of(data.name).check(data)


def check_data(data: Data) -> None:
    """A UserError for what no data set can be: an unknown name, an augmentation that it lacks, an empty split."""
    source_of(data.name)
    own, named = data.name == "folder", ":" in data.name
    augments = [name for name, augment in AUGMENTS.items() if own or not augment.whole]
    if data.augment not in augments:
        raise UserError(f"data.augment: {data.name} has no augmentation '{data.augment}'; it has {', '.join(augments)}")
    if not data.size and own:
        raise UserError("data.size=0: images of a folder may have any size; it is what they are brought to")
    if not 0 <= data.cutout <= (data.size or data.cutout):
        raise UserError(f"data.cutout={data.cutout} is not between 0 and data.size={data.size}")
    check_policy(data.policy, data.policy_args)
    if data.crops not in (1, 10):
        raise UserError(f"data.crops: {data.crops} is neither 1 nor 10")
    if not own and (data.crops != 1 or data.scales):
        raise UserError(f"data.crops, data.scales: the images of {data.name} are tested whole; these are for folder")
    if min(data.scales, default=data.tested.size) < data.tested.size:
        raise UserError(
            f"data.scales: {min(data.scales)} is less than {size_word(data.tested.size, data)}, which is cut out of it"
        )
    if own and 0 < data.resize < max(data.size, data.tested.size):
        largest = size_word(max(data.size, data.tested.size), data)
        raise UserError(f"data.resize={data.resize} is less than {largest}, which is cut out of it")
    if data.args is not None and not (named and isinstance(data.args, dict)):
        raise UserError(
            f"data.args={data.args}: these are a mapping such as {{split: letters}}, and for torchvision:CLASS and "
            "package.module:function"
        )
    if not own and not named and (data.mean or data.std):
        raise UserError(f"data.mean, data.std: those of {data.name} are known; these are for folder")
    if len(data.mean) != len(data.std) or len(data.mean) not in (0, 1, 3):
        raise UserError("data.mean, data.std: one number each (grey images) or three (colour), or none for ImageNet's")
    if not all(0 < std < math.inf for std in data.std) or not all(map(math.isfinite, data.mean)):
        raise UserError(f"data.mean={data.mean}, data.std={data.std}: these are shares of the full range, std above 0")
    for key in ("validation", "test_share"):
        if not 0 <= getattr(data, key) < 1:
            raise UserError(f"data.{key}: {getattr(data, key):g} is not a share between 0 and 1")
    if not own and not named and data.test_share:
        raise UserError(f"data.test_share: {data.name} has test images of its own; this is for folder")
    if data.identity not in IDENTITIES:
        raise UserError(f"data.identity: there is no '{data.identity}'; there are {', '.join(IDENTITIES)}")
    for key in ("subset", "test_subset"):
        value = getattr(data, key)
        if value is not None and value < 1:
            raise UserError(f"data.{key}: {value} is not a number of images of at least 1")


def size_word(size: int, data: Data) -> str:
    """One of the two sizes as it is typed."""
    return f"data.size={size}" if size == data.size else f"data.test_size={size}"
