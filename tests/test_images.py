"""`python -m senet_lab images`: the tree that it writes, read by `data=folder`, by torchvision and by hand.

The last test trains on photographs: on those of SENET_LAB_IMAGENETTE=DIR (Imagenette, or any tree of train/ and val/)
if it is set, otherwise on a small tree of JPEGs that it makes.
"""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from kept import predicted, refused, train
from launching import ROOT, files_of_at_most
from PIL import Image
from test_data_feeds import make_tree, picture
from test_data_files import cifar  # noqa: F401  (a fixture)
from torch import Tensor
from torchvision.datasets import ImageFolder

from senet_lab.__main__ import main
from senet_lab.compose import compose
from senet_lab.config import Data
from senet_lab.studies import image_tree
from senet_lab.training import data as images
from senet_lab.training.feeds import FolderFeed, TensorFeed
from senet_lab.training.folder import list_folder
from senet_lab.training.sources import SOURCES


def written(capsys: pytest.CaptureFixture[str], *words: object) -> Data:
    """What the command's last line says: how its tree is read."""
    capsys.readouterr()
    assert main(["images", *map(str, words)]) == 0, capsys.readouterr().err
    told = capsys.readouterr()
    assert told.err == ""
    last = told.out.splitlines()[-1]
    return compose(shlex.split(last.rpartition(": ")[2])).config.data


def all_of(feed: Any) -> tuple[Tensor, Tensor]:
    x, y = zip(*feed.batches(256), strict=True)
    return torch.cat(x), torch.cat(y)


def by_class(x_NCHW: Tensor, y_N: Tensor) -> tuple[Tensor, Tensor]:
    """In the order of a tree: class by class, in each as before."""
    order = y_N.argsort(stable=True)
    return x_NCHW[order], y_N[order]


def whole(data: Data) -> Iterator[tuple[Tensor, Tensor]]:
    """All training, and all test images, normalised."""
    if data.name == "folder":
        for files in list_folder(data)[:2]:
            yield all_of(FolderFeed(files, data))
    else:
        for split in SOURCES[data.name].index(data).read():
            yield all_of(TensorFeed(torch.from_numpy(split.images), torch.from_numpy(split.labels), data))


def same_tensors(source: Data, tree: Data) -> None:
    for (x, y), (u, v) in zip(whole(source), whole(tree), strict=True):
        expected_x, expected_y = by_class(x, y)
        assert torch.equal(u, expected_x)
        assert torch.equal(v, expected_y)
        assert u.dtype == x.dtype


# --------------------------------------------------------------------------------------------------------------------
# The same tensors


