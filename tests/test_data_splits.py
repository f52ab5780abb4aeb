"""Which images train, validate and test: disjoint, whole, balanced, and the same for every row and seed."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from senet_lab.compose import choices, compose
from senet_lab.config import Data, UserError
from senet_lab.training import data as images
from senet_lab.training.data import data_facts, load_splits
from senet_lab.training.images import balanced, split_counts, split_indices
from senet_lab.training.sources import SOURCES

DIGITS = Data(augment="crop", validation=0.2)
# labels of some data sets: even, uneven, ordered, shuffled, with a class of a single image
LABELS = {
    "even": np.repeat(np.arange(10), 50),
    "uneven": np.repeat(np.arange(4), [100, 50, 25, 1]),
    "shuffled": np.random.RandomState(1).randint(0, 7, 333),
    "one class": np.zeros(40, dtype=np.int64),
}


@pytest.mark.parametrize("labels", LABELS.values(), ids=LABELS)
@pytest.mark.parametrize("subset", [None, 1, 17, 60, 10_000])
@pytest.mark.parametrize("validation", [0.1, 0.25, 0.5])
def test_parts_are_disjoint_and_as_many_as_said(labels: np.ndarray, subset: int | None, validation: float) -> None:
    data = dataclasses.replace(DIGITS, validation=validation, subset=subset, test_subset=subset)
    train, held_out, test = split_indices(data, labels, labels)
    assert not set(train) & set(held_out)
    assert (len(train), len(held_out), len(test)) == split_counts(data, len(labels), len(labels))
    for index in (train, held_out, test):
        assert np.array_equal(index, np.unique(index))  # ascending, none twice
        assert index.min() >= 0
        assert index.max() < len(labels)
    if subset in (None, 10_000):
        assert len(train) + len(held_out) == len(labels)
        assert len(test) == len(labels)
        assert len(held_out) == round(validation * len(labels))
    else:
        assert len(train) == min(subset, len(labels) - round(validation * len(labels)))
        assert len(test) == min(subset, len(labels))


@pytest.mark.parametrize("labels", LABELS.values(), ids=LABELS)
def test_every_class_is_present_in_proportion(labels: np.ndarray) -> None:
    for count in range(1, len(labels) + 1, 7):
        expected = np.bincount(labels) * count / len(labels)
        assert np.all(np.abs(np.bincount(labels[balanced(labels, count)], minlength=len(expected)) - expected) <= 1)


def test_each_part_is_balanced() -> None:
    """Also where the images lie class by class, as in a folder."""
    labels = LABELS["even"]
    data = dataclasses.replace(DIGITS, subset=100, test_subset=50)
    train, validation, test = (np.bincount(labels[index]).tolist() for index in split_indices(data, labels, labels))
    assert train == [10] * 10
    assert sorted(validation) == [2] * 5 + [3] * 5
    assert test == [5] * 10


def test_what_is_chosen_never_changes() -> None:
    """A trial's id says how many images were chosen, not which: they have to be the same for good."""
    assert balanced(np.arange(30) % 3, 9).tolist() == [2, 6, 10, 11, 13, 24, 26, 27, 28]


@pytest.mark.parametrize("labels", LABELS.values(), ids=LABELS)
def test_a_smaller_choice_lies_within_a_larger_one(labels: np.ndarray) -> None:
    chosen = [set(balanced(labels, count)) for count in range(1, len(labels) + 1)]
    assert all(small < large for small, large in itertools.pairwise(chosen))


def test_subsets_never_take_what_validates_without_them() -> None:
    """A study on a subset may be compared with one on all images: what trains there never validates here."""
    labels = LABELS["even"]
    held_out = set(split_indices(DIGITS, labels, labels)[1])
    for subset in (10, 100, 400):
        train, validation, _ = split_indices(dataclasses.replace(DIGITS, subset=subset), labels, labels)
        assert not set(train) & held_out
        assert set(validation) <= held_out


def test_a_subset_validates_on_its_share() -> None:
    assert split_counts(Data(validation=0.1), 50_000, 10_000) == (45_000, 5_000, 10_000)
    assert split_counts(Data(validation=0.1, subset=4_500), 50_000, 10_000) == (4_500, 500, 10_000)
    assert split_counts(Data(validation=0.1, subset=4), 50_000, 10_000) == (4, 1, 10_000)
    assert split_counts(Data(validation=0.1, subset=60_000, test_subset=100), 50_000, 10_000) == (45_000, 5_000, 100)


def test_what_the_splits_are_depends_on_no_generator() -> None:
    torch.manual_seed(1)
    np.random.seed(1)
    first = split_indices(DIGITS, LABELS["shuffled"], LABELS["even"])
    torch.manual_seed(2)
    np.random.seed(2)
    again = split_indices(DIGITS, LABELS["shuffled"], LABELS["even"])
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))


# ---------------------------------------------------------------------------------------------------------------------
# The digits


