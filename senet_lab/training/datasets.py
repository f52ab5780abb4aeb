"""Data sets that the lab does not bring: torchvision's by name, and those that a function of the user's returns.

    data=torchvision:SVHN data.root=DIR     a class of torchvision.datasets
    data=mine.sets:squares                  the function `squares` of mine/sets.py, which returns training and test set

All images are read at once (`reading`) and lie in memory. They are known by their contents, in their order.
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from senet_lab.config import Data, UserError, near
from senet_lab.models.importing import imported
from senet_lab.training.folder import digest_of, root_of
from senet_lab.training.images import ImageIndex, Pixels, Source, balanced
from senet_lab.training.reading import classes_of, different, pixels_of, reason, statistics

LIBRARY = "torchvision"
PARTS = ("training", "test")
WORDS = (("trainval", "train", "train-standard"), ("test", "val", "valid"))  # torchvision's for their splits


@dataclass(frozen=True, eq=False)
class Read:
    """The images of a data set as they were read."""

    identity: str
    classes: tuple[str, ...]
    train: Pixels
    test: Pixels
    shared: int  # how many of the test images are training images, too


# The last data set that this process has read (at both sizes, where it is tested at another one): its next trial is
# mostly of the same.
HELD: dict[str, Read] = {}


@dataclass(frozen=True)
class Named(Source):
    """A data set by its name, `torchvision:CLASS` or `package.module:function`."""

    name: str = ""

    @property
    def torchvisions(self) -> bool:
        return self.name.startswith(f"{LIBRARY}:")

    def index(self, data: Data) -> ImageIndex:
        read = self.held(data)
        labels = (read.train.labels, read.test.labels)
        return ImageIndex(read.identity, read.classes, labels, lambda: (read.train, read.test), shared=read.shared)

    def held(self, data: Data, anew: bool = False) -> Read:
        """The images, read once in a process, or `anew`."""
        key = f"{data.name} {data.root} {data.args} {data.size} {data.test_share}"
        if anew or key not in HELD:
            for old in [*HELD][: -1 if data.test_size else None]:
                del HELD[old]
            HELD[key] = self.read(data)
        return HELD[key]

    def read(self, data: Data) -> Read:
        return read(data, of_torchvision(data) if self.torchvisions else of_function(data))

    def check(self, data: Data) -> None:
        """torchvision downloads here if the user asked for it."""
        if data.download and self.torchvisions:
            of_torchvision(data, download=True)

    def resolve(self, data: Data) -> Data:
        """The data set with what only its images tell: their size, where it is 0, and the mean and standard deviation
        of their channels (over all training images, validation included, in units of the full range, four decimals).

        Raises:
            UserError: images that the source cannot give, or that are others the second time.
        """
        self.check(data)
        found = self.held(data, anew=True)
        if not self.torchvisions:
            check_same(data, found, of_function(data))
        mean, std = (data.mean, data.std) if data.mean else statistics(found.train)
        if not all(std):
            raise UserError(f"data={self.name}: its training images are of one level: there is nothing to learn")
        return replace(data, size=data.size or found.train.images.shape[2], mean=mean, std=std)


# --------------------------------------------------------------------------------------------------------------------
# Where they come from


def of_torchvision(data: Data, download: bool = False) -> list[Any]:
    """Training and test set of one of torchvision's classes, or its only one, of which `data.test_share` is taken."""
    from torchvision import datasets

    name = data.name.partition(":")[2]
    kind = getattr(datasets, name, None)
    if not (isinstance(kind, type) and issubclass(kind, datasets.VisionDataset)):
        there = [each for each in datasets.__all__ if each[0].isupper() and each != "VisionDataset"]
        raise UserError(
            f"data={data.name}: torchvision has no data set '{name}'{near(name, there)}; torchvision.datasets lists "
            "them (CIFAR10, FashionMNIST, SVHN …)"
        )
    takes: set[str] = set()
    for made_by in (vars(each)["__init__"] for each in kind.__mro__ if "__init__" in vars(each)):
        parameters = inspect.signature(made_by).parameters.values()
        takes |= {each.name for each in parameters}
        if inspect.Parameter.VAR_KEYWORD not in {each.kind for each in parameters}:
            break  # else the class passes on what it does not name
    given: dict[str, Any] = {"root": str(root_of(data)), "download": download}
    given = {key: value for key, value in given.items() if key in takes} | (data.args or {})
    split = next((key for key in ("train", "split") if key in takes and key not in (data.args or {})), None)
    if bool(split) == bool(data.test_share):
        has = "has training and test images" if split else "has no test images; data.test_share=0.2 takes a fifth"
        raise UserError(f"data={data.name}: {name} {has}" + "; data.test_share is for others" * bool(split))
    words: tuple[Any, ...] = ((True,), (False,)) if split == "train" else WORDS if split else ((None,),)
    try:
        return [first_of(kind, given, split, some) for some in words]
    except Exception as error:  # of many kinds: files that are missing, damaged, or of a wrong class of arguments
        hint = "; data.download=true has torchvision fetch it" if "download" in takes and not download else ""
        raise UserError(f"data={data.name} data.root={data.root}: {reason(error)}{hint}") from error


