"""The images that a study trains, validates and tests on.

Selection happens on a validation split taken from the training images; it depends on the data set alone, so that the
same images validate for every row and seed. The test images are read once, when a training has ended. Where
nothing is selected, no image need be held out: `data.validation=0` trains on all of them.

Shapes: N images, C colour channels, H W pixels.
"""

from __future__ import annotations

import hashlib
import importlib.util
import math
import pickle
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from senet_lab.config import Data, RunError, UserError
from senet_lab.training import memory
from senet_lab.training.augment import AUGMENTS
from senet_lab.training.feeds import FolderFeed, TensorFeed
from senet_lab.training.transforms import FILE_AUGMENTS, channels_of
from senet_lab.training.trees import (
    IDENTITIES,
    Files,
    Labels,
    balanced,
    folder,
    identity_of,
    labels_of,
    root_of,
    unreadable,
)

Pixels = np.ndarray[Any, np.dtype[np.uint8]]  # (N, C, H, W)
Arrays = tuple[Pixels, Labels]

CIFAR = {"cifar10": ("CIFAR10", 10), "cifar100": ("CIFAR100", 100)}
DATASETS = ("digits", *CIFAR, "folder")
SAMPLED = 64  # files of a tree, to be timed
SHOWN = 5  # names of classes in one line
SIZES = {"digits": 8, "cifar10": 32, "cifar100": 32}  # pixels; `folder` brings its images to any size


@dataclass(frozen=True)
class DataFacts:
    """What is known of a data set before an image is read.

    Attributes:
        identity: what the images are: official checksums, or a digest of contents or of names and sizes.
        classes: names of the classes, in the order of their labels.
        channels: colour channels.
        train: number of training images, after the validation split and the subset.
        validation: number of validation images.
        test: number of test images.
        earlier: what trials of earlier versions know the images by, where that is not `identity`; empty if nothing.
        remarks: what a user should know of the images before training; a line each.
        samples: some training and some test images, from anywhere in a tree, to time how long they take to be read;
            none where they lie in memory.
    """

    identity: str
    classes: tuple[str, ...]
    channels: int
    train: int
    validation: int
    test: int
    earlier: str = ""
    remarks: tuple[str, ...] = ()
    samples: tuple[Files, Files] = field(default=([], []), compare=False)


@dataclass(frozen=True)
class Splits:
    """The three parts of a data set, ready to be fed, and the names of its classes."""

    train: TensorFeed | FolderFeed
    validation: TensorFeed | FolderFeed
    test: TensorFeed | FolderFeed
    classes: tuple[str, ...]

    def close(self) -> None:
        """End the processes that decode images, if there are any."""
        for feed in (self.train, self.validation, self.test):
            if isinstance(feed, FolderFeed):
                feed.close()