def test_digits_bit_for_bit(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tree = written(capsys, "digits", "--to", tmp_path / "it's")
    source = compose(["data=digits"]).config.data
    same_tensors(source, tree)
    known, before = images.data_facts(tree), images.data_facts(source)
    assert (known.classes, known.channels) == (before.classes, before.channels) == (tuple("0123456789"), 1)
    assert (known.train, known.validation, known.test) == (before.train, before.validation, before.test)
    assert (tree.augment, tree.size) == (source.augment, source.size)


@pytest.mark.parametrize("cifar", ["cifar10"], indirect=True)
def test_cifar_bit_for_bit(cifar: Data, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:  # noqa: F811
    tree = written(capsys, cifar.name, "--root", cifar.root, "--to", tmp_path / "png")
    same_tensors(cifar, tree)
    assert (tree.augment, tree.size) == ("cifar", 32)
    assert images.data_facts(tree).classes == tuple(f"class {label}" for label in range(10))


@pytest.mark.parametrize("cifar", ["cifar100"], indirect=True)
def test_a_class_without_training_images_is_named(
    cifar: Data,  # noqa: F811
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """data=folder would refuse such a tree. A hundred classes share the fixture's 200 random labels."""
    labels = SOURCES[cifar.name].index(cifar).read()[0].labels
    (missing, *_) = sorted(set(range(100)) - set(labels.tolist()))
    told = refused(capsys, "images", "cifar100", "--root", cifar.root, "--to", tmp_path / "png")
    assert f"class {missing}' would have no training images" in told
    assert not (tmp_path / "png").exists()
    told = refused(capsys, "images", "digits", "data.subset=5", "--to", tmp_path / "png")
    assert "would have no training images: data.subset=5 is too small" in told


def test_other_readers_find_the_same_pixels(digit_files: Path) -> None:
    train, test = SOURCES["digits"].index(Data()).read()
    for tree, split in (("train", train), ("val", test)):
        pixels, labels = split.images, split.labels
        found = ImageFolder(str(digit_files / tree))
        assert len(found) == len(labels)
        for path, label in found.samples:
            place = int(Path(path).stem)  # its place in the data set
            assert labels[place] == label
            with Image.open(path) as image:
                assert (image.mode, image.format) == ("L", "PNG")
                assert np.array_equal(np.asarray(image), pixels[place, 0])


def test_a_tree_of_files_keeps_its_pixels_and_their_order(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Photographs of any size and kind, at any depth; the names of the trees become train and val."""
    source = make_tree(tmp_path / "from", {"b": 3, "a c": 3})
    (tmp_path / "from" / "train" / "b" / "deep").mkdir()
    picture(50, 31, 17).save(tmp_path / "from" / "train" / "b" / "deep" / "x.JPG")
    picture(51).convert("P").save(tmp_path / "from" / "train" / "b" / "y.gif.png")
    (tmp_path / "from" / "val").rename(tmp_path / "from" / "exam")
    words = (f"data.root={tmp_path / 'from'}", "data.test=exam", "data.size=16", "data.resize=18", "data.workers=0")
    tree = written(capsys, "folder", *words, "--to", tmp_path / "to")
    before = list_folder(replace(source, test="exam"))
    after = list_folder(tree)
    assert after[2] == before[2]
    for some, others in zip(before[:2], after[:2], strict=True):
        assert [label for _, label in some] == [label for _, label in others]
        for (path, _), (copy, _) in zip(some, others, strict=True):
            assert np.array_equal(np.asarray(Image.open(path).convert("RGB")), np.asarray(Image.open(copy)))
    same_tensors(replace(source, test="exam"), tree)


def test_a_part_of_the_images(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Those that a training with the same words would see."""
    written(capsys, "digits", "data.subset=40", "data.test_subset=20", "--to", tmp_path / "png")
    source = replace(compose(["data=digits"]).config.data, subset=40, test_subset=20)
    splits = images.load_splits(source)
    used = torch.cat([splits.train.images_NCHW, splits.validation.images_NCHW]), splits.test.images_NCHW  # type: ignore[union-attr]
    for tree, pixels in zip(("train", "val"), used, strict=True):
        found = [np.asarray(Image.open(path)).tobytes() for path in (tmp_path / "png" / tree).rglob("*.png")]
        assert sorted(found) == sorted(image.numpy().tobytes() for image in pixels)


def test_classes_stay_in_the_order_of_their_labels() -> None:
    assert image_tree.folders(["airplane", "bird"]) == ["airplane", "bird"]
    twelve = [f"class {label}" for label in range(12)]
    assert image_tree.folders(twelve)[9:] == ["09_class 9", "10_class 10", "11_class 11"]
    assert sorted(image_tree.folders(twelve)) == image_tree.folders(twelve)


@pytest.mark.parametrize("augment", ["crop", "cifar"])
def test_files_are_augmented_as_images_in_memory_are(augment: str, digit_files: Path) -> None:
    """Every image that is fed is one of the crops, mirrored or not, of the padded original; over epochs, all occur."""
    words = ["data.size=8", "data.resize=8", "data.mean=[0.3075]", "data.std=[0.377]", f"data.augment={augment}"]
    data = compose(["data=folder", f"data.root={digit_files}", *words]).config.data
    files = list_folder(data)[0].take(np.full(40, 7))
    padded = np.pad(np.asarray(Image.open(files.paths[0])), 1)
    crops = [padded[top : top + 8, left : left + 8] for top in range(3) for left in range(3)]
    if augment == "cifar":
        crops += [crop[:, ::-1] for crop in crops]
    possible = {((crop - 0.3075 * 255) / (0.377 * 255)).astype(np.float32).round(3).tobytes() for crop in crops}
    feed = FolderFeed(files, data)
    fed = torch.cat([x for epoch in range(5) for x, _ in feed.batches(40, 0, epoch)])
    seen = {x.tobytes() for x in fed.numpy().round(3)}
    assert seen == possible


# --------------------------------------------------------------------------------------------------------------------
# What is not written


def test_a_place_that_is_taken_is_left_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    to = tmp_path / "png"
    to.mkdir()
    written(capsys, "digits", "data.subset=20", "data.test_subset=10", "--to", to)  # an empty folder will do
    before = {path: path.read_bytes() for path in to.rglob("*.png")}
    assert "is not empty; name a new folder" in refused(capsys, "images", "digits", "--to", to)
    assert {path: path.read_bytes() for path in to.rglob("*.png")} == before
    (tmp_path / "file").touch()
    assert "no folder" in refused(capsys, "images", "digits", "--to", tmp_path / "file")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "png"]


def test_a_full_disk_leaves_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with files_of_at_most(50):
        told = refused(capsys, "images", "digits", "--to", tmp_path / "new" / "png", code=1)
    assert f"{tmp_path}/new/png cannot be written: " in told
    assert not list((tmp_path / "new").iterdir())


@pytest.mark.slow
def test_an_interruption_leaves_nothing(tmp_path: Path) -> None:
    """Photographs that take their time."""
    make_tree(tmp_path / "from", {"a": 1, "b": 1})
    for number in range(30):
        picture(1, 900, 900).save(tmp_path / "from" / "train" / "a" / f"{number}.bmp")
    words = ["images", "folder", f"data.root={tmp_path / 'from'}", "--to", str(tmp_path / "to" / "png")]
    process = subprocess.Popen(
        [sys.executable, "-m", "senet_lab", *words], stderr=subprocess.PIPE, env={**os.environ, "PYTHONPATH": str(ROOT)}
    )
    until = time.monotonic() + 120
    while not list((tmp_path).glob("to/png.*.tmp/train/a/*.png")):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < until
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    assert process.communicate()[1] == b"interrupted\n"
    assert process.returncode == 130
    assert not list((tmp_path / "to").iterdir())


def test_bad_input_is_answered_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    make_tree(tmp_path / "tree", {"a": 3, "b": 3})
    (tmp_path / "tree" / "train" / "a" / "2.png").write_text("no image")
    for words, expected in (
        (["digits"], "--to"),
        (["mnist", "--to", "out"], "there is no data 'mnist'; there are cifar10, cifar100, digits, folder"),
        (["cifar10", "--to", "out"], "cifar10: there is no folder data/cifar-10-batches-py; name the folder"),
        (["cifar10", "--root", "here", "--to", "out"], "no folder here/cifar-10-batches-py"),
        (["folder", "--root", "nowhere", "--to", "out"], "there is no folder nowhere/train"),
        (["folder", "--root", "tree", "--to", "out"], "the image tree/train/a/2.png cannot be read"),
        (["digits", "--to", "out", "seeds=3"], "'seeds=3': images takes the name of a data set and words about it"),
        (["digits", "--to", "out", "data.foo=3"], "there is no key 'data.foo'"),
        (["digits", "--to", "out", "data.augment=imagenet"], "data.augment: digits has no augmentation"),
        (["digits", "--to", "out", "--bogus"], "unrecognized arguments: --bogus"),
    ):
        assert expected in refused(capsys, "images", *words), words
        assert [path.name for path in tmp_path.iterdir()] == ["tree"], words


# --------------------------------------------------------------------------------------------------------------------
# From photographs to predictions


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """JPEGs of several sizes, whose brightness tells their class."""
    if given := os.environ.get("SENET_LAB_IMAGENETTE"):
        return Path(given)
    root = tmp_path_factory.mktemp("photographs")
    for tree, count in (("train", 30), ("val", 12)):
        for label, name in enumerate(("n01440764", "n02102040", "n03888257")):
            (root / tree / name).mkdir(parents=True)
            for number in range(count):
                image = picture(number + count, 40 + number, 56 - number).point(
                    [v // 3 + 80 * label for v in range(256)] * 3
                )
                image.save(root / tree / name / f"{number}.JPEG", quality=90)
    return root


def test_from_photographs_to_predictions(photographs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A ResNet-18 with SE is trained for one epoch; what predict says of the test images is what the test found."""
    network = ("backbone=resnet18", "recipe=imagenet", "recipe.epochs=1", "recipe.batch_size=16", "recipe.lr=0.05")
    data = ("data=folder", f"data.root={photographs}", "data.size=32", "data.resize=36", "data.workers=0")
    few = ("data.subset=64", "data.test_subset=36", "training.device=cpu")
    kept = train(tmp_path, [*network, *data, *few])
    tested = images.load_splits(compose([*data, *few]).config.data).test
    assert isinstance(tested, FolderFeed)
    found = predicted(capsys, kept.checkpoint, *(path for path, _ in tested.files))
    wrong = sum(one["top"][0]["label"] != label for one, (_, label) in zip(found, tested.files, strict=True))
    assert 100 * wrong / len(found) == pytest.approx(kept.record["metrics"]["test_error"])
    names = images.names_of(compose(data).config.data, images.load_splits(compose(data).config.data))
    assert all(guess["class"] == names[guess["label"]] for one in found for guess in one["top"])
    assert names[0] == "tench"  # by its folder's name, n01440764
