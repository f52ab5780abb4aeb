"""`python -m senet_lab predict`: its answers against the record of the training and the network itself."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from kept import Kept, changed, predicted, refused
from PIL import Image
from test_data_feeds import picture
from torch import nn

from senet_lab.__main__ import main
from senet_lab.config import SE, Data
from senet_lab.training import checkpoints
from senet_lab.training import data as images
from senet_lab.training.lit import SENet
from senet_lab.training.sources import SOURCES

DIGITS = Data(augment="crop", validation=0.2)


def coloured(path: Path, se: SE | None = None, **reading: Any) -> Path:
    """A checkpoint of an untrained network for colour images of three classes."""
    module = SENet("resnet8", se or SE(reduction=4), classes=3, channels=3)
    how = {"size": 16, "resize": 18, "crops": 1, "scales": [], "mean": [], "std": [], "classes": ["ant", "bee", "cat"]}
    content = {"hyper_parameters": dict(module.hparams), "state_dict": module.state_dict(), "images": how | reading}
    torch.save(content, path)
    return path


# --------------------------------------------------------------------------------------------------------------------
# Answers


def test_files_are_predicted_as_the_test_images_were(
    kept: Kept, digit_files: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of all test images as files, as many are wrong as the training's own test found."""
    found = predicted(capsys, kept.checkpoint, digit_files / "val", "--top", 1)
    wrong = sum(one["top"][0]["class"] != Path(one["image"]).parent.name for one in found)
    assert len(found) == 899
    assert 100 * wrong / len(found) == pytest.approx(kept.record["metrics"]["test_error"])
    five = predicted(capsys, kept.trial_id, "--results", kept.results, digit_files / "val")
    missed = sum(Path(one["image"]).parent.name not in [guess["class"] for guess in one["top"]] for one in five)
    assert 100 * missed / len(five) == pytest.approx(kept.record["metrics"]["test_top5_error"])