def test_digits_are_scikit_learns_and_every_image_is_used_once() -> None:
    bunch = load_digits()
    pixels, labels = bunch.images * 255 / 16, bunch.target
    splits = load_splits(DIGITS)
    assert len(splits.train) + len(splits.validation) == 898
    assert len(splits.test) == 899
    pairs = sorted(
        (tuple(x.flatten().tolist()), y)
        for feed in (splits.train, splits.validation)
        for x, y in zip(feed.images_NCHW, feed.labels_N.tolist(), strict=True)
    )
    first = zip(np.rint(pixels[:898]).astype(int), labels[:898], strict=True)
    assert pairs == sorted((tuple(x.flatten()), y) for x, y in first)
    assert np.abs(splits.test.images_NCHW.numpy()[:, 0] - pixels[898:]).max() <= 0.5
    assert np.array_equal(splits.test.labels_N, labels[898:])


def test_digits_are_held_out_evenly() -> None:
    splits = load_splits(DIGITS)
    for feed in (splits.train, splits.validation):
        shares = torch.bincount(feed.labels_N) / len(feed)
        assert shares.min() > 0.09
        assert shares.max() < 0.11


def test_facts_of_the_digits() -> None:
    known = data_facts(DIGITS)
    assert known.identity == "digits 0b7e9c3202d7bcd2"  # the trial ids of published tables depend on it
    assert (known.train, known.validation, known.test) == (718, 180, 899)
    assert (known.classes, known.channels) == (tuple("0123456789"), 1)


@pytest.mark.parametrize("subset", [None, 1, 50, 5000])
def test_facts_state_what_is_loaded(subset: int | None) -> None:
    data = dataclasses.replace(DIGITS, subset=subset, test_subset=subset)
    known, splits = data_facts(data), load_splits(data)
    assert (known.train, known.validation, known.test) == tuple(
        len(feed) for feed in (splits.train, splits.validation, splits.test)
    )


@pytest.mark.parametrize(("name", "classes"), [("cifar10", 10), ("cifar100", 100)])
def test_facts_of_cifar_need_no_files(name: str, classes: int) -> None:
    known = data_facts(Data(name=name, size=32, augment="cifar", root="nowhere"))
    assert (known.train, known.validation, known.test, known.channels) == (45_000, 5_000, 10_000, 3)
    assert len(known.classes) == classes
    assert known.identity == f"{name.upper()} official md5"


# ---------------------------------------------------------------------------------------------------------------------
# The choices


def test_data_files_say_what_the_paper_does_with_each_set() -> None:
    """Section 5.1; the digits are ours."""
    said = {
        "digits": Data("digits", size=8, augment="crop", validation=0.2),
        "cifar10": Data("cifar10", size=32, augment="cifar", validation=0.1),
        "cifar100": Data("cifar100", size=32, augment="cifar", validation=0.1),
        "folder": Data("folder", size=224, augment="imagenet", validation=0.1, workers=2),
    }
    assert {name: compose([f"data={name}"]).config.data for name in choices("data")} == said
    assert set(said) == set(SOURCES)
    for data in said.values():
        images.check_data(data)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"name": "mnist"}, ["mnist", *SOURCES]),
        ({"augment": "imagenet"}, ["imagenet", "none", "crop", "cifar"]),
        ({"name": "folder", "augment": "mixup"}, ["mixup", "none", "crop", "cifar", "imagenet"]),
        ({"mean": [0.5], "std": [0.2]}, ["data.mean", "digits", "folder"]),
        ({"name": "folder", "augment": "none", "mean": [0.5], "std": []}, ["data.mean", "data.std"]),
        ({"name": "folder", "augment": "none", "mean": [0.5, 0.4], "std": [0.2, 0.2]}, ["one number each", "three"]),
        ({"name": "folder", "augment": "none", "mean": [0.5], "std": [0.0]}, ["data.std=[0.0]", "above 0"]),
        ({"name": "folder", "augment": "none", "mean": [float("nan")], "std": [0.2]}, ["data.mean=[nan]"]),
        ({"validation": -0.1}, ["validation", "-0.1 "]),
        ({"test_share": 0.2}, ["data.test_share", "digits"]),
        ({"name": "folder", "augment": "none", "test_share": 1.0}, ["data.test_share: 1"]),
        ({"identity": "sizes"}, ["sizes", "contents", "names"]),
        ({"validation": 1.0}, ["validation", "1 "]),
        ({"validation": 0.0001}, ["validation", "empty"]),
        ({"validation": 0.9999}, ["validation", "empty"]),
        ({"subset": 0}, ["data.subset", "0"]),
        ({"test_subset": -1}, ["data.test_subset", "-1"]),
        ({"name": "folder", "augment": "none", "size": 224, "resize": 200}, ["data.resize=200", "data.size=224"]),
    ],
)
def test_what_cannot_be_is_refused_by_its_name(changes: dict, words: list[str]) -> None:
    data = dataclasses.replace(DIGITS, **changes)
    with pytest.raises(UserError) as caught:
        data_facts(data)
    assert all(word in str(caught.value) for word in words), str(caught.value)
    assert "\n" not in str(caught.value)
