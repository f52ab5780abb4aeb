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
from pathlib import Path
from typing import NamedTuple

import numpy as np
from rich.console import Console

from senet_lab.compose import compose
from senet_lab.config import Data, RunError, UserError
from senet_lab.counting import counting
from senet_lab.files import atomic_path
from senet_lab.naming import quote_word
from senet_lab.training import data as images
from senet_lab.training.images import Files, Labels, Pixels, split_indices
from senet_lab.training.sources import source_of
from senet_lab.training.transforms import in_files

TREES = ("train", "val")


def write_image_tree(arguments: argparse.Namespace) -> None:
    """Write a data set as a tree of PNGs, whole or not at all, and print how it is trained on.

    Raises:
        UserError: no such data set, a place that is taken, an image that does not decode.
        RunError: the tree cannot be written.
    """
    data = tree_data(arguments)
    to = Path(arguments.to).resolve()  # behind a link, and with a name and a parent
    check_place(to)
    splits = tree_splits(data)
    known = images.data_facts(data)
    names = folders(known.classes if data.name == "folder" else images.names_of(data, known))
    check_classes(data, splits[0], names)
    report = counting(sum(len(split.places) for split in splits), "images")
    try:
        with atomic_path(to) as part:
            save_images(splits, names, part, report)
    except OSError as error:
        raise RunError(f"{arguments.to} cannot be written: {error.strerror or error}") from error
    train, test = (len(split.places) for split in splits)
    lines = [
        f"written: {arguments.to}/ ({train:,} training and {test:,} test images in {len(names)} classes)",
        f"to train on them in the same way: {' '.join(tree_words(data, arguments.to))}",
    ]
    for line in lines:
        Console().print(line, soft_wrap=True, markup=False, highlight=False)


def tree_data(arguments: argparse.Namespace) -> Data:
    """The data set that is meant, or those of its images that the words say."""
    for word in arguments.words:
        if not word.startswith("data."):
            raise UserError(f"'{word}': images takes the name of a data set and words about it (data.root=…)")
    data = compose([f"data={arguments.what}", *arguments.words]).config.data
    if arguments.root is not None:
        data.root = str(arguments.root)
    return images.resolve_data(data)


def check_place(to: Path) -> None:
    """A UserError if something is there already: a tree of images is not mixed with anything."""
    try:
        if to.is_dir() and any(to.iterdir()):
            raise UserError(f"--to: {to} is not empty; name a new folder")
    except OSError as error:
        raise UserError(f"--to: {to} cannot be read: {error.strerror or error}") from error
    if to.exists() and not to.is_dir():
        raise UserError(f"--to: {to} is there already, and no folder")


class Split(NamedTuple):
    """The training or the test images of a data set, and the places of those that are written, ascending."""

    images: Pixels | Files
    places: Labels

    def save(self, place: int, path: Path) -> None:
        """Write an image as a PNG.

        Raises:
            UserError: if it does not decode.
        """
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of oddities in files that PIL reads all the same
                picture = self.images.picture(place)
        except RunError as error:
            raise UserError(str(error)) from error
        picture.save(path)


def tree_splits(data: Data) -> list[Split]:
    """What is trained and validated on, and what is tested on."""
    train, test = source_of(data.name).index(data).read()
    if isinstance(train, Pixels):
        train, test = train.resized(data.size), test.resized(data.size)
    trained, validated, tested = split_indices(data, train.labels, test.labels)
    return [Split(train, np.union1d(trained, validated)), Split(test, tested)]


def folders(names: Sequence[str]) -> list[str]:
    """What the folders of the classes are called: their names, behind their labels where the names' alphabet would
    bring them into another order."""
    if sorted(names) == list(names):
        return list(names)
    digits = len(str(len(names) - 1))
    return [f"{label:0{digits}d}_{name}" for label, name in enumerate(names)]


def check_classes(data: Data, train: Split, names: Sequence[str]) -> None:
    """A UserError if a class would have no training images: `data=folder` takes no such tree."""
    counts_K = np.bincount(train.images.labels[train.places], minlength=len(names))
    if not counts_K.all():
        reason = f": data.subset={data.subset} is too small" if data.subset else ""
        raise UserError(f"class '{names[int(counts_K.argmin())]}' would have no training images{reason}")


def save_images(splits: Sequence[Split], names: Sequence[str], folder: Path, report: Callable[[int], None]) -> None:
    """Write every image; `report` is told how many there are so far."""
    done = 0
    for tree, split in zip(TREES, splits, strict=True):
        for name in names:
            (folder / tree / name).mkdir(parents=True)
        digits = max(5, len(str(len(split.images.labels) - 1)))
        for place in split.places.tolist():
            split.save(place, folder / tree / names[split.images.labels[place]] / f"{place:0{digits}d}.png")
            done += 1
            report(done)


def tree_words(data: Data, to: str | Path) -> list[str]:
    """The words by which the tree is read to the same tensors, and augmented in the same way."""
    usual = compose(["data=folder"]).config.data
    same = in_files(data)
    fields = ("size", "resize", "crops", "scales", "mean", "std", "augment", "cutout", "validation")
    different = {name: getattr(same, name) for name in fields if getattr(same, name) != getattr(usual, name)}
    texts = [f"data.{name}={str(value).replace(' ', '')}" for name, value in different.items()]
    return ["data=folder", *(shlex.quote(word) for word in (f"data.root={quote_word(str(to))}", *texts))]