def first_of(kind: type[Any], given: dict[str, Any], split: str | None, words: tuple[Any, ...]) -> Any:
    """The set of the first of some words for a split that the class knows."""
    for word in words[:-1]:
        try:
            return kind(**given, **({split: word} if split else {}))
        except ValueError:  # torchvision's for a word that it does not know
            continue
    return kind(**given, **({split: words[-1]} if split else {}))


def of_function(data: Data) -> list[Any]:
    """What the user's function returns, training and test set; with `data.test_share` it returns one set of both."""
    try:
        function = imported("data", data.name, "function")
    except ValueError as error:
        raise UserError(str(error)) from error
    name = data.name.partition(":")[2]
    try:
        made = function(**(data.args or {}))
    except Exception as error:
        raise UserError(f"data={data.name}: {name} raised {reason(error)}") from error
    if data.test_share:
        return [made]
    if not isinstance(made, (tuple, list)) or len(made) != 2:
        raise UserError(
            f"data={data.name}: {name} returned a {type(made).__name__} in place of a pair, training and test set; "
            "data.test_share=0.2 takes a fifth of one set to test on"
        )
    return list(made)


# --------------------------------------------------------------------------------------------------------------------
# How they are read


def check_same(data: Data, found: Read, again: list[Any]) -> None:
    """A UserError where sets, read again, are not what was found at first."""
    if read(data, again).identity != found.identity:
        raise UserError(
            f"data={data.name}: read again, it gave other images, labels, or another order; a study needs the same "
            "each time (what is random wants a seed, and augmentation is data.augment)"
        )


def read(data: Data, given: list[Any]) -> Read:
    """The images of the sets, brought to `data.size` where that is no 0.

    Raises:
        UserError: what is no image or label, images of different shapes, labels outside the classes.
    """
    found = [pixels_of(data, each, part) for each, part in zip(given, PARTS, strict=False)]
    (train, marks), (test, test_marks) = found[0], found[-1]
    if train.images.shape[1:] != test.images.shape[1:]:
        raise different(data, "a training image", train.images[0], "a test image", test.images[0])
    classes = classes_of(data, given[0], train, test)
    if data.test_share:
        tested = balanced(train.labels, round(data.test_share * len(marks)))
        if not len(tested):
            raise UserError(f"data.test_share={data.test_share:g} of {len(marks)} images leaves none to test on")
        trained = np.setdiff1d(np.arange(len(marks)), tested)
        marks, test_marks = [marks[place] for place in trained], [marks[place] for place in tested]
        train, test = train.take(trained), train.take(tested)
    lines = (
        f"{part}\0{label}\0{mark.hex()}\n"
        for part, pixels, of_part in zip(PARTS, (train, test), (marks, test_marks), strict=True)
        for label, mark in zip(pixels.labels.tolist(), of_part, strict=True)
    )
    learnt = set(marks)
    return Read(f"contents {digest_of(lines)}", classes, train, test, sum(mark in learnt for mark in test_marks))
