"""Trees of images in memory: crops against torchvision's, one by one and as a distribution; the same for every row."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.stats import ks_2samp
from test_data_feeds import fed, make_tree, picture, same
from torch import Tensor
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from senet_lab.config import Data, RunError
from senet_lab.training import memory
from senet_lab.training.augment import AREA, ASPECT, AUGMENTS, TRIES, Change, RaggedImages, boxes, cutout, resampling
from senet_lab.training.data import load_splits
from senet_lab.training.feeds import FolderFeed, TensorFeed
from senet_lab.training.images import Files
from senet_lab.training.memory import size_in_memory

COUNT = 4000


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Data:
    data = make_tree(tmp_path_factory.mktemp("tree"), {"cat": 9, "ant": 6, "dog": 5})
    folder = Path(data.root) / "train" / "ant"
    picture(77, width=30, height=90).save(folder / "tall.png")  # its short side is below twice 16
    picture(78, width=130, height=70).save(folder / "wide.png")  # and this one's is not
    return data


# ---------------------------------------------------------------------------------------------------------------------
# Boxes


def torchvisions(height: int, width: int, count: int) -> np.ndarray:
    """Boxes as torchvision draws them: (count, 4)."""
    crop, image = v2.RandomResizedCrop(8, antialias=True), torch.zeros(1, height, width)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        made = [crop.make_params([image]) for _ in range(count)]
    return np.array([[each[key] for key in ("top", "left", "height", "width")] for each in made])


def ours(height: int, width: int, count: int) -> np.ndarray:
    sizes = torch.tensor([[height, width]]).expand(count, 2)
    return boxes(sizes, torch.Generator().manual_seed(1)).numpy()


@pytest.mark.parametrize(("height", "width"), [(160, 213), (213, 160), (64, 64), (40, 200), (200, 40)])
def test_boxes_are_distributed_as_torchvisions(height: int, width: int) -> None:
    """Area, aspect ratio and place, by two-sample Kolmogorov-Smirnov tests; the last images are so long that the tries
    often fail, and the middle is taken."""
    found, expected = ours(height, width, COUNT), torchvisions(height, width, COUNT)
    assert (found[:, :2] >= 0).all()
    assert (found[:, 0] + found[:, 2] <= height).all()
    assert (found[:, 1] + found[:, 3] <= width).all()
    for name, of in {
        "area": lambda b: b[:, 2] * b[:, 3],
        "aspect": lambda b: b[:, 3] / b[:, 2],
        "top": lambda b: b[:, 0],
        "left": lambda b: b[:, 1],
        "bottom": lambda b: b[:, 0] + b[:, 2],
        "right": lambda b: b[:, 1] + b[:, 3],
    }.items():
        assert ks_2samp(of(found), of(expected)).pvalue > 1e-4, name


def test_what_boxes_are_made_of_is_torchvisions() -> None:
    crop = v2.RandomResizedCrop(8, antialias=True)
    assert (crop.scale, crop.ratio) == (AREA, ASPECT)
    assert TRIES == 10


@pytest.mark.parametrize(("height", "width", "box"), [(10, 100, (0, 43, 10, 13)), (100, 10, (43, 0, 13, 10))])
def test_where_no_try_fits_the_middle_is_taken(height: int, width: int, box: tuple[int, ...]) -> None:
    """An image so long that boxes of 8% or more of its area and an aspect of at most 4/3 never fit, or hardly."""
    found = ours(height, width, 500).tolist()
    assert list(box) in found
    long = ours(height * (1 + 9 * (height > width)), width * (1 + 9 * (width > height)), 50)
    assert len({tuple(each) for each in long.tolist()}) == 1


def test_crops_cover_images_as_torchvisions_do() -> None:
    """How often a pixel is in the box: within five standard deviations of torchvision's share, everywhere."""
    height, width = 24, 32
    shares = []
    for found in (ours(height, width, COUNT), torchvisions(height, width, COUNT)):
        seen = np.zeros((height, width))
        for top, left, h, w in found:
            seen[top : top + h, left : left + w] += 1
        shares.append(seen / COUNT)
    spread = np.sqrt(2 * shares[1] * (1 - shares[1]) / COUNT)
    assert (np.abs(shares[0] - shares[1]) < 5 * spread + 1e-9).all()


# ---------------------------------------------------------------------------------------------------------------------
# Resizing


def some_parts(mode: str = "RGB", side: int = 16) -> tuple[RaggedImages, list[Tensor], Tensor]:
    """Parts of pictures of five sizes; the pictures; and numbers of 40 crops."""
    sizes = [(24, 20), (90, 30), (17, 64), (16, 16), (200, 160)]
    images = [torch.from_numpy(np.array(picture(n, w, h, mode))).view(h, w, -1) for n, (w, h) in enumerate(sizes, 1)]
    parts = RaggedImages(images, side)
    index = torch.arange(5).repeat(8)
    return parts, [images[number] for number in index.tolist()], parts.draw(index, torch.Generator().manual_seed(3))


