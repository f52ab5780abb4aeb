"""A data set as a tree of images, one folder a class: which files are its images, and what tells it from another one.

Names that begin with a dot are no data (`.ipynb_checkpoints`, macOS's `._x.png`). Links are followed; one that leads
nowhere, or back up to a folder that it lies in, is an error.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from senet_lab.config import Data, UserError
from senet_lab.training import content_digests
from senet_lab.training.images import Files, ImageIndex, balanced, pil_mode

IMAGE_SUFFIXES = (".bmp", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
IDENTITIES = ("contents", "names")


def root_of(data: Data) -> Path:
    """The folder that holds the data set."""
    return Path(data.root).expanduser()


def list_folder(data: Data) -> tuple[Files, Files, tuple[str, ...]]:
    """Training images, test images and names of classes below `data.root`, in torchvision's order.

    Raises:
        UserError: a tree that is missing, has no images, or overlaps with the other one.
    """
    train = root_of(data) / data.train
    trees = [train]
    check_there(data, "train")
    if not data.test_share:
        check_there(data, "test")
        check_apart(data)
        trees.append(root_of(data) / data.test)
    try:
        names = [class_folders(tree) for tree in trees]
        classes = tuple(names[0])
        trees_files = [class_files(data, [images_below(tree / name) for name in classes]) for tree in trees]
    except OSError as error:
        raise unreadable(data, error) from error
    for tree, files in zip(trees, trees_files, strict=True):
        if not len(files):
            raise UserError(f"{tree} holds no images (looked for one folder a class, with {'/'.join(IMAGE_SUFFIXES)})")
    unknown = sorted(set(names[-1]) - set(classes))
    if unknown:
        raise UserError(f"{trees[-1]} has a class that {train} lacks: {unknown[0]}")
    if data.test_share:
        trees_files = split_off_test(trees_files[0], data.test_share)
    without = sorted(set(range(len(classes))) - set(trees_files[0].labels.tolist()))
    if without:
        raise UserError(f"{train / classes[without[0]]} holds no images: a class that cannot be learnt")
    return trees_files[0], trees_files[1], classes


def check_there(data: Data, key: str) -> None:
    """A UserError if there is no such tree."""
    tree = root_of(data) / getattr(data, key)
    if not tree.is_dir():
        hint = "; where all images are in one tree, data.test_share=0.2 takes a fifth of them to test on"
        raise UserError(
            f"data.root={data.root}: there is no folder {tree} (data.{key} names it)" + hint * (key == "test")
        )


def check_apart(data: Data) -> None:
    """A UserError if a tree is the other one, or lies in it: images would be tested on that were trained on."""
    places = {key: (root_of(data) / getattr(data, key)).resolve() for key in ("train", "test")}
    words = f"data.train={data.train}, data.test={data.test}"
    hint = "data.test_share=0.2 takes a fifth of the training images to test on instead"
    if places["train"] == places["test"]:
        raise UserError(f"{words}: both are the folder {places['train']}; {hint}")
    for inner, outer in (("train", "test"), ("test", "train")):
        if places[outer] in places[inner].parents:
            raise UserError(f"{words}: {places[inner]} lies in {places[outer]}; {hint}")


def class_files(data: Data, paths: list[list[str]]) -> Files:
    """The files of a tree, from those of each class."""
    labels_N = np.repeat(np.arange(len(paths)), [len(of_class) for of_class in paths])
    return Files(list(chain.from_iterable(paths)), labels_N, pil_mode(data))


def split_off_test(files: Files, share: float) -> list[Files]:
    """A tree's images as training and test images: a fixed share of every class is for the test."""
    tested = balanced(files.labels, round(share * len(files)))
    if not len(tested):
        raise UserError(f"data.test_share={share:g} of {len(files)} images leaves none to test on")
    return [files.take(np.setdiff1d(np.arange(len(files)), tested)), files.take(tested)]


def class_folders(tree: Path) -> list[str]:
    """Names of the folders in a tree."""
    with os.scandir(tree) as entries:
        return sorted(entry.name for entry in visible_entries(entries) if entry.is_dir())


