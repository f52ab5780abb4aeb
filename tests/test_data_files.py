"""Data sets on disk: trees and CIFAR files that the test makes, whole and damaged."""

from __future__ import annotations

import dataclasses
import hashlib
import pickle
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from test_data_feeds import make_tree, picture
from torchvision.datasets import ImageFolder

from senet_lab.config import Data, UserError
from senet_lab.training.data import check_files, data_facts, load_splits
from senet_lab.training.folder import list_folder
from senet_lab.training.sources import SOURCES, Cifar

CIFAR = {name: source for name, source in SOURCES.items() if isinstance(source, Cifar)}


def refusal(data: Data) -> str:
    """What the user is told: the same before the study as in a trial, and one line."""
    with pytest.raises(UserError) as caught:
        data_facts(data)
    with pytest.raises(UserError) as again:
        load_splits(data)
    assert str(again.value) == str(caught.value)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# ---------------------------------------------------------------------------------------------------------------------
# Trees


def test_any_depth_and_suffix_in_torchvisions_order(tmp_path: Path) -> None:
    data = make_tree(tmp_path, {"b": 4, "a c": 4, "Z": 4})
    below = tmp_path / "train" / "b" / "deeper" / "still"
    below.mkdir(parents=True)
    for number, name in enumerate(["x.JPG", "x.jpeg", "10.webp", "9.BMP", "a.tif"]):
        picture(number).save(below / name)
        picture(number).save(tmp_path / "train" / "b" / f"same-{name}")
    (below / "folder.png").mkdir()  # a folder may be called as it likes
    picture(40).save(below / "folder.png" / "deepest.png")
    (tmp_path / "train" / "b" / "notes.txt").write_text("no image")
    (tmp_path / "train" / "README").write_text("no class")
    train, test, classes = list_folder(data)
    theirs = ImageFolder(str(tmp_path / "train"))
    assert list(train) == theirs.samples
    assert list(test) == ImageFolder(str(tmp_path / "val")).samples
    assert classes == tuple(theirs.classes) == ("Z", "a c", "b")
    assert len(train) == 12 + 2 * 5 + 1


def test_links_are_followed(tmp_path: Path) -> None:
    data = make_tree(tmp_path / "real", {"a": 4, "b": 4})
    linked = tmp_path / "linked"
    (linked / "train").mkdir(parents=True)
    for name in ("a", "b"):
        (linked / "train" / name).symlink_to(tmp_path / "real" / "train" / name)
    (linked / "val").symlink_to(tmp_path / "real" / "val")
    assert data_facts(dataclasses.replace(data, root=str(linked))) == data_facts(data)


def test_the_identity_tells_names_and_sizes_wherever_the_tree_lies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = dataclasses.replace(make_tree(tmp_path / "one", {"a": 4, "b": 4}), identity="names")
    identity = data_facts(data).identity
    assert data_facts(dataclasses.replace(data, identity="contents")).earlier == identity
    shutil.copytree(tmp_path / "one", tmp_path / "two")
    moved = dataclasses.replace(data, root=str(tmp_path / "two"))
    assert data_facts(moved).identity == identity
    assert data_facts(dataclasses.replace(moved, root=f"{moved.root}/")).identity == identity
    monkeypatch.chdir(tmp_path / "two")
    assert data_facts(dataclasses.replace(moved, root=".")).identity == identity
    lines = [
        f"{path.relative_to(moved.root).as_posix()}\0{path.stat().st_size}\n"
        for path in Path(moved.root).rglob("*.png")
    ]
    assert identity == f"folder {hashlib.sha256(''.join(sorted(lines)).encode()).hexdigest()[:16]}"
    (tmp_path / "two" / "val" / "a" / "0.png").rename(tmp_path / "two" / "val" / "a" / "7.png")
    renamed = data_facts(moved).identity
    with (tmp_path / "two" / "train" / "b" / "0.png").open("ab") as file:
        file.write(b"x")
    assert len({identity, renamed, data_facts(moved).identity}) == 3