def box_of(parts: RaggedImages, number: int, numbers: Tensor) -> tuple[int, int, int, int, bool]:
    h, w, first, width, coin = numbers.tolist()
    top, left = divmod(first - int(parts.starts_N[number % 5]), width)
    return top, left, h, w, bool(coin)


@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_crops_are_torchvisions_of_the_same_boxes(mode: str) -> None:
    """Of numbers to their rounding; of PIL images, which PIL rounds to whole levels twice, within two levels."""
    parts, images, numbers = some_parts(mode)
    found = parts.cut(numbers, (int(numbers[:, 0].max()), int(numbers[:, 1].max())))
    assert 5 < numbers[:, 4].sum() < 35
    worst, scales = 0.0, []
    for number, image in enumerate(images):
        top, left, h, w, mirrored = box_of(parts, number, numbers[number])
        scales.append(h / 16)
        expected = F.resized_crop(image.permute(2, 0, 1).float(), top, left, h, w, [16, 16], antialias=True)
        theirs = F.resized_crop(Image.fromarray(image.squeeze().numpy()), top, left, h, w, [16, 16], antialias=True)
        levels = F.pil_to_tensor(theirs).float()
        if mirrored:
            expected, levels = expected.flip(2), levels.flip(2)
        torch.testing.assert_close(found[number], expected, atol=2e-3, rtol=0)
        worst = max(worst, (found[number] - levels).abs().max().item())
    assert worst < 2
    assert min(scales) < 0.7
    assert max(scales) > 5  # some grow, some shrink


@pytest.mark.parametrize(("length", "side"), [(7, 16), (16, 16), (50, 16), (33, 32)])
def test_weights_are_means(length: int, side: int) -> None:
    weights = resampling(torch.tensor([length, 5]), 60, side)
    torch.testing.assert_close(weights.sum(2), torch.ones(2, side))
    assert (weights[0, :, length:] == 0).all()
    assert (weights >= 0).all()
    torch.testing.assert_close(weights[0], weights[0].flip(0)[:, list(range(length))[::-1] + list(range(length, 60))])
    if length == side:
        assert torch.equal(weights[0, :, :length], torch.eye(side))


def test_a_crop_does_not_depend_on_its_batch() -> None:
    """Beyond a box nothing is read that counts, whatever the largest box is."""
    parts, _, numbers = some_parts()
    whole = parts.cut(numbers, (210, 205))
    alone = torch.cat([parts.cut(each[None], (int(each[0]), int(each[1]))) for each in numbers])
    torch.testing.assert_close(whole, alone, atol=1e-3, rtol=0)


# ---------------------------------------------------------------------------------------------------------------------
# The feed


def test_batches_depend_on_seed_and_epoch_alone(tree: Data) -> None:
    feed = load_splits(tree, "memory").train
    torch.manual_seed(1)
    first = fed(feed, 4, 3, 5)
    torch.manual_seed(2)
    before = torch.get_rng_state()
    assert same(first, fed(feed, 4, 3, 5))
    assert torch.equal(before, torch.get_rng_state())
    memory.DECODED.clear()
    assert same(first, fed(load_splits(tree, "memory").train, 4, 3, 5)), "another process, another row"
    assert not same(first, fed(feed, 4, 3, 6))
    assert not same(first, fed(feed, 4, 4, 5))


def test_the_order_and_the_tests_are_those_of_files(tree: Data) -> None:
    """Labels in order, and every image that is not drawn, to the last bit; likewise with named statistics."""
    for data in (tree, dataclasses.replace(tree, mean=[0.5, 0.4, 0.3], std=[0.2, 0.3, 0.4]), grey(tree)):
        held, read = load_splits(data, "memory"), load_splits(data)
        assert held.classes == read.classes
        for split in ("validation", "test"):
            assert same(fed(getattr(held, split), 4), fed(getattr(read, split), 4))
        for sampling in ("uniform", "balanced"):
            labels = [[y.tolist() for _, y in fed(each.train, 4, 1, 2, sampling)] for each in (held, read)]  # type: ignore[arg-type]
            assert labels[0] == labels[1]
    plain = dataclasses.replace(tree, augment="none")
    assert same(fed(load_splits(plain, "memory").train, 4, 1, 2), fed(load_splits(plain).train, 4, 1, 2))


def grey(tree: Data) -> Data:
    return dataclasses.replace(tree, mean=[0.5], std=[0.25])


def test_several_views_are_read_from_files(tree: Data) -> None:
    several = dataclasses.replace(tree, crops=10)
    test = load_splits(several, "memory").test
    assert isinstance(test, FolderFeed)
    assert same(list(test.test_batches(20)), list(load_splits(several).test.test_batches(20)))