def images_below(folder: Path) -> list[str]:
    """Image files at any depth below a folder, links followed; none if it is not there.

    Raises:
        UserError: a link that leads nowhere, or up to a folder that it lies in.
        OSError: a folder that cannot be read.
    """
    places: list[tuple[str, list[str]]] = []

    def look(place: str, above: tuple[str, ...]) -> None:
        here = os.path.realpath(place)
        if here in above:
            raise UserError(f"{place} leads back up to {here}: the images below it would be taken again and again")
        with os.scandir(place) as entries:
            found = list(visible_entries(entries))
        below = [entry for entry in found if entry.is_dir()]
        places.append((place, sorted({entry.name for entry in found} - {entry.name for entry in below})))
        for entry in below:
            look(entry.path, (*above, here))

    if folder.is_dir():
        look(str(folder), ())
    return [
        os.path.join(place, name)  # noqa: PTH118
        for place, names in sorted(places)
        for name in names
        if name.lower().endswith(IMAGE_SUFFIXES)
    ]


def visible_entries(entries: Iterator[os.DirEntry[str]]) -> Iterator[os.DirEntry[str]]:
    """The entries of a folder that may be data."""
    for entry in entries:
        if entry.name.startswith("."):
            continue
        if entry.is_symlink() and not os.path.exists(entry.path):  # noqa: PTH110
            raise UserError(f"the link {entry.path} leads nowhere (to {os.readlink(entry.path)})")  # noqa: PTH115
        yield entry


def unreadable(data: Data, error: OSError) -> UserError:
    return UserError(f"{data.name}: {error.filename} cannot be read: {error.strerror or error}")


# --------------------------------------------------------------------------------------------------------------------
# Which images they are


def index(data: Data) -> ImageIndex:
    """What is known of the images of `data.root`, and what tells them from others, as `data.identity` has it.

    Both ways depend on the names of the files below their tree, which decide the order in which they are fed, and on
    which of them train and test; neither depends on where the data set lies. `contents` depends on every byte besides;
    `names`, on the sizes and the names of the trees below the root.

    Raises:
        UserError: as for `folder`; a file that is empty or cannot be read; test images that are training images, all
            of them.
    """
    train, test, classes = list_folder(data)
    paths = [*train.paths, *test.paths]
    try:
        stats = [os.stat(path) for path in paths]  # noqa: PTH116
        empty = next((path for path, stat in zip(paths, stats, strict=True) if not stat.st_size), None)
        if empty:
            raise UserError(f"the image {empty} is empty (0 bytes)")
        states = [content_digests.state(stat) for stat in stats]
        sized = zip(names_below(root_of(data), paths), stats, strict=True)
        by_names = "folder " + digest_of(f"{name}\0{stat.st_size}\n" for name, stat in sized)
        if data.identity == "names":
            marks: list[Any] = [(stat.st_dev, stat.st_ino) for stat in stats]
            identity, earlier = by_names, ""
        else:
            marks = content_digests.digests(root_of(data) / data.train, paths, states)
            identity, earlier = by_contents(data, train, test, marks), by_names
    except OSError as error:
        raise unreadable(data, error) from error
    trained = set(marks[: len(train)])
    shared = sum(mark in trained for mark in marks[len(train) :])
    if shared == len(test):
        raise UserError(f"data.root={data.root}: each of the {shared:,} test images is a training image, too")
    train = replace(train, states=b"".join(states[: len(train)]))
    test = replace(test, states=b"".join(states[len(train) :]))
    return ImageIndex(identity, classes, (train.labels, test.labels), lambda: (train, test), earlier, shared)


def by_contents(data: Data, train: Files, test: Files, marks: list[bytes]) -> str:
    """The identity that depends on every byte."""
    trees = ("train", data.train, train), ("test", data.train if data.test_share else data.test, test)
    named = [(part, name) for part, tree, files in trees for name in names_below(root_of(data) / tree, files.paths)]
    lines = (f"{part}\0{name}\0{mark.hex()}\n" for (part, name), mark in zip(named, marks, strict=True))
    return "folder contents " + digest_of(lines)


def names_below(place: Path, paths: Iterable[str]) -> list[str]:
    """The names of files below a folder, the same on every system."""
    prefix = os.path.join(place, "")  # noqa: PTH118
    return [path.removeprefix(prefix).replace(os.sep, "/") for path in paths]


def digest_of(lines: Iterable[str]) -> str:
    """Sixteen hexadecimal digits of a text. Names need not be UTF-8."""
    digest = hashlib.sha256()
    for line in lines:
        digest.update(line.encode(errors="surrogateescape"))
    return digest.hexdigest()[:16]
