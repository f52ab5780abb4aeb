"""Data sets by name: what is known of each, how its images are read, and what its classes are called.

A data set is one entry of `SOURCES`; one with a colon in its name is torchvision's or the user's (`datasets`).
"""

from __future__ import annotations

import hashlib
import importlib.util
import pickle
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from senet_lab.config import Data, UserError, near
from senet_lab.training import folder
from senet_lab.training.datasets import Named
from senet_lab.training.folder import root_of, unreadable
from senet_lab.training.images import ImageIndex, Pixels, Source

# Classes of ImageNet and Imagenette by name; first the four that the paper shows. "plane" is the woodworking plane.
WORDNET = {
    "n01443537": "goldfish",
    "n03954731": "plane",
    "n02110958": "pug",
    "n09246464": "cliff",
    "n01440764": "tench",
    "n02102040": "English springer",
    "n02979186": "cassette player",
    "n03000684": "chain saw",
    "n03028079": "church",
    "n03394916": "French horn",
    "n03417042": "garbage truck",
    "n03425413": "gas pump",
    "n03445777": "golf ball",
    "n03888257": "parachute",
}


class Digits(Source):
    """scikit-learn's handwritten digits: (1797, 1, 8, 8), 0…16 stretched to 0…255; the first half trains."""

    def index(self, data: Data) -> ImageIndex:
        # From the file that scikit-learn brings, as its `load_digits` does: to import it takes a hundred times as long.
        library = importlib.util.find_spec("sklearn")
        assert library is not None
        lines = np.loadtxt(Path(str(library.origin)).parent / "datasets" / "data" / "digits.csv.gz", delimiter=",")
        images = np.round(lines[:, :-1].reshape(-1, 1, 8, 8) * (255 / 16)).astype(np.uint8)
        labels = lines[:, -1].astype(np.int64)
        digest = hashlib.sha256(images.tobytes() + labels.tobytes()).hexdigest()
        half = len(labels) // 2
        train, test = Pixels(images[:half], labels[:half]), Pixels(images[half:], labels[half:])
        return ImageIndex(
            f"digits {digest[:16]}", tuple(map(str, range(10))), (train.labels, test.labels), lambda: (train, test)
        )


@dataclass(frozen=True)
class Cifar(Source):
    """CIFAR: (50000 and 10000, 3, 32, 32). Its files are pickles: read only after their md5 was compared.

    Attributes:
        official: torchvision's name for it.
        classes: how many there are.
    """

    official: str = ""
    classes: int = 0

    @property
    def dataset_class(self) -> Any:
        """torchvision's class."""
        import torchvision

        return getattr(torchvision.datasets, self.official)

    def index(self, data: Data) -> ImageIndex:
        def read() -> tuple[Pixels, Pixels]:
            self.check(data)
            return self.images(data, train=True), self.images(data, train=False)

        labels = (np.arange(50_000) % self.classes, np.arange(10_000) % self.classes)
        return ImageIndex(f"{self.official} official md5", tuple(map(str, range(self.classes))), labels, read)

    def images(self, data: Data, train: bool) -> Pixels:
        try:
            found = self.dataset_class(root_of(data), train=train)
        except (OSError, RuntimeError, pickle.UnpicklingError) as error:
            raise UserError(f"{data.name}: {error}") from error
        return Pixels(found.data.transpose(0, 3, 1, 2), np.asarray(found.targets, dtype=np.int64))

    def check(self, data: Data) -> None:
        """CIFAR is downloaded here if the user asked for it."""
        from torchvision.datasets.utils import check_integrity

        source = self.dataset_class
        if data.download:
            try:
                source(root_of(data), train=True, download=True)
            except (OSError, RuntimeError) as error:
                raise UserError(f"{data.name} could not be downloaded to {data.root}: {error}") from error
        place = root_of(data) / source.base_folder
        if not place.is_dir():
            raise UserError(
                f"{data.name}: there is no folder {place}; name the folder that holds it with data.root=…, "
                f"or have it downloaded with data.download=true"
            )
        for name, md5 in [*source.train_list, *source.test_list, (source.meta["filename"], source.meta["md5"])]:
            if not (place / name).is_file():
                raise UserError(f"{data.name}: the file {place / name} is missing")
            try:
                whole = check_integrity(str(place / name), md5)
            except OSError as error:
                raise unreadable(data, error) from error
            if not whole:
                raise UserError(f"{data.name}: the file {place / name} is damaged (its md5 is not {md5})")

    def names(self, data: Data, classes: list[str]) -> list[str]:
        return list(self.dataset_class(root_of(data), train=False).classes)


class Folder(Source):
    """A tree of images of one's own; its statistics are ImageNet's where no others are named."""

    def index(self, data: Data) -> ImageIndex:
        return folder.index(data)

    def names(self, data: Data, classes: list[str]) -> list[str]:
        """ImageNet's and Imagenette's names in place of their numbers, where no two classes come to the same one."""
        known = dict(WORDNET)
        if len(classes) == 1000 and all(re.fullmatch(r"n\d{8}", name) for name in classes):
            from torchvision.models import ResNet50_Weights

            known = dict(zip(classes, ResNet50_Weights.IMAGENET1K_V1.meta["categories"], strict=True)) | known
        called = [known.get(name, name) for name in classes]
        return [new if called.count(new) == 1 else name for name, new in zip(classes, called, strict=True)]


SOURCES = {
    "digits": Digits(((0.3075,), (0.3770,)), 8),
    "cifar10": Cifar(((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)), 32, "CIFAR10", 10),
    "cifar100": Cifar(((0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)), 32, "CIFAR100", 100),
    "folder": Folder(((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))),
}


def source_of(name: str) -> Source:
    """The data set of a name.

    Raises:
        UserError: there is none; the line lists the choices.
    """
    if name.startswith("timm:"):
        raise UserError(
            f"data={name}: timm's data sets are torchvision's (data=torchvision:CLASS) and trees of images "
            "(data=folder); for others, a function of yours calls timm.data.create_dataset "
            "(data=package.module:function)"
        )
    if ":" in name:
        return Named(name=name)
    if name not in SOURCES:
        choices = [*SOURCES, "torchvision:CLASS", "package.module:function"]
        raise UserError(
            f"data.name: there is no data set '{name}'{near(name, choices)}; there are {', '.join(choices)}"
        )
    return SOURCES[name]
