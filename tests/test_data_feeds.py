"""How splits are fed: order, augmentation and normalisation against straightforward second implementations."""

from __future__ import annotations

import dataclasses
import hashlib
import multiprocessing
import random
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits
from torch import Tensor
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder
from torchvision.models import ResNet50_Weights
from torchvision.transforms import v2

from senet_lab.config import Data, RunError, UserError
from senet_lab.training.augment import AUGMENTS, crop, cutout, flip
from senet_lab.training.data import load_splits
from senet_lab.training.feeds import DecodedImages, FolderFeed, TensorFeed
from senet_lab.training.images import Files
from senet_lab.training.sampling import mix_seed
from senet_lab.training.sources import SOURCES
from senet_lab.training.transforms import ManyViews, image_transform

DIGITS = Data(augment="crop", validation=0.2)
FORKS = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")  # Python 3.12


def picture(number: int, width: int = 24, height: int = 20, mode: str = "RGB") -> Image.Image:
    """A smooth picture that no other number has."""
    y, x = np.mgrid[:height, :width]
    shades = [127 + 120 * np.sin(x / (3 + number) + phase) * np.cos(y / 5 + number) for phase in range(3)]
    return Image.fromarray(np.stack(shades, axis=2).astype(np.uint8)).convert(mode)


def make_tree(root: Path, classes: dict[str, int], trees: Iterable[str] = ("train", "val")) -> Data:
    """A tree of PNGs, `classes` giving the number of training images; a third as many test. Returns how to read it."""
    number = 0
    for tree in trees:
        for name, count in classes.items():
            (root / tree / name).mkdir(parents=True)
            for position in range(count if tree == "train" else -(-count // 3)):
                number += 1
                picture(number).save(root / tree / name / f"{position}.png")
    return Data(name="folder", root=str(root), size=16, resize=18, augment="imagenet", validation=0.25)


def fed(feed: object, *words: int) -> list[tuple[Tensor, Tensor]]:
    return list(feed.batches(*words))  # type: ignore[attr-defined]


def same(some: list[tuple[Tensor, Tensor]], others: list[tuple[Tensor, Tensor]]) -> bool:
    pairs = zip(some, others, strict=True)
    return all(torch.equal(x, u) and torch.equal(y, v) for (x, y), (u, v) in pairs)


# ---------------------------------------------------------------------------------------------------------------------
# Seeds


def test_mixed_is_the_same_on_every_machine() -> None:
    assert mix_seed(0, 0) == 32427355610392981
    assert mix_seed(3, 17) == 45544283922656097
    assert len({mix_seed(seed, epoch) for seed in range(100) for epoch in range(100)}) == 10_000
    assert mix_seed(1, 23) != mix_seed(12, 3)
    assert 0 <= mix_seed(1, 2, 3) < 2**63


# ---------------------------------------------------------------------------------------------------------------------
# In memory


@pytest.mark.parametrize("batch_size", [1, 7, 32, 718, 5000])
def test_an_epoch_holds_every_image_once(batch_size: int) -> None:
    feed = load_splits(dataclasses.replace(DIGITS, augment="none")).train
    batches = fed(feed, batch_size, 0, 0)
    assert len(batches) == len(feed.batches(batch_size, 0, 0))
    x, y = (torch.cat(parts) for parts in zip(*batches, strict=True))
    plain, labels = (torch.cat(parts) for parts in zip(*fed(feed, batch_size), strict=True))
    assert torch.equal(labels, feed.labels_N)
    order, original = x.flatten(1).tolist(), plain.flatten(1).tolist()
    assert order != original
    assert sorted(zip(order, y.tolist(), strict=True)) == sorted(zip(original, labels.tolist(), strict=True))


@pytest.mark.parametrize(
    ("count", "batch_size", "sizes"), [(9, 4, [4, 4]), (10, 4, [4, 4, 2]), (1, 4, [1]), (3, 1, [1] * 3)]
)
def test_no_batch_of_a_single_image_trains(count: int, batch_size: int, sizes: list[int]) -> None:
    data = dataclasses.replace(DIGITS, augment="none")
    feed = TensorFeed(torch.zeros(count, 1, 8, 8, dtype=torch.uint8), torch.arange(count), data)
    assert [len(y) for _, y in fed(feed, batch_size, 0, 0)] == sizes
    assert len(feed.batches(batch_size, 0, 0)) == len(sizes)
    assert sum(len(y) for _, y in fed(feed, batch_size)) == count


def test_batches_depend_on_seed_and_epoch_alone() -> None:
    feed = load_splits(DIGITS).train
    torch.manual_seed(1)
    first = fed(feed, 64, 3, 5)
    torch.manual_seed(2)
    torch.rand(7)
    before = torch.get_rng_state()
    batches = feed.batches(64, 3, 5)
    assert same(first, list(batches))
    assert same(first, list(batches))  # a second time over
    assert torch.equal(before, torch.get_rng_state())
    assert not same(first, fed(feed, 64, 3, 6))
    assert not same(first, fed(feed, 64, 4, 5))


# As everybody has them: of CIFAR's 50,000 training images, and torchvision's of ImageNet.
KNOWN = {
    "digits": ([0.3075], [0.3770]),
    "cifar10": ([0.4914, 0.4822, 0.4465], [0.2470, 0.2435, 0.2616]),
    "cifar100": ([0.5071, 0.4865, 0.4409], [0.2673, 0.2564, 0.2762]),
    "folder": (ResNet50_Weights.IMAGENET1K_V1.transforms().mean, ResNet50_Weights.IMAGENET1K_V1.transforms().std),
}


@pytest.mark.parametrize("name", SOURCES)
def test_normalisation(name: str) -> None:
    """(pixel / 255 - mean) / standard deviation, each channel by itself; nothing else in evaluation."""
    mean, std = KNOWN[name]
    images = torch.randint(0, 256, (5, len(mean), 8, 8), dtype=torch.uint8)
    feed = TensorFeed(images, torch.arange(5), Data(name=name, augment="cifar"))
    x = torch.cat([x for x, _ in feed.batches(2)]).numpy().astype(np.float64)
    for channel in range(len(mean)):
        expected = (images[:, channel].numpy() / 255 - mean[channel]) / std[channel]
        np.testing.assert_allclose(x[:, channel], expected, atol=1e-6)


def test_statistics_of_the_digits_are_those_of_their_training_half() -> None:
    pixels = np.rint(load_digits().images[:898] * 255 / 16) / 255
    (mean,), (std,) = SOURCES["digits"].statistics
    assert mean == pytest.approx(pixels.mean(), abs=5e-4)
    assert std == pytest.approx(pixels.std(), abs=5e-4)


# ---------------------------------------------------------------------------------------------------------------------
# Augmentation


def flip_one(image: list[list[int]]) -> list[list[int]]:
    return [row[::-1] for row in image]


def crop_one(image: list[list[int]], top: int, left: int, pad: int) -> list[list[int]]:
    height, width = len(image), len(image[0])

    def pixel(y: int, x: int) -> int:
        return image[y][x] if 0 <= y < height and 0 <= x < width else 0

    return [[pixel(y + top - pad, x + left - pad) for x in range(width)] for y in range(height)]


@pytest.mark.parametrize("size", [8, 32])
@pytest.mark.parametrize("channels", [1, 3])
def test_crop_and_flip_image_by_image(size: int, channels: int) -> None:
    pad = size // 8
    x = torch.randint(0, 256, (12, channels, size, size), dtype=torch.uint8)
    flipped = flip(x, torch.Generator().manual_seed(4))
    mirrored = torch.rand(12, generator=torch.Generator().manual_seed(4)) < 0.5
    assert 0 < mirrored.sum() < 12
    cropped = crop(x, torch.Generator().manual_seed(5))
    generator = torch.Generator().manual_seed(5)
    tops = torch.randint(2 * pad + 1, (12,), generator=generator).tolist()
    lefts = torch.randint(2 * pad + 1, (12,), generator=generator).tolist()
    for image in range(12):
        for channel in range(channels):
            plain = x[image, channel].tolist()
            assert flipped[image, channel].tolist() == (flip_one(plain) if mirrored[image] else plain)
            assert cropped[image, channel].tolist() == crop_one(plain, tops[image], lefts[image], pad)
    assert cropped.stride() == x.stride()  # another memory format would take other kernels


@pytest.mark.parametrize("size", [8, 32])
def test_crops_take_every_place_equally_often(size: int) -> None:
    pad = size // 8
    places, count = (2 * pad + 1) ** 2, 20_000
    x = torch.zeros(count, 1, size, size, dtype=torch.uint8)
    x[:, :, size // 2, size // 2] = 1  # a single bright pixel tells where the crop was
    found = crop(x, torch.Generator().manual_seed(0)).flatten(1).argmax(1)
    frequencies = torch.bincount(found)[torch.bincount(found) > 0]
    assert len(frequencies) == places
    assert (frequencies - count / places).abs().max() < 5 * (count / places) ** 0.5


def test_augmentations_are_made_of_what_they_say() -> None:
    batch = {name: augment.batch for name, augment in AUGMENTS.items()}
    assert batch == {"none": (), "crop": (crop,), "cifar": (flip, crop), "imagenet": ()}


def test_evaluation_is_never_augmented() -> None:
    mean, std = map(torch.tensor, SOURCES["digits"].statistics)
    for augment in (name for name, each in AUGMENTS.items() if not each.whole):
        splits = load_splits(dataclasses.replace(DIGITS, augment=augment))
        for feed in (splits.validation, splits.test):
            x = torch.cat([x for x, _ in feed.batches(64)])
            assert torch.equal(x, (feed.images_NCHW - mean * 255) / (std * 255))


# ---------------------------------------------------------------------------------------------------------------------
# Cutout


@pytest.mark.parametrize(("size", "side"), [(8, 1), (8, 3), (8, 4), (8, 8), (32, 16), (32, 8)])
def test_cutout_image_by_image(size: int, side: int) -> None:
    """The square around a centre that is anywhere in the image, less what is outside; exactly side² pixels if nothing
    is; all else as it was."""
    x = torch.rand(200, 3, size, size) + 1
    found = cutout(side)(x, torch.Generator().manual_seed(4))
    generator = torch.Generator().manual_seed(4)
    centres = torch.stack([torch.randint(size, (200, 1), generator=generator)[:, 0] for _ in "yx"], 1).tolist()
    inside = 0
    for image, (y, x0) in enumerate(centres):
        top, left = y - side // 2, x0 - side // 2
        blank = torch.zeros(size, size, dtype=torch.bool)
        for row in range(max(0, top), min(size, top + side)):
            for column in range(max(0, left), min(size, left + side)):
                blank[row, column] = True
        assert torch.equal(found[image] == 0, blank.expand(3, size, size))
        assert torch.equal(found[image][:, ~blank], x[image][:, ~blank])
        if top >= 0 and left >= 0 and max(top, left) + side <= size:
            inside += 1
            assert blank.sum() == side**2
    assert inside > 0 or side == size  # which fits in one place only


@pytest.mark.parametrize(("size", "side"), [(8, 4), (32, 16)])
def test_how_often_cutout_takes_a_pixel(size: int, side: int) -> None:
    """A pixel goes with the share of centres whose square reaches it: (side / size)² in the middle, about a quarter of
    it in the corners."""
    count, reach = 20_000, range(-(side // 2), side - side // 2)
    taken = cutout(side)(torch.ones(count, 1, size, size), torch.Generator().manual_seed(0))[:, 0] == 0
    along = torch.tensor([sum(0 <= pixel - step < size for step in reach) / size for pixel in range(size)])
    expected = along[:, None] * along[None]
    assert expected.max() == pytest.approx((side / size) ** 2)
    spread = (expected * (1 - expected) / count).sqrt()
    assert ((taken.double().mean(0) - expected).abs() < 5 * spread).all()


def test_cutout_comes_last_and_in_training_only() -> None:
    """Blank is 0 once normalised; the other augmentation is that of the same numbers."""
    plain, cut = (load_splits(dataclasses.replace(DIGITS, cutout=cutout)) for cutout in (0, 4))
    (x, y), *_ = fed(plain.train, 64, 3, 5)
    (x_cut, y_cut), *_ = fed(cut.train, 64, 3, 5)
    assert torch.equal(y, y_cut)
    assert torch.equal(x_cut[x_cut != 0], x[x_cut != 0])
    assert 4 <= (x_cut == 0).flatten(1).sum(1).min() <= (x_cut == 0).flatten(1).sum(1).max() == 16
    assert same(fed(cut.train, 64, 3, 5), fed(cut.train, 64, 3, 5))
    assert not same(fed(cut.train, 64, 3, 5), fed(cut.train, 64, 3, 6))
    for split in ("validation", "test"):
        assert same(fed(getattr(plain, split), 64), fed(getattr(cut, split), 64))


# ---------------------------------------------------------------------------------------------------------------------
# Class-balanced sampling


COUNTS = {0: 3, 1: 50, 3: 7, 4: 140}  # class 2 is not there


def lopsided() -> TensorFeed:
    """A training split with so many images of each class; every pixel of an image is its number."""
    labels = [label for label, count in COUNTS.items() for _ in range(count)]
    images = torch.arange(200, dtype=torch.uint8)[:, None, None, None].expand(-1, 1, 2, 2)
    return TensorFeed(images, torch.tensor(labels), Data())


def drawn(seed: int, epoch: int, batch_size: int = 16) -> list[tuple[int, int]]:
    """(number, label) of each image of a balanced epoch, in order."""
    feed = lopsided()
    batches = list(feed.batches(batch_size, seed, epoch, "balanced"))
    numbers = torch.cat([x[:, 0, 0, 0] for x, _ in batches]) * feed.normalised.std.item() + feed.normalised.mean.item()
    return list(zip(numbers.round().int().tolist(), torch.cat([y for _, y in batches]).tolist(), strict=True))


def test_a_balanced_epoch_shows_every_class_equally_often() -> None:
    """50 images of each of the four classes, of the largest 50 different ones; no class waits for long."""
    images = drawn(0, 0)
    assert len(images) == 200
    assert all(lopsided().labels_N[number] == label for number, label in images)
    for label, count in COUNTS.items():
        times = Counter(number for number, other in images if other == label)
        assert sum(times.values()) == 50
        assert len(times) == min(count, 50)
        assert max(times.values()) - min(times.values()) <= (50 % count > 0 and count < 50)
    labels = [label for _, label in images]
    assert all(sorted(labels[at : at + 4]) == sorted(COUNTS) for at in range(0, 200, 4))
    assert len({tuple(labels[at : at + 4]) for at in range(0, 200, 4)}) > 10  # in ever new orders


def test_over_epochs_every_image_of_a_class_is_drawn_equally_often() -> None:
    epochs = 300
    times = Counter(number for epoch in range(epochs) for number, label in drawn(1, epoch) if label == 4)
    share = 50 / 140
    assert len(times) == 140
    spread = (epochs * share * (1 - share)) ** 0.5
    assert all(abs(times[number] - epochs * share) < 5 * spread for number in times)


def test_balanced_sampling_depends_on_seed_and_epoch_alone() -> None:
    torch.manual_seed(1)
    first, before = drawn(3, 5), torch.get_rng_state()
    assert drawn(3, 5) == first
    assert torch.equal(before, torch.get_rng_state())
    assert drawn(3, 6) != first
    assert drawn(4, 5) != first
    assert drawn(3, 5, batch_size=7) == first
    assert drawn(3, 5, batch_size=199) == first[:199]  # never a last batch of one image


def test_a_folder_is_sampled_likewise(tmp_path: Path) -> None:
    feed = load_splits(
        make_tree(tmp_path, {"ant": 4, "bee": 20, "cat": 8})
    ).train  # less a quarter of each: 3, 15 and 6
    labels = torch.cat([y for _, y in feed.batches(4, 0, 0, "balanced")])
    assert labels.bincount().tolist() == [8, 8, 8]
    assert same(fed(feed, 4, 0, 0, "balanced"), fed(feed, 4, 0, 0, "balanced"))  # type: ignore[arg-type]


def test_cutout_in_a_folder(tree: Data) -> None:
    """Blanked last, from the image's own numbers; nothing else changes, and testing sees all."""
    plain, cut = load_splits(tree), load_splits(replace(tree, cutout=6))
    for (x, y), (x_cut, y_cut) in zip(fed(plain.train, 4, 1, 2), fed(cut.train, 4, 1, 2), strict=True):
        blank = (x_cut == 0).all(1)
        assert torch.equal(y, y_cut)
        assert torch.equal(x_cut, x.masked_fill(blank[:, None], 0))
        assert 9 <= blank.flatten(1).sum(1).min() <= blank.flatten(1).sum(1).max() <= 36
    assert same(fed(plain.test, 4), fed(cut.test, 4))


def test_without_either_batches_are_what_they_always_were() -> None:
    """To the last bit, as published results need it."""
    pixels = torch.arange(300 * 3 * 32 * 32).mul(2654435761).remainder(256).to(torch.uint8).reshape(300, 3, 32, 32)
    cifar = TensorFeed(pixels, torch.arange(300) % 10, Data(name="cifar10", size=32, augment="cifar"))
    for feed, words, expected in (
        (load_splits(DIGITS).train, (32, 3, 5), "ff69bf5b1e3c8b6f"),
        (cifar, (128, 0, 1), "976c853d2fdfaae1"),
    ):
        digest = hashlib.sha256()
        for x, y in feed.batches(*words):
            digest.update(x.numpy().tobytes() + y.numpy().tobytes())
        assert digest.hexdigest()[:16] == expected


# ---------------------------------------------------------------------------------------------------------------------
# From a folder


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Data:
    return make_tree(tmp_path_factory.mktemp("tree"), {"cat": 9, "ant": 6, "dog": 5})


def test_a_folder_reads_as_torchvisions_does(tree: Data) -> None:
    mean, std = SOURCES["folder"].statistics
    steps = [
        v2.Resize(18),
        v2.CenterCrop(16),
        v2.ToImage(),
        v2.ToDtype(torch.float32, scale=True),
        v2.Normalize(mean, std),
    ]
    theirs = ImageFolder(str(Path(tree.root) / "val"), transform=v2.Compose(steps))
    ours = load_splits(tree).test
    assert len(ours) == len(theirs) == 7
    assert [y for _, y in ours.files] == theirs.targets
    x, y = (torch.cat(parts) for parts in zip(*fed(ours, 3), strict=True))
    expected, labels = next(iter(DataLoader(theirs, batch_size=7)))
    assert torch.equal(x, expected)
    assert torch.equal(y, labels)


def test_the_splits_of_a_folder_are_disjoint_and_whole(tree: Data) -> None:
    splits = load_splits(tree)
    train, validation = set(splits.train.files), set(splits.validation.files)
    assert not train & validation
    everything = ImageFolder(str(Path(tree.root) / "train"))
    assert train | validation == set(everything.samples)
    assert len(validation) == 5


def test_the_test_transform_by_hand() -> None:
    """A picture of the size that it is resized to anyway, so that nothing is interpolated: the centre, normalised."""
    image = picture(1, width=24, height=18)
    x = image_transform(Data(name="folder", size=16, resize=18), training=False)(image).numpy()
    mean, std = SOURCES["folder"].statistics
    expected = (np.asarray(image)[1:17, 4:20] / 255 - mean) / std
    np.testing.assert_allclose(x.transpose(1, 2, 0), expected, atol=1e-6)


@pytest.mark.parametrize(("size", "resize", "expected"), [(224, 0, 256), (224, 288, 288), (299, 0, 352), (64, 0, 73)])
def test_the_short_side_of_test_images(size: int, resize: int, expected: int) -> None:
    steps = image_transform(Data(name="folder", size=size, resize=resize), training=False).transforms
    assert steps[0].size == [expected]
    assert steps[1].size == (size, size)


def test_ten_crops_by_hand() -> None:
    """Corners and centre of a picture that need not be interpolated, and their mirror images."""
    image = picture(1, width=24, height=18)
    x_VCHW = ManyViews(Data(name="folder", size=16, resize=18, crops=10))(image).numpy()
    mean, std = SOURCES["folder"].statistics
    pixels = (np.asarray(image) / 255 - mean) / std
    five = [pixels[top : top + 16, left : left + 16] for top, left in ((0, 0), (0, 8), (2, 0), (2, 8), (1, 4))]
    mirrored = [five[corner][:, ::-1] for corner in (1, 0, 3, 2, 4)]  # left is right in a mirror
    expected = np.stack(five + mirrored)
    np.testing.assert_allclose(x_VCHW.transpose(0, 2, 3, 1), expected, atol=1e-6)


def test_views_at_several_scales(tree: Data) -> None:
    """The centre at each scale is what the plain test sees when it resizes to that scale."""
    feed = load_splits(replace(tree, scales=[18, 24])).test
    x_BVCHW = torch.cat([x for x, _ in feed.test_batches(4)])
    assert x_BVCHW.shape[:2] == (7, 2)
    for view, side in enumerate((18, 24)):
        plain = torch.cat([x for x, _ in load_splits(replace(tree, resize=side)).test.test_batches(4)])
        assert torch.equal(x_BVCHW[:, view], plain)
    both = load_splits(replace(tree, scales=[18, 24], crops=10)).test
    assert next(iter(both.test_batches(20)))[0].shape == (1, 20, 3, 16, 16)


@pytest.mark.parametrize(
    ("fields", "word"),
    [
        ({"cutout": -1}, "data.cutout=-1 is not between 0 and data.size=16"),
        ({"cutout": 17}, "data.cutout=17 is not between 0 and data.size=16"),
        ({"crops": 5}, "data.crops: 5 is neither 1 nor 10"),
        ({"scales": [20, 8]}, "data.scales: 8 is less than data.size=16"),
        ({"name": "digits", "size": 8, "augment": "none", "crops": 10}, "these are for folder"),
    ],
)
def test_views_and_cutouts_that_cannot_be(tree: Data, fields: dict[str, Any], word: str) -> None:
    with pytest.raises(UserError, match=re.escape(word)):
        load_splits(replace(tree, **fields))


def test_the_training_transform_is_the_papers() -> None:
    """Random resized crop of 8-100% of the area, aspect 3/4 to 4/3, then a flip (section 5.1)."""
    cropped, flipped, _ = image_transform(Data(name="folder", size=32, augment="imagenet"), training=True).transforms
    assert (cropped.size, cropped.scale, cropped.ratio) == ((32, 32), (0.08, 1.0), (3 / 4, 4 / 3))
    assert flipped.p == 0.5
    for size, pad in ((32, 4), (8, 1)):  # CIFAR's way for files: flip, pad an eighth with zeros, crop
        data = Data(name="folder", size=size, augment="cifar")
        flipped, cropped, _ = image_transform(data, training=True).transforms[2:]
        assert (flipped.p, cropped.size, cropped.padding, cropped.fill) == (0.5, (size, size), [pad] * 4, 0)
        assert cropped.padding_mode == "constant"


def test_training_images_differ_between_epochs_and_seeds_alone(tree: Data) -> None:
    feed = load_splits(tree).train
    torch.manual_seed(1)
    first = fed(feed, 4, 3, 5)
    torch.manual_seed(2)
    before = torch.get_rng_state()
    assert same(first, fed(feed, 4, 3, 5))
    assert torch.equal(before, torch.get_rng_state())
    assert not same(first, fed(feed, 4, 3, 6))
    assert not same(first, fed(feed, 4, 4, 5))
    assert sorted(torch.cat([y for _, y in first]).tolist()) == sorted(label for _, label in feed.files)


def test_the_order_of_files_depends_on_seed_and_epoch(tree: Data) -> None:
    feed = load_splits(dataclasses.replace(tree, augment="none")).train
    first = fed(feed, 4, 3, 5)
    assert same(first, fed(feed, 4, 3, 5))
    for others in (fed(feed, 4, 3, 6), fed(feed, 4, 4, 5), fed(feed, 4)):
        assert not same(first, others)
        assert [len(y) for _, y in first] == [len(y) for _, y in others]


def test_every_image_is_cut_by_itself(tree: Data) -> None:
    files = load_splits(tree).train.files.take(np.zeros(20, int))
    decoded = DecodedImages(files, image_transform(tree, training=True), 0)
    assert len({tuple(decoded[0, index, 0][0].flatten().tolist()) for index in range(20)}) == 20


@FORKS
def test_workers_change_nothing(tree: Data) -> None:
    alone, helped = (load_splits(dataclasses.replace(tree, workers=workers)) for workers in (0, 2))
    assert same(fed(alone.train, 4, 1, 2), fed(helped.train, 4, 1, 2))
    assert same(fed(alone.test, 4), fed(helped.test, 4))


@FORKS
def test_processes_that_decode_go_on_from_epoch_to_epoch(tree: Data) -> None:
    """Their images are those of processes that begin with each epoch, also after one that was left early; closed, they
    end."""
    feed, before = load_splits(dataclasses.replace(tree, workers=1)).train, set(multiprocessing.active_children())
    assert isinstance(feed, FolderFeed)
    pids = []
    for epoch in range(3):
        next(iter(feed.batches(4, 1, epoch + 5)))
        assert same(fed(feed, 4, 1, epoch), fed(load_splits(tree).train, 4, 1, epoch))
        pids.append({process.pid for process in multiprocessing.active_children() if process not in before})
    assert len(pids[0]) == 1
    assert pids[0] == pids[1] == pids[2]
    feed.close()
    assert not set(multiprocessing.active_children()) - before


@FORKS
@pytest.mark.parametrize("workers", [0, 1])
def test_an_image_that_is_cut_short_is_named(tmp_path: Path, workers: int) -> None:
    data = dataclasses.replace(make_tree(tmp_path, {"a": 4, "b": 4}), workers=workers)
    damaged = tmp_path / "val" / "b" / "0.png"
    damaged.write_bytes(damaged.read_bytes()[:-200])
    with pytest.raises(RunError) as caught:
        fed(load_splits(data).test, 2)
    assert str(caught.value).startswith(f"the image {damaged} cannot be read: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", ["png", "jpeg", "bmp", "tiff", "webp", "ppm"])
def test_no_damage_to_a_file_gets_past_its_name(tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"image.{kind}"
    picture(3).save(path)
    whole, chance = path.read_bytes(), random.Random(kind)
    decoded = DecodedImages(
        Files([str(path)], np.array([7])), image_transform(Data(name="folder", size=8, resize=8), False), None
    )
    x, label = decoded[0, 0, 0]
    assert (x.shape, label) == ((3, 8, 8), 7)
    faults = 0
    for _ in range(60):
        damaged = bytearray(whole[: chance.randrange(len(whole))] if chance.random() < 0.5 else whole)
        for _ in range(chance.randrange(1, 6) if damaged else 0):
            damaged[chance.randrange(min(len(damaged), 200))] = chance.randrange(256)
        path.write_bytes(damaged)
        found = decoded[0, 0, 0]
        faults += isinstance(found, RunError)
        assert str(path) in str(found) if isinstance(found, RunError) else found[0].shape == (3, 8, 8)
    assert faults > 20
