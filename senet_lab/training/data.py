"""The images that a study trains, validates and tests on.

Selection happens on a validation split taken from the training images; it depends on the data set alone, so that the
same images validate for every row and seed. The test images are read once, when a training has ended.

Shapes: N images, C colour channels, H W pixels.
"""

from __future__ import annotations

import hashlib
import importlib.util
import math
import os
import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from senet_lab.config import Data, UserError
from senet_lab.training import memory
from senet_lab.training.augment import AUGMENTS
from senet_lab.training.feeds import FolderFeed, TensorFeed
from senet_lab.training.transforms import FILE_AUGMENTS, channels_of

Labels = np.ndarray[Any, np.dtype[np.int64]]  # (N,) integers
Pixels = np.ndarray[Any, np.dtype[np.uint8]]  # (N, C, H, W)
Arrays = tuple[Pixels, Labels]
Files = list[tuple[str, int]]  # image file, label; strings, because a million paths would take a gigabyte

CIFAR = {"cifar10": ("CIFAR10", 10), "cifar100": ("CIFAR100", 100)}
DATASETS = ("digits", *CIFAR, "folder")
SIZES = {"digits": 8, "cifar10": 32, "cifar100": 32}  # pixels; `folder` brings its images to any size
IMAGE_SUFFIXES = (".bmp", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")


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
    """

    identity: str
    classes: tuple[str, ...]
    channels: int
    train: int
    validation: int
    test: int


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
    if data.name in CIFAR:
        official, count = CIFAR[data.name]
        identity, classes, channels = f"{official} official md5", numbered(count), 3
        train, test = 50_000, 10_000
    elif data.name == "digits":
        images, labels = digits()
        digest = hashlib.sha256(images.tobytes() + labels.tobytes()).hexdigest()
        identity, classes, channels = f"digits {digest[:16]}", numbered(10), 1
        train, test = len(labels) // 2, len(labels) - len(labels) // 2
    else:
        train_files, test_files, classes = folder(data)
        identity, channels = f"folder {digest_of(data, [*train_files, *test_files])}", channels_of(data)
        train, test = len(train_files), len(test_files)
    kept = counts(data, train, test)
    if min(kept) < 1:
        raise UserError(f"data.validation={data.validation:g} of {train} training images leaves an empty split")
    return DataFacts(identity, classes, channels, *kept)


def counts(data: Data, train: int, test: int) -> tuple[int, int, int]:
    """How many images train, validate and test, of the `train` and `test` that there are. A subset is validated on as
    large a share as the whole: a small study is not to spend its time on validation."""
    held_out = round(data.validation * train)
    rest = train - held_out
    trained = min(rest, data.subset or rest)
    validated = min(held_out, max(1, round(held_out * trained / max(1, rest))))
    return trained, validated, min(test, data.test_subset or test)


def load(data: Data, feed: str = "files", device: str = "cpu") -> Splits:
    """Read the data set and split it.

    Args:
        data: which.
        feed: whether a `folder` is decoded into `memory`, or its images are read from `files` whenever they are fed.
            All other data sets lie in memory.
        device: where what lies in memory lies.

    Raises:
        UserError: as for `facts`, and a file that is missing or damaged, by name.
        RunError: an image that cannot be decoded, by name.
    """
    check(data)
    feeds: list[TensorFeed | FolderFeed]
    if data.name == "folder":
        train_files, test_files, classes = folder(data)
        indices = parts(data, labels_of(train_files), labels_of(test_files))
        splits = [
            [files[i] for i in index]
            for files, index in zip((train_files, train_files, test_files), indices, strict=True)
        ]
        if feed == "memory":
            feeds = memory.feeds(splits, data, device, digest_of(data, [file for files in splits for file in files]))
        else:
            feeds = [FolderFeed(files, data, pinned=device == "cuda") for files in splits]
    else:
        train, test = arrays(data)
        classes = numbered(CIFAR[data.name][1] if data.name in CIFAR else 10)
        feeds = [
            TensorFeed(torch.from_numpy(images[index]), torch.from_numpy(labels[index]), data, device)
            for (images, labels), index in zip((train, train, test), parts(data, train[1], test[1]), strict=True)
        ]
    return Splits(feeds[0], feeds[1], feeds[2], classes)


def size_in_memory(data: Data) -> int:
    """Bytes that the images of a `folder` take in memory, about."""
    train, test, _ = folder(data)
    return memory.size_of(train, data, counts(data, len(train), len(test)))


def numbered(count: int) -> tuple[str, ...]:
    """Classes that are called by their labels."""
    return tuple(map(str, range(count)))


def parts(data: Data, train_labels: Labels, test_labels: Labels) -> tuple[Labels, Labels, Labels]:
    """Indices of the training, validation and test images."""
    train, validation, test = counts(data, len(train_labels), len(test_labels))
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
    if not 0 < data.validation < 1:
        raise UserError(f"data.validation: {data.validation:g} is not a share between 0 and 1")
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
            source(data.root, train=True, download=True)
        except (OSError, RuntimeError) as error:
            raise UserError(f"{data.name} could not be downloaded to {data.root}: {error}") from error
    folder = Path(data.root) / source.base_folder
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


def unreadable(data: Data, error: OSError) -> UserError:
    return UserError(f"{data.name}: {error.filename} cannot be read: {error.strerror or error}")


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
        read = cifar_class(data)(data.root, train=train)
    except (OSError, RuntimeError, pickle.UnpicklingError) as error:
        raise UserError(f"{data.name}: {error}") from error
    return read.data.transpose(0, 3, 1, 2), np.asarray(read.targets, dtype=np.int64)


def folder(data: Data) -> tuple[Files, Files, tuple[str, ...]]:
    """Training files, test files and class names of a tree with one folder a class, in torchvision's order."""
    trees = []
    for key in ("train", "test"):
        tree = Path(data.root) / getattr(data, key)
        if not tree.is_dir():
            raise UserError(f"data.root={data.root}: there is no folder {tree} (data.{key} names it)")
        trees.append(tree)
    try:
        names = [sorted(entry.name for entry in tree.iterdir() if entry.is_dir()) for tree in trees]
        classes = tuple(names[0])
        found = [
            [(path, label) for label, name in enumerate(classes) for path in images_below(tree / name)]
            for tree in trees
        ]
    except OSError as error:
        raise unreadable(data, error) from error
    for tree, files in zip(trees, found, strict=True):
        if not files:
            raise UserError(f"{tree} holds no images (looked for one folder a class, with {'/'.join(IMAGE_SUFFIXES)})")
    unknown = sorted(set(names[1]) - set(classes))
    if unknown:
        raise UserError(f"{trees[1]} has a class that {trees[0]} lacks: {unknown[0]}")
    without = sorted(set(range(len(classes))) - {label for _, label in found[0]})
    if without:
        raise UserError(f"{trees[0] / classes[without[0]]} holds no images: a class that cannot be learnt")
    return found[0], found[1], classes


def digest_of(data: Data, files: Files) -> str:
    """Sixteen hexadecimal digits that tell the files' names below the root and their sizes."""
    digest = hashlib.sha256()
    try:
        for path, _ in files:
            name = path.removeprefix(os.path.join(data.root, "")).replace(os.sep, "/")  # noqa: PTH118
            digest.update(f"{name}\0{os.stat(path).st_size}\n".encode())  # noqa: PTH116
    except OSError as error:
        raise unreadable(data, error) from error
    return digest.hexdigest()[:16]


def images_below(folder: Path) -> list[str]:
    """Image files at any depth below a folder, links followed; none if it is not there."""

    def fail(error: OSError) -> None:
        raise error

    places = os.walk(folder, onerror=fail, followlinks=True) if folder.is_dir() else ()
    return [
        os.path.join(place, name)  # noqa: PTH118
        for place, _, names in sorted(places)
        for name in sorted(names)
        if name.lower().endswith(IMAGE_SUFFIXES)
    ]


def labels_of(files: Files) -> Labels:
    return np.array([label for _, label in files], dtype=np.int64)