def test_facts_of_a_tree_state_what_is_loaded(tmp_path: Path) -> None:
    data = make_tree(tmp_path, {"a": 12, "b": 8})
    for changed in (data, dataclasses.replace(data, subset=6, test_subset=4)):
        known, splits = data_facts(changed), load_splits(changed)
        assert (known.train, known.validation, known.test) == tuple(
            map(len, (splits.train, splits.validation, splits.test))
        )
        assert (known.classes, known.channels) == (("a", "b"), 3)
    assert len(load_splits(dataclasses.replace(data, subset=6)).train) == 6


def test_other_names_of_the_trees(tmp_path: Path) -> None:
    data = make_tree(tmp_path, {"a": 4, "b": 4})
    before = [(Path(path).name, label) for path, label in list_folder(data)[0]]
    (tmp_path / "train").rename(tmp_path / "learn")
    (tmp_path / "val").rename(tmp_path / "exam")
    train, _, _ = list_folder(dataclasses.replace(data, train="learn", test="exam"))
    assert [(Path(path).name, label) for path, label in train] == before


def test_a_class_that_only_the_test_tree_has_is_named(tmp_path: Path) -> None:
    data = make_tree(tmp_path, {"a": 4, "b": 4})
    (tmp_path / "val" / "zebra").mkdir()
    message = refusal(data)
    assert "zebra" in message
    assert str(tmp_path / "train") in message


def test_a_class_without_images_is_named(tmp_path: Path) -> None:
    data = make_tree(tmp_path, {"a": 4, "b": 4})
    (tmp_path / "train" / "empty").mkdir()
    assert str(tmp_path / "train" / "empty") in refusal(data)


@pytest.mark.parametrize("tree", ["train", "val"])
def test_a_missing_tree_is_named(tmp_path: Path, tree: str) -> None:
    data = make_tree(tmp_path, {"a": 4, "b": 4})
    shutil.rmtree(tmp_path / tree)
    message = refusal(data)
    assert str(tmp_path / tree) in message
    assert f"data.root={tmp_path}" in message


@pytest.mark.parametrize("tree", ["train", "val"])
def test_a_tree_without_images_is_named(tmp_path: Path, tree: str) -> None:
    data = make_tree(tmp_path, {"a": 4, "b": 4})
    for path in (tmp_path / tree).rglob("*.png"):
        path.rename(path.with_suffix(".txt"))
    message = refusal(data)
    assert f"{tmp_path / tree} holds no images" in message
    assert ".jpeg" in message


def test_an_empty_root_and_one_that_is_a_file(tmp_path: Path) -> None:
    data = Data(name="folder", root=str(tmp_path), augment="none")
    assert str(tmp_path / "train") in refusal(data)
    (tmp_path / "file").touch()
    assert str(tmp_path / "file") in refusal(dataclasses.replace(data, root=str(tmp_path / "file")))


# ---------------------------------------------------------------------------------------------------------------------
# CIFAR, in torchvision's layout

PER_FILE = 40


class Executed(BaseException):
    """A pickle ran code."""


def run_code() -> None:
    raise Executed


class Payload:
    def __reduce__(self) -> Any:
        return run_code, ()


def write_cifar(root: Path, name: str, patch: pytest.MonkeyPatch) -> None:
    """Write a small CIFAR of made-up images, whose checksums torchvision is told."""
    source = CIFAR[name].dataset_class
    key = "labels" if name == "cifar10" else "fine_labels"
    chance = np.random.RandomState(0)

    def write(name: str, value: dict[str, Any]) -> str:
        path = root / source.base_folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(pickle.dumps(value))
        return hashlib.md5(path.read_bytes()).hexdigest()

    def write_images(name: str) -> list[str]:
        pixels = chance.randint(0, 256, (PER_FILE, 3 * 32 * 32), dtype=np.uint8)
        return [name, write(name, {"data": pixels, key: [*map(int, chance.randint(0, 10, PER_FILE))]})]

    for files in ("train_list", "test_list"):
        patch.setattr(source, files, [write_images(name) for name, _ in getattr(source, files)])
    meta = dict(source.meta)
    meta["md5"] = write(meta["filename"], {meta["key"]: [f"class {label}" for label in range(CIFAR[name].classes)]})
    patch.setattr(source, "meta", meta)