def test_probabilities_are_the_softmax_of_the_network(
    kept: Kept, digit_files: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = [digit_files / "val" / "3" / name.name for name in sorted((digit_files / "val" / "3").iterdir())[:3]]
    files.insert(0, digit_files / "train" / "7" / sorted(p.name for p in (digit_files / "train" / "7").iterdir())[4])
    found = predicted(capsys, kept.checkpoint, *files, "--top", 10)
    assert [one["image"] for one in found] == list(map(str, files))
    mean, std = (number[0] for number in SOURCES["digits"].statistics)
    x_BCHW = torch.stack([torch.from_numpy(np.asarray(Image.open(path)) / 255)[None] for path in files])
    net = checkpoints.load_network(kept.checkpoint).net.eval()
    with torch.no_grad():
        p_BK = net(((x_BCHW - mean) / std).float()).exp()
    p_BK = p_BK / p_BK.sum(1, keepdim=True)
    for one, p_K in zip(found, p_BK, strict=True):
        labels = [guess["label"] for guess in one["top"]]
        assert sorted(labels) == list(range(10))
        assert labels == p_K.argsort(descending=True).tolist()
        assert [guess["probability"] for guess in one["top"]] == pytest.approx(p_K[labels].tolist(), abs=1e-5)
        assert [guess["class"] for guess in one["top"]] == [str(label) for label in labels]


def test_several_views_are_averaged_as_in_the_test(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = coloured(tmp_path / "net.ckpt", crops=10)
    image = tmp_path / "picture.png"
    picture(3, width=24, height=18).save(image)
    (found,) = predicted(capsys, path, image)
    mean, std = map(np.array, SOURCES["folder"].statistics)
    pixels = (np.asarray(Image.open(image)) / 255 - mean) / std  # its short side is 18 already: nothing is resized
    five = [pixels[top : top + 16, left : left + 16] for top, left in ((0, 0), (0, 8), (2, 0), (2, 8), (1, 4))]
    views = torch.from_numpy(np.stack([*five, *(view[:, ::-1] for view in five)])).permute(0, 3, 1, 2).float()
    with torch.no_grad():
        expected = checkpoints.load_network(path).net.eval()(views).softmax(1).mean(0)
    assert {guess["class"]: guess["probability"] for guess in found["top"]} == pytest.approx(
        dict(zip(("ant", "bee", "cat"), expected.tolist(), strict=True)), abs=1e-5
    )
    one_view = predicted(capsys, path, image, "data.crops=1")[0]["top"]
    assert one_view != found["top"]
    assert one_view[0]["probability"] == pytest.approx(max(centre_alone(path, pixels)), abs=1e-5)


def centre_alone(path: Path, pixels_HWC: np.ndarray[Any, Any]) -> list[float]:
    x_BCHW = torch.from_numpy(pixels_HWC[1:17, 4:20][None]).permute(0, 3, 1, 2).float()
    with torch.no_grad():
        probabilities: list[float] = checkpoints.load_network(path).net.eval()(x_BCHW).softmax(1)[0].tolist()
    return probabilities


def test_folders_and_files_in_the_order_in_which_they_were_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = coloured(tmp_path / "net.ckpt")
    places = ["z.png", "f/b.JPG", "f/a.png", "f/deep/c.webp", "data.root=x.png"]
    for number, place in enumerate(places):
        (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
        picture(number).save(tmp_path / place)
    (tmp_path / "f" / "notes.txt").write_text("no image")
    found = predicted(capsys, path, *(tmp_path / name for name in ("z.png", "f", "data.root=x.png")))
    assert [Path(one["image"]).relative_to(tmp_path).as_posix() for one in found] == [
        *("z.png", "f/a.png", "f/b.JPG", "f/deep/c.webp", "data.root=x.png")
    ]
    assert all(len(one["top"]) == 3 for one in found)  # there are no five classes


def test_the_table(kept: Kept, digit_files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = sorted((digit_files / "val" / "3").iterdir())[:2]
    best = predicted(capsys, kept.checkpoint, *files)
    assert main(["predict", str(kept.checkpoint), *map(str, files), "--top", "2"]) == 0
    told = capsys.readouterr()
    lines = told.out.splitlines()
    assert told.err == ""
    assert max(map(len, lines)) <= 80
    assert lines[0].split() == ["image", "class", "probability", "%"]
    numbers = [line.split()[-2:] for line in lines[1:] if line.split()[-1].replace(".", "").isdigit()]
    assert numbers == [
        [guess["class"], f"{100 * guess['probability']:.2f}"] for one in best for guess in one["top"][:2]
    ]
    assert "".join("".join(line[:-20].split()) for line in lines).count(files[1].name) == 1  # folded, not cut


# --------------------------------------------------------------------------------------------------------------------
# Where the checkpoint is all that there is, and where it does not say


def test_the_file_alone_is_enough(
    kept: Kept, digit_files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copy(kept.checkpoint, "mine.ckpt")
    folder = digit_files / "val" / "5"
    assert predicted(capsys, "mine.ckpt", folder) == predicted(capsys, kept.checkpoint, folder)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.ckpt"]


def test_checkpoints_of_earlier_versions(
    kept: Kept, digit_files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    old = changed(kept.checkpoint, tmp_path / f"{kept.trial_id}.ckpt", lambda saved: saved.pop("images"))
    folder = digit_files / "val" / "5"
    expected = predicted(capsys, kept.checkpoint, folder)
    assert predicted(capsys, old, folder, "--results", kept.results) == expected  # the record tells
    assert predicted(capsys, old, folder, "data=digits") == expected  # the user tells
    told = refused(capsys, "predict", old, folder)
    assert "does not say what images it was trained on" in told
    assert "data=" in told
    told = refused(capsys, "predict", old, folder, "data=cifar10")
    assert "cifar10: there is no folder" in told
    told = refused(capsys, "predict", old, folder, "data=folder", f"data.root={digit_files}")
    assert "trained on images of 1 channel and 10 classes; folder has 3 channels and 10 classes" in told
    words = ["data=folder", f"data.root={digit_files}", "data.size=8", "data.resize=8"]
    assert predicted(capsys, old, folder, *words, "data.mean=[0.3075]", "data.std=[0.377]") == expected


def test_classes_without_names_are_numbers(
    kept: Kept, digit_files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The data set of an old checkpoint has gone since."""
    from senet_lab.studies.store import DONE, Store

    old = changed(kept.checkpoint, tmp_path / "0123456789abcdef.ckpt", lambda saved: saved.pop("images"))
    words = {"name": "folder", "root": str(tmp_path / "gone"), "size": 8, "resize": 8, "mean": [0.3075], "std": [0.377]}
    config = kept.record["config"]
    store = Store(f"sqlite:///{tmp_path}/lab.db")
    assert store.claim(old.stem)
    record = {**kept.record, "config": {**config, "data": {**config["data"], **words}}}
    assert store.finish(old.stem, DONE, record)
    image = sorted((digit_files / "val" / "5").iterdir())[0]
    (found,) = predicted(capsys, old, image, "--results", tmp_path)
    (expected,) = predicted(capsys, kept.checkpoint, image)
    assert [guess["class"] for guess in found["top"]] == [None] * 5
    assert [guess["label"] for guess in found["top"]] == [guess["label"] for guess in expected["top"]]
    assert main(["predict", str(old), str(image), "--results", str(tmp_path)]) == 0
    told = capsys.readouterr()
    assert told.err.startswith("the names of the classes are not known")
    assert str(expected["top"][0]["label"]) in told.out.split()


def test_what_a_checkpoint_says_is_what_it_was_trained_on(kept: Kept) -> None:
    """Also names: those of CIFAR and ImageNet where their numbers and folders are meant."""
    module = checkpoints.load_network(kept.checkpoint)
    said = checkpoints.description(module, kept.checkpoint)
    assert said is not None
    assert said.classes == tuple("0123456789")
    assert checkpoints.describe(DIGITS, images.data_facts(DIGITS)) == module.images
    tree = Data(name="folder", size=64, crops=10, augment="imagenet")
    facts = images.DataFacts("", ("n01440764", "n02102040", "mine"), 3, 1, 1, 1)
    how = checkpoints.describe(tree, facts)
    assert (how["size"], how["crops"], how["mean"]) == (64, 10, [])
    assert how["classes"] == ["tench", "English springer", "mine"]
    assert "root" not in how


# --------------------------------------------------------------------------------------------------------------------
# Bad input


def test_bad_input_is_answered_in_one_line(
    kept: Kept, digit_files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    good = sorted((digit_files / "val" / "5").iterdir())[0]
    Path("empty").mkdir()
    Path("text.png").write_text("no image")
    Path("cut.png").write_bytes(good.read_bytes()[:60])
    Path("none.ckpt").write_text("no checkpoint")
    Path("cut.ckpt").write_bytes(kept.checkpoint.read_bytes()[:20_000])
    torch.save({"a": torch.zeros(3)}, "weights.pt")
    coloured(Path("big.ckpt"), size="big")
    coloured(Path("grey.ckpt"), mean=[0.5], std=[0.5])
    coloured(Path("two.ckpt"), classes=["ant", "bee"])
    coloured(Path("odd.ckpt"), classes="abc")
    changed(coloured(Path("less.ckpt")), Path("less.ckpt"), lambda saved: saved["images"].pop("size"))
    for words, expected in (
        ([kept.checkpoint, good, "text.png"], "the image text.png cannot be read"),
        ([kept.checkpoint, good, "cut.png", "--json"], "the image cut.png cannot be read"),
        ([kept.checkpoint, good, "missing.png"], "there is no image missing.png"),
        ([kept.checkpoint, "empty"], "empty holds no images"),
        ([kept.checkpoint], "at least one image"),
        ([kept.checkpoint, good, "--top", 0], "--top: 0"),
        ([kept.checkpoint, good, "--top", "few"], "invalid int value"),
        ([kept.checkpoint, good, "--bogus"], "unrecognized arguments: --bogus"),
        ([kept.checkpoint, good, "recipe.epochs=3"], "there is no image recipe.epochs=3"),
        ([kept.checkpoint, good, "data.size=0"], "data.size"),
        ([kept.checkpoint, good, "data=mnist"], "there is no data 'mnist'"),
        ([kept.checkpoint, good, "data.mean=[0.1,0.2,0.3]", "data.std=[1,1,1]"], "images of 1 channel"),
        ([kept.checkpoint, good, "training.device=tpu"], "there is no device 'tpu'"),
        (["missing.ckpt", good], "there is no checkpoint missing.ckpt"),
        (["0123456789abcdef", good], "neither a trial 0123456789abcdef"),
        (["none.ckpt", good], "none.ckpt is not a checkpoint"),
        (["cut.ckpt", good], "cut.ckpt is not a checkpoint"),
        (["weights.pt", good], "weights.pt is not a checkpoint of a network that this lab has trained"),
        ([good, good], "is not a checkpoint"),
        (["big.ckpt", good], "big.ckpt: what it says of its images is damaged"),
        (["less.ckpt", good], "less.ckpt: what it says of its images is damaged"),
        (["grey.ckpt", good], "trained on images of 3 channels and 3 classes; grey.ckpt has 1 channel and 3 classes"),
        (["two.ckpt", good], "3 channels and 2 classes"),
        (["odd.ckpt", good], "odd.ckpt: what it says of its classes is damaged"),
    ):
        assert expected in refused(capsys, "predict", *words), words


def test_outputs_that_are_no_numbers(kept: Kept, digit_files: Path, tmp_path: Path, capsys: Any) -> None:
    def spoil(saved: dict[str, Any]) -> None:
        saved["state_dict"]["net.conv1.weight"].fill_(torch.nan)

    path = changed(kept.checkpoint, tmp_path / "nan.ckpt", spoil)
    assert "not all numbers" in refused(capsys, "predict", path, digit_files / "val" / "5", code=1)


def own(num_classes: int, in_channels: int) -> nn.Module:
    """A user's own network, which needs images of three pixels at least."""
    return nn.Sequential(nn.Conv2d(in_channels, 8, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, num_classes))


def test_networks_of_the_user_are_built_if_the_user_says_so(tmp_path: Path, capsys: Any) -> None:
    """A file alone has nothing imported; and an image may be too small for a network."""
    path, image = coloured(tmp_path / "net.ckpt"), tmp_path / "picture.png"
    picture(1).save(image)
    module = SENet("test_predict:own", None, classes=3, channels=3)
    weights = {"hyper_parameters": dict(module.hparams), "state_dict": module.state_dict()}
    changed(path, path, lambda saved: saved.update(weights))
    assert "say backbone=test_predict:own" in refused(capsys, "predict", path, image)
    assert len(predicted(capsys, path, image, "backbone=test_predict:own")[0]["top"]) == 3
    small = ("backbone=test_predict:own", "data.size=2", "data.resize=2")
    for command in (("predict", path, image), ("export", path, "--to", tmp_path / "net.onnx")):
        assert "the network cannot take images of 2 pixels (data.size): " in refused(capsys, *command, *small)