def facts(data: Data) -> DataFacts:
    """What is known of the data set without reading its images.

    Raises:
        UserError: an unknown name, a share that leaves nothing, a folder that is missing or has no images.
    """
    check(data)
    earlier, remarks = "", []
    samples: tuple[Files, Files] = ([], [])
    if data.name in CIFAR:
        official, count = CIFAR[data.name]
        identity, classes, channels = f"{official} official md5", numbered(count), 3
        labels = [np.arange(50_000) % count, np.arange(10_000) % count]  # as many of each class
    elif data.name == "digits":
        images, every = digits()
        digest = hashlib.sha256(images.tobytes() + every.tobytes()).hexdigest()
        identity, classes, channels = f"digits {digest[:16]}", numbered(10), 1
        labels = [every[: len(every) // 2], every[len(every) // 2 :]]
    else:
        tree = folder(data)
        known = identity_of(data, tree)
        identity, earlier, classes, channels = known.identity, known.earlier, tree.classes, channels_of(data)
        labels = [labels_of(tree.train), labels_of(tree.test)]
        samples = sampled(tree.train), sampled(tree.test)
        if known.shared:
            remarks.append(f"{known.shared:,} of {len(tree.test):,} test images are training images, too")
    kept = counts(data, *map(len, labels))
    if min(kept[0], kept[2], kept[1] or data.validation == 0) < 1:
        raise UserError(
            f"data.validation={data.validation:g} of {len(labels[0])} training images leaves an empty split"
        )
    return DataFacts(identity, classes, channels, *kept, earlier, (*remarks, *absences(data, labels, classes)), samples)


def sampled(files: Files) -> Files:
    """A few files of any class, always the same."""
    return random.Random(0).sample(files, min(SAMPLED, len(files)))


def absences(data: Data, labels: Sequence[Labels], classes: Sequence[str]) -> list[str]:
    """Which classes have no image in a part of the data set, a line a part."""
    said = []
    train, validation, test = parts(data, *labels)
    for verb, all_N, index in (
        ("trains", labels[0], train),
        ("validates", labels[0], validation),
        ("tests", labels[1], test),
    ):
        absent = np.flatnonzero(np.bincount(all_N[index], minlength=len(classes)) == 0)
        if len(index) and len(absent):
            names = ", ".join(classes[label] for label in absent[:SHOWN]) + ", …" * (len(absent) > SHOWN)
            said.append(f"no image {verb} of {len(absent)} of the {len(classes)} classes: {names}")
    return said


def counts(data: Data, train: int, test: int) -> tuple[int, int, int]:
    """How many images train, validate and test, of the `train` and `test` that there are. A subset is validated on as
    large a share as the whole: a small study is not to spend its time on validation."""
    held_out = round(data.validation * train)
    rest = train - held_out
    trained = min(rest, data.subset or rest)
    validated = min(held_out, max(1, round(held_out * trained / max(1, rest))))
    return trained, validated, min(test, data.test_subset or test)


def load(data: Data, feed: str = "files", device: str = "cpu", identity: str = "") -> Splits:
    """Read the data set and split it.

    Args:
        data: which.
        feed: whether a `folder` is decoded into `memory`, or its images are read from `files` whenever they are fed.
            All other data sets lie in memory.
        device: where what lies in memory lies.
        identity: by which the images of a `folder` were known when the study was planned.

    Raises:
        UserError: as for `facts`, and a file that is missing or damaged, by name.
        RunError: an image that cannot be decoded, by name; images that are others than those of the plan.
    """
    check(data)
    feeds: list[TensorFeed | FolderFeed]
    if data.name == "folder":
        tree = folder(data)
        known = identity_of(data, tree)
        if identity and known.identity != identity:
            raise RunError(f"data.root={data.root}: the images have changed since the study began; start it again")
        classes, files = tree.classes, [*tree.train, *tree.test]
        train, validation, test = parts(data, labels_of(tree.train), labels_of(tree.test))
        indices = (train, validation, test + len(tree.train))
        splits = [[files[i] for i in index] for index in indices]
        states = [[known.states[i] for i in index] for index in indices]
        if feed == "memory":
            feeds = memory.feeds(splits, states, data, device, known.identity)
        else:
            pinned = device == "cuda"
            feeds = [FolderFeed(part, data, pinned, were) for part, were in zip(splits, states, strict=True)]
    else:
        learnt, tested = arrays(data)
        classes = numbered(CIFAR[data.name][1] if data.name in CIFAR else 10)
        feeds = [
            TensorFeed(torch.from_numpy(images[index]), torch.from_numpy(labels[index]), data, device)
            for (images, labels), index in zip((learnt, learnt, tested), parts(data, learnt[1], tested[1]), strict=True)
        ]
    return Splits(feeds[0], feeds[1], feeds[2], classes)


def size_in_memory(data: Data) -> int:
    """Bytes that the images of a `folder` take in memory, about."""
    tree = folder(data)
    return memory.size_of(tree.train, data, counts(data, len(tree.train), len(tree.test)))


def numbered(count: int) -> tuple[str, ...]:
    """Classes that are called by their labels."""
    return tuple(map(str, range(count)))


def parts(data: Data, train_labels: Labels, test_labels: Labels) -> tuple[Labels, Labels, Labels]:
    """Indices of the training, validation and test images."""
    train, validation, test = counts(data, len(train_labels), len(test_labels))
    held_out = balanced(train_labels, round(data.validation * len(train_labels)))
    rest = np.setdiff1d(np.arange(len(train_labels)), held_out)
    return rest[balanced(train_labels[rest], train)], balanced(train_labels, validation), balanced(test_labels, test)


def check(data: Data) -> None:
    """A UserError for what no data set can be: an unknown name, an augmentation that it lacks, an empty split."""
    if data.name not in DATASETS:
        raise UserError(f"data.name: there is no data set '{data.name}'; there are {', '.join(DATASETS)}")
    augments = tuple(FILE_AUGMENTS if data.name == "folder" else AUGMENTS)
    if data.augment not in augments:
        raise UserError(f"data.augment: {data.name} has no augmentation '{data.augment}'; it has {', '.join(augments)}")
    if data.size != SIZES.get(data.name, data.size):
        raise UserError(f"data.size={data.size}: the images of {data.name} have {SIZES[data.name]} pixels a side")
    if not 0 <= data.cutout <= data.size:
        raise UserError(f"data.cutout={data.cutout} is not between 0 and data.size={data.size}")
    if data.crops not in (1, 10):
        raise UserError(f"data.crops: {data.crops} is neither 1 nor 10")
    if data.name != "folder" and (data.crops != 1 or data.scales):
        raise UserError(f"data.crops, data.scales: the images of {data.name} are tested whole; these are for folder")
    if data.scales and min(data.scales) < data.size:
        raise UserError(f"data.scales: {min(data.scales)} is less than data.size={data.size}, which is cut out of it")
    if data.name == "folder" and 0 < data.resize < data.size:
        raise UserError(f"data.resize={data.resize} is less than data.size={data.size}, which is cut out of it")
    if data.name != "folder" and (data.mean or data.std):
        raise UserError(f"data.mean, data.std: those of {data.name} are known; these are for folder")
    if len(data.mean) != len(data.std) or len(data.mean) not in (0, 1, 3):
        raise UserError("data.mean, data.std: one number each (grey images) or three (colour), or none for ImageNet's")
    if not all(0 < std < math.inf for std in data.std) or not all(map(math.isfinite, data.mean)):
        raise UserError(f"data.mean={data.mean}, data.std={data.std}: these are shares of the full range, std above 0")
    for key in ("validation", "test_share"):
        if not 0 <= getattr(data, key) < 1:
            raise UserError(f"data.{key}: {getattr(data, key):g} is not a share between 0 and 1")
    if data.name != "folder" and data.test_share:
        raise UserError(f"data.test_share: {data.name} has test images of its own; this is for folder")
    if data.identity not in IDENTITIES:
        raise UserError(f"data.identity: there is no '{data.identity}'; there are {', '.join(IDENTITIES)}")
    for key in ("subset", "test_subset"):
        value = getattr(data, key)
        if value is not None and value < 1:
            raise UserError(f"data.{key}: {value} is not a number of images of at least 1")


def check_files(data: Data) -> None:
    """Whether the files are where `data.root` says, whole; CIFAR is downloaded here if the user asked for it.

    Raises:
        UserError: which file is missing or damaged, and what to do.
    """
    if data.name not in CIFAR:
        return
    from torchvision.datasets.utils import check_integrity

    source = cifar_class(data)
    if data.download:
        try:
            source(root_of(data), train=True, download=True)
        except (OSError, RuntimeError) as error:
            raise UserError(f"{data.name} could not be downloaded to {data.root}: {error}") from error
    folder = root_of(data) / source.base_folder
    files = [*source.train_list, *source.test_list, (source.meta["filename"], source.meta["md5"])]
    if not folder.is_dir():
        raise UserError(
            f"{data.name}: there is no folder {folder}; name the folder that holds it with data.root=…, "
            f"or have it downloaded with data.download=true"
        )
    for name, md5 in files:
        if not (folder / name).is_file():
            raise UserError(f"{data.name}: the file {folder / name} is missing")
        try:
            whole = check_integrity(str(folder / name), md5)
        except OSError as error:
            raise unreadable(data, error) from error
        if not whole:
            raise UserError(f"{data.name}: the file {folder / name} is damaged (its md5 is not {md5})")


# --------------------------------------------------------------------------------------------------------------------
# Sources


def arrays(data: Data) -> tuple[Arrays, Arrays]:
    """All training and all test images of a data set that lies in memory, in its own order."""
    if data.name == "digits":
        images, labels = digits()
        half = len(labels) // 2
        return (images[:half], labels[:half]), (images[half:], labels[half:])
    check_files(data)
    return cifar(data, train=True), cifar(data, train=False)


def digits() -> Arrays:
    """scikit-learn's handwritten digits: (1797, 1, 8, 8), 0…16 stretched to 0…255. Read from the file that it brings,
    as its `load_digits` does: to import it takes a hundred times as long."""
    library = importlib.util.find_spec("sklearn")
    assert library is not None
    lines = np.loadtxt(Path(str(library.origin)).parent / "datasets" / "data" / "digits.csv.gz", delimiter=",")
    images = np.round(lines[:, :-1].reshape(-1, 1, 8, 8) * (255 / 16)).astype(np.uint8)
    return images, lines[:, -1].astype(np.int64)


def cifar_class(data: Data) -> Any:
    import torchvision

    return getattr(torchvision.datasets, CIFAR[data.name][0])


def cifar(data: Data, train: bool) -> Arrays:
    """CIFAR's images, (50000 or 10000, 3, 32, 32). Its files are pickles: read only after their md5 was compared."""
    try:
        read = cifar_class(data)(root_of(data), train=train)
    except (OSError, RuntimeError, pickle.UnpicklingError) as error:
        raise UserError(f"{data.name}: {error}") from error
    return read.data.transpose(0, 3, 1, 2), np.asarray(read.targets, dtype=np.int64)