@pytest.fixture(params=sorted(CIFAR))
def cifar(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Data:
    write_cifar(tmp_path, request.param, monkeypatch)
    return Data(name=request.param, root=str(tmp_path), size=32, augment="cifar", validation=0.25)


def files_of(data: Data) -> list[Path]:
    source = CIFAR[data.name].dataset_class
    names = [*(name for name, _ in [*source.train_list, *source.test_list]), source.meta["filename"]]
    return [Path(data.root) / source.base_folder / name for name in names]


def test_cifar_loads_to_the_images_that_were_written(cifar: Data) -> None:
    check_files(cifar)
    key = "labels" if cifar.name == "cifar10" else "fine_labels"
    *train_files, test_file, _ = (pickle.loads(path.read_bytes()) for path in files_of(cifar))
    pixels = np.concatenate([file["data"] for file in train_files])
    labels = [label for file in train_files for label in file[key]]
    splits = load_splits(cifar)
    assert torch.equal(splits.test.images_NCHW, torch.from_numpy(test_file["data"].reshape(-1, 3, 32, 32)))
    assert splits.test.labels_N.tolist() == test_file[key]
    held_out = round(0.25 * len(labels))
    assert (len(splits.train), len(splits.validation)) == (len(labels) - held_out, held_out)
    written = {image.tobytes(): label for image, label in zip(pixels, labels, strict=True)}
    for feed in (splits.train, splits.validation):
        for image, label in zip(feed.images_NCHW.numpy(), feed.labels_N.tolist(), strict=True):
            assert written.pop(image.tobytes()) == label  # red, green, blue planes, as the files have them
    assert not written


def problem(data: Data) -> str:
    with pytest.raises(UserError) as caught:
        load_splits(data)
    with pytest.raises(UserError) as again:
        check_files(data)
    assert str(again.value) == str(caught.value)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_every_file_of_cifar_that_is_missing_or_damaged_is_named(cifar: Data) -> None:
    for path in files_of(cifar):
        whole = path.read_bytes()
        for content in (whole[:-100], b"", whole[:-1] + b"x"):
            path.write_bytes(content)
            assert f"{path} is damaged" in problem(cifar)
        path.unlink()
        assert f"{path} is missing" in problem(cifar)
        path.write_bytes(whole)
    check_files(cifar)


def test_a_damaged_file_of_cifar_is_never_unpickled(cifar: Data) -> None:
    for path in files_of(cifar):
        whole = path.read_bytes()
        path.write_bytes(pickle.dumps(Payload()))
        with pytest.raises(Executed):
            pickle.loads(path.read_bytes())
        assert f"{path} is damaged" in problem(cifar)
        path.write_bytes(whole)


def test_a_root_without_cifar_is_named(cifar: Data, tmp_path: Path) -> None:
    message = problem(dataclasses.replace(cifar, root=str(tmp_path / "elsewhere")))
    assert str(tmp_path / "elsewhere") in message
    assert "data.root=" in message
    assert "data.download=true" in message
    assert not (tmp_path / "elsewhere").exists()


def test_a_download_that_fails_is_told(cifar: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = CIFAR[cifar.name].dataset_class
    monkeypatch.setattr(source, "url", "http://127.0.0.1:9/nobody-listens.tar.gz")
    data = dataclasses.replace(cifar, root=str(tmp_path / "elsewhere"), download=True)
    assert f"{cifar.name} could not be downloaded to {data.root}" in problem(data)


def test_a_download_is_not_tried_where_the_files_are(cifar: Data, monkeypatch: pytest.MonkeyPatch) -> None:
    source = CIFAR[cifar.name].dataset_class
    monkeypatch.setattr(source, "url", "http://127.0.0.1:9/nobody-listens.tar.gz")
    check_files(dataclasses.replace(cifar, download=True))
