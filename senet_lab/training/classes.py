"""What classes are called, and which of them a user means."""

from __future__ import annotations

import re
from collections.abc import Sequence
from difflib import get_close_matches
from typing import Any

import numpy as np

from senet_lab.config import Data, UserError
from senet_lab.training import data as images
from senet_lab.training import trees
from senet_lab.training.feeds import FolderFeed, TensorFeed

Array = np.ndarray[Any, Any]

ALL = "all classes"  # in place of a class's name: the images of all of them

# The paper's four, and what is needed to call classes of ImageNet and Imagenette by name. "plane" is the woodworking
# plane. The first two are those of figure 7.
PAPER = ("goldfish", "plane", "pug", "cliff")
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


def names_of(data: Data, facts: images.DataFacts | images.Splits) -> list[str]:
    """What the classes are called, in the order of their labels: names where they are known (CIFAR's, ImageNet's and
    Imagenette's), else those of the data set. The files must have been checked (`images.load` does)."""
    names = list(facts.classes)
    if data.name in images.CIFAR:
        names = list(images.cifar_class(data)(trees.root_of(data), train=False).classes)
    elif data.name == "folder":
        known = dict(WORDNET)
        if len(names) == 1000 and all(re.fullmatch(r"n\d{8}", name) for name in names):
            from torchvision.models import ResNet50_Weights

            known = dict(zip(names, ResNet50_Weights.IMAGENET1K_V1.meta["categories"], strict=True)) | known
        called = [known.get(name, name) for name in names]
        names = [new if called.count(new) == 1 else name for name, new in zip(names, called, strict=True)]
    return [f"class {name}" if name == ALL else name for name in names]


def choose(words: Sequence[str] | None, names: Sequence[str], facts: images.DataFacts, counts_K: Array) -> list[int]:
    """Labels of the classes to show.

    Args:
        words: names, the data set's own names (folders), or labels; None takes the paper's four if they are all there,
            else four spread evenly over the classes that have test images.
        names: of the classes (`names_of`).
        facts: of the data set.
        counts_K: test images of each class.

    Raises:
        UserError: for a class that does not exist or has no test images.
    """
    if words is None:
        if set(PAPER) <= set(names) and all(counts_K[names.index(name)] for name in PAPER):
            return [names.index(name) for name in PAPER]
        present = np.flatnonzero(counts_K)
        return [int(label) for label in spread(present, 4)]
    known = {str(label): label for label in range(len(names))}
    known |= {name: label for label, name in enumerate(facts.classes)}
    known |= {name: label for label, name in enumerate(names)}
    chosen = []
    for word in words:
        if word not in known:
            near = get_close_matches(word, known, n=1)
            guess = f" (did you mean {near[0]}?)" if near else ""
            some = ", ".join(names[:10]) + (f", … ({len(names)} in all)" if len(names) > 10 else "")
            raise UserError(
                f"--classes: there is no class '{word}'{guess}; there are {some}, or by label 0 to {len(names) - 1}"
            )
        if not counts_K[known[word]]:
            raise UserError(f"--classes: there are no test images of class '{word}'")
        chosen.append(known[word])
    return list(dict.fromkeys(chosen))


def spread(values: Array, count: int) -> Array:
    """Up to `count` of the values, evenly spaced from the first to the last."""
    places = np.unique(np.linspace(0, len(values) - 1, min(count, len(values))).round().astype(int))
    chosen: Array = values[places]
    return chosen


def labels_of(feed: TensorFeed | FolderFeed) -> trees.Labels:
    """The labels of a split, without reading its images."""
    if isinstance(feed, TensorFeed):
        labels: trees.Labels = feed.labels_N.numpy()
        return labels
    return trees.labels_of(feed.files)