@pytest.mark.parametrize("augment", ["imagenet", "cifar"])
def test_images_are_statistically_those_of_files(tree: Data, augment: str) -> None:
    """Mean and standard deviation over 300 epochs of each pixel's place, file by file way and in memory."""
    data = dataclasses.replace(tree, augment=augment, subset=6)
    seen = []
    for feed in ("files", "memory"):
        train = load_splits(data, feed).train
        seen.append(torch.stack([torch.cat([x for x, _ in train.batches(6, 0, epoch)]) for epoch in range(150)]))
    means = [x.mean((1, 2)).flatten(1) for x in seen]  # (epochs, pixels)
    spread = (means[0].var(0) + means[1].var(0)).div(len(means[0])).sqrt()
    assert ((means[0].mean(0) - means[1].mean(0)).abs() < 5 * spread).all()
    assert seen[1].std().item() == pytest.approx(seen[0].std().item(), rel=0.02)


def test_a_flip_is_a_fair_coin() -> None:
    numbers = some_parts()[0].draw(torch.arange(5).repeat(400), torch.Generator().manual_seed(0))
    assert abs(numbers[:, 4].float().mean().item() - 0.5) < 5 * 0.5 / 2000**0.5


def test_large_images_are_kept_small_and_small_ones_as_they_are(tree: Data) -> None:
    feed = load_splits(tree, "memory").train
    assert isinstance(feed, TensorFeed)
    assert feed.parts is not None
    sizes = set(map(tuple, feed.parts.sizes_N2.tolist()))
    both = {(90, 30), (32, 59)}  # tall; wide, 70 × 130 shrunk to a short side of 32
    assert sizes <= {(20, 24), *both}
    kept = load_splits(dataclasses.replace(tree, validation=0.06), "memory").train
    assert both <= set(map(tuple, kept.parts.sizes_N2.tolist()))  # type: ignore[union-attr]


def test_how_much_memory_a_tree_takes(tree: Data) -> None:
    """The estimate is the sum of what is held, where every file is looked at."""
    data = dataclasses.replace(tree, validation=0.06)
    splits = load_splits(data, "memory")
    held = splits.train.parts.pixels_PC.numel()  # type: ignore[union-attr]
    held += sum(split.images_NCHW.numel() for split in (splits.validation, splits.test))  # type: ignore[union-attr]
    assert size_in_memory(data) == pytest.approx(held, rel=0.1)


def test_an_image_that_is_cut_short_is_named(tmp_path: Path) -> None:
    data = make_tree(tmp_path, {"a": 4, "b": 4})
    damaged = tmp_path / "train" / "b" / "0.png"
    damaged.write_bytes(damaged.read_bytes()[:-200])
    with pytest.raises(RunError) as caught:
        load_splits(data, "memory")
    assert str(caught.value).startswith(f"the image {damaged} cannot be read: ")


def test_a_tree_is_decoded_once_for_all_trials_of_a_worker(tree: Data, monkeypatch: pytest.MonkeyPatch) -> None:
    first = load_splits(tree, "memory")
    monkeypatch.setattr(Files, "picture", None)
    assert load_splits(tree, "memory").train is first.train
    (Path(tree.root) / "val" / "cat" / "0.png").touch()
    assert load_splits(tree, "memory").test is first.test


# ---------------------------------------------------------------------------------------------------------------------
# Nothing waits for the device


def on_meta(feed: Any) -> TensorFeed:
    """The feed with its images on the meta device, where reading a number raises an error."""
    assert isinstance(feed, TensorFeed)
    feed.device = "meta"
    feed.images_NCHW = feed.images_NCHW.to("meta")
    feed.normalised.mean, feed.normalised.std = feed.normalised.mean.to("meta"), feed.normalised.std.to("meta")
    if feed.parts:
        feed.parts.pixels_PC = feed.parts.pixels_PC.to("meta")
    return feed


@pytest.mark.parametrize("cut", [0, 4])
@pytest.mark.parametrize("augment", ["imagenet", "cifar", "none"])
def test_no_number_comes_back_from_the_device(tree: Data, augment: str, cut: int) -> None:
    """The meta device has no numbers, and no other device's tensors may be mixed with its: what works there neither
    waits for a GPU nor copies to it in between."""
    memory.DECODED.clear()
    feed = on_meta(load_splits(dataclasses.replace(tree, augment=augment, cutout=cut), "memory").train)
    batches = list(feed.batches(4, 0, 0))
    memory.DECODED.clear()
    assert all(x.device.type == y.device.type == "meta" for x, y in batches)
    assert [tuple(x.shape) for x, _ in batches] == [(len(y), 3, 16, 16) for _, y in batches]


@pytest.mark.parametrize("change", [*{id(c): c for each in AUGMENTS.values() for c in each.batch}.values(), cutout(3)])
def test_both_halves_of_a_change_are_it(change: Change) -> None:
    x = torch.rand(6, 3, 16, 16)
    numbers = change.draw(6, 16, 16, torch.Generator().manual_seed(0))
    assert (len(numbers), numbers.dtype, numbers.device.type) == (6, torch.int64, "cpu")
    assert torch.equal(change(x, torch.Generator().manual_seed(0)), change.apply(x, numbers))
