"""`python -m senet_lab images …`: a data set written as a tree of PNGs, which `data=folder` reads to the same tensors.

    DIR/train/<class>/00000.png …       the training images of a class, in the data set's order
    DIR/val/<class>/00000.png …         the test images

Files are numbered by their place in the data set. PNG loses nothing, and grey images stay grey.
"""

from __future__ import annotations

import argparse
import shlex
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from senet_lab.compose import compose
from senet_lab.config import Data, RunError, UserError
from senet_lab.counting import counting
from senet_lab.files import whole
from senet_lab.labels import quoted
from senet_lab.training import classes, trees
from senet_lab.training import data as images
from senet_lab.training.decoding import mode_of, opened
from senet_lab.training.transforms import in_files

TREES = ("train", "val")


def write(arguments: argparse.Namespace) -> None:
    """Write a data set as a tree of PNGs, whole or not at all, and print how it is trained on.

    Raises:
        UserError: no such data set, a place that is taken, an image that does not decode.
        RunError: the tree cannot be written.
    """
    data = data_of(arguments)
    to = Path(arguments.to).resolve()  # behind a link, and with a name and a parent
    check_place(to)
    splits = splits_of(data)
    known = images.facts(data)
    names = folders(known.classes if data.name == "folder" else classes.names_of(data, known))
    check_classes(data, splits[0], names)
    report = counting(sum(len(split.places) for split in splits), "images")
    try:
        with whole(to) as part:
            save(splits, names, part, report)
    except OSError as error:
        raise RunError(f"{arguments.to} cannot be written: {error.strerror or error}") from error
    train, test = (len(split.places) for split in splits)
    said = [
        f"written: {arguments.to}/ ({train:,} training and {test:,} test images in {len(names)} classes)",
        f"to train on them in the same way: {' '.join(words(data, arguments.to))}",
    ]
    for line in said:
        Console().print(line, soft_wrap=True, markup=False, highlight=False)


def data_of(arguments: argparse.Namespace) -> Data:
    """The data set that is meant, or those of its images that the words say."""
    for word in arguments.words:
        if not word.startswith("data."):
            raise UserError(f"'{word}': images takes the name of a data set and words about it (data.root=…)")
    data = compose([f"data={arguments.what}", *arguments.words]).config.data
    if arguments.root is not None:
        data.root = str(arguments.root)
    images.check(data)
    return data


def check_place(to: Path) -> None:
    """A UserError if something is there already: a tree of images is not mixed with anything."""
    try:
        if to.is_dir() and any(to.iterdir()):
            raise UserError(f"--to: {to} is not empty; name a new folder")
    except OSError as error:
        raise UserError(f"--to: {to} cannot be read: {error.strerror or error}") from error
    if to.exists() and not to.is_dir():
        raise UserError(f"--to: {to} is there already, and no folder")


@dataclass(frozen=True)
class Split:
    """The training or the test images of a data set.

    Attributes:
        places: of the images that are written, in the data set, ascending.
        labels: of all images of the split.
        image: the PIL image at a place.
    """

    places: trees.Labels
    labels: trees.Labels
    image: Callable[[int], Any]


def splits_of(data: Data) -> list[Split]:
    """What is trained and validated on, and what is tested on."""
    readers: list[Callable[[int], Any]]
    if data.name == "folder":
        files = trees.folder(data)[:2]
        labels = [trees.labels_of(some) for some in files]
        readers = [partial(decoded, some, mode_of(data)) for some in files]
    else:
        arrays = images.arrays(data)
        labels = [labels for _, labels in arrays]
        readers = [partial(drawn, pixels_NCHW) for pixels_NCHW, _ in arrays]
    train, validation, test = images.parts(data, *labels)
    places = (np.union1d(train, validation), test)
    return [Split(*split) for split in zip(places, labels, readers, strict=True)]


def drawn(pixels_NCHW: images.Pixels, place: int) -> Any:
    """An image that lies in memory."""
    from PIL import Image

    pixels_HWC = pixels_NCHW[place].transpose(1, 2, 0)
    return Image.fromarray(np.ascontiguousarray(pixels_HWC[:, :, 0] if pixels_HWC.shape[2] == 1 else pixels_HWC))


def decoded(files: trees.Files, mode: str, place: int) -> Any:
    """An image that lies in a file, in PIL's mode.

    Raises:
        UserError: if it does not decode.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of oddities in files that PIL reads all the same
            return opened(files[place][0], mode)
    except RunError as error:
        raise UserError(str(error)) from error


def folders(names: Sequence[str]) -> list[str]:
    """What the folders of the classes are called: their names, behind their labels where the names' alphabet would
    bring them into another order."""
    if sorted(names) == list(names):
        return list(names)
    digits = len(str(len(names) - 1))
    return [f"{label:0{digits}d}_{name}" for label, name in enumerate(names)]


def check_classes(data: Data, train: Split, names: Sequence[str]) -> None:
    """A UserError if a class would have no training images: `data=folder` takes no such tree."""
    counts_K = np.bincount(train.labels[train.places], minlength=len(names))
    if not counts_K.all():
        reason = f": data.subset={data.subset} is too small" if data.subset else ""
        raise UserError(f"class '{names[int(counts_K.argmin())]}' would have no training images{reason}")


def save(splits: Sequence[Split], names: Sequence[str], folder: Path, report: Callable[[int], None]) -> None:
    """Write every image; `report` is told how many there are so far."""
    done = 0
    for tree, split in zip(TREES, splits, strict=True):
        for name in names:
            (folder / tree / name).mkdir(parents=True)
        digits = max(5, len(str(len(split.labels) - 1)))
        for place in split.places.tolist():
            split.image(place).save(folder / tree / names[split.labels[place]] / f"{place:0{digits}d}.png")
            done += 1
            report(done)


def words(data: Data, to: str | Path) -> list[str]:
    """The words by which the tree is read to the same tensors, and augmented in the same way."""
    usual = compose(["data=folder"]).config.data
    same = in_files(data)
    fields = ("size", "resize", "crops", "scales", "mean", "std", "augment", "cutout", "validation")
    different = {name: getattr(same, name) for name in fields if getattr(same, name) != getattr(usual, name)}
    said = [f"data.{name}={str(value).replace(' ', '')}" for name, value in different.items()]
    return ["data=folder", *(shlex.quote(word) for word in (f"data.root={quoted(str(to))}", *said))]
