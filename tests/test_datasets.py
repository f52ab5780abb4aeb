"""Data sets that the lab does not bring: torchvision's files, and functions of the user's, from words to records."""

from __future__ import annotations

import dataclasses
import hashlib
import shlex
import struct
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.io
import torch
import torchvision
from in_process import trained_here
from PIL import Image

from senet_lab import run
from senet_lab.compose import compose, words_of
from senet_lab.config import Data, UserError
from senet_lab.studies import plan
from senet_lab.studies.store import Store
from senet_lab.training import data as images
from senet_lab.training import datasets
from senet_lab.training.transforms import image_transform, in_files

DRAW = np.random.RandomState(0)


@pytest.fixture(autouse=True)
def _nothing_held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    datasets.HELD.clear()
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)


def fashion(root: Path) -> dict[str, Any]:
    """IDX files, as Fashion-MNIST has them."""
    place = root / "FashionMNIST" / "raw"
    place.mkdir(parents=True)
    for part, count in (("train", 40), ("t10k", 20)):
        pixels, labels = DRAW.randint(0, 256, (count, 28, 28)), np.arange(count) % 10
        (place / f"{part}-images-idx3-ubyte").write_bytes(struct.pack(">4i", 2051, count, 28, 28) + bytes(pixels.flat))
        (place / f"{part}-labels-idx1-ubyte").write_bytes(struct.pack(">2i", 2049, count) + bytes(labels.tolist()))
    return {}


def svhn(root: Path) -> dict[str, Any]:
    """Files of MATLAB; torchvision compares their md5 with those of the real ones."""
    for part, count in (("train", 30), ("test", 20)):
        labels = np.arange(count)[:, None] % 10 + 1
        path = root / f"{part}_32x32.mat"
        scipy.io.savemat(path, {"X": DRAW.randint(0, 256, (32, 32, 3, count)).astype(np.uint8), "y": labels})
        url, name, _ = torchvision.datasets.SVHN.split_list[part]
        torchvision.datasets.SVHN.split_list[part] = [url, name, hashlib.md5(path.read_bytes()).hexdigest()]
    return {}


def letters(root: Path) -> dict[str, Any]:
    """EMNIST's, whose split is an argument, and whose images are compressed."""
    place = root / "EMNIST" / "raw"
    place.mkdir(parents=True)
    for part, count in (("train", 52), ("test", 26)):
        pixels, labels = DRAW.randint(0, 256, (count, 28, 28)), np.arange(count) % 26 + 1
        for kind, held in (
            ("images-idx3", struct.pack(">4i", 2051, count, 28, 28) + bytes(pixels.flat)),
            ("labels-idx1", struct.pack(">2i", 2049, count) + bytes(labels.tolist())),
        ):
            (place / f"emnist-letters-{part}-{kind}-ubyte").write_bytes(held)
    return {"args": {"split": "letters"}}


def eurosat(root: Path) -> dict[str, Any]:
    """A tree without test images, of which a share is taken; some images are larger."""
    for name in ("Forest", "River"):
        place = root / "eurosat" / "2750" / name
        place.mkdir(parents=True)
        for number in range(10):
            side = 20 + 4 * (number % 2)
            Image.fromarray(DRAW.randint(0, 256, (side, side + 2, 3)).astype(np.uint8)).save(place / f"{number}.png")
    return {"test_share": 0.2, "size": 16}


MADE = {"FashionMNIST": fashion, "SVHN": svhn, "EMNIST": letters, "EuroSAT": eurosat}
THEIRS = {  # as torchvision's documentation has them called
    "FashionMNIST": lambda root: [torchvision.datasets.FashionMNIST(root, train=train) for train in (True, False)],
    "SVHN": lambda root: [torchvision.datasets.SVHN(root, split=split) for split in ("train", "test")],
    "EMNIST": lambda root: [torchvision.datasets.EMNIST(root, split="letters", train=train) for train in (True, False)],
    "EuroSAT": lambda root: [torchvision.datasets.EuroSAT(root)],
}


@pytest.mark.parametrize("name", MADE)
def test_torchvisions_sets_by_name(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a network is shown is what torchvision gives, brought to size and normalised by the images' own mean."""
    monkeypatch.setattr(torchvision.datasets.SVHN, "split_list", dict(torchvision.datasets.SVHN.split_list))
    asked = Data(name=f"torchvision:{name}", root=str(tmp_path), **{"size": 0, "validation": 0, **MADE[name](tmp_path)})
    data = images.resolve_data(asked)
    known, splits, theirs = images.data_facts(data), images.load_splits(data), THEIRS[name](tmp_path)
    side = asked.size or theirs[0][0][0].size[0]
    cut = torchvision.transforms.Compose([torchvision.transforms.Resize(side), torchvision.transforms.CenterCrop(side)])
    pairs = [[(np.array(cut(image)).reshape(side, side, -1), label) for image, label in each] for each in theirs]
    of_train = pairs[0] if len(pairs) == 2 else [pairs[0][at] for at in range(20) if at not in held_back(pairs[0])]
    pixels = np.stack([image for image, _ in of_train]) / 255
    assert data.size == side
    assert data.mean == pytest.approx(pixels.mean((0, 1, 2)), abs=5e-5)
    assert data.std == pytest.approx(pixels.std((0, 1, 2)), abs=5e-5)
    assert known.classes == tuple(theirs[0].classes) if hasattr(theirs[0], "classes") else tuple("0123456789")
    assert (known.train, known.test) == (len(splits.train), len(splits.test))
    ((x_BCHW, y_B),) = splits.train.batches(1000)
    assert y_B.tolist() == [label for _, label in of_train]
    expected = (pixels - np.array(data.mean)) / np.array(data.std)
    torch.testing.assert_close(x_BCHW, torch.tensor(expected).permute(0, 3, 1, 2).float(), rtol=1e-5, atol=1e-5)
    reading = image_transform(in_files(data), training=False)  # how a file of such an image is read
    assert torch.equal(reading(theirs[0][0][0].convert("RGB" if len(data.mean) == 3 else "L")), x_BCHW[0]) or (
        len(pairs) == 1
    )


def held_back(pairs: list[Any]) -> set[int]:
    """The share that tests: of every class in proportion, always the same."""
    return set(images.split_indices(Data(test_subset=4), *[np.array([label for _, label in pairs])] * 2)[2].tolist())


SETS = """
import numpy as np, torch
from PIL import Image
draw = np.random.RandomState(3)
pixels = draw.randint(0, 256, (60, 10, 10, 3)).astype(np.uint8)
labels = np.arange(60) % 3
class Set:
    classes = ["a", "b", "c"]
    def __init__(self, form, places):
        self.form, self.places = form, places
    def __len__(self):
        return len(self.places)
    def __getitem__(self, place):
        place = self.places[place]
        return FORMS[self.form](pixels[place]), [int, np.int64, torch.tensor][place % 3](labels[place])
FORMS = {
    "pil": Image.fromarray,
    "bytes": lambda x: x,
    "tensor": lambda x: torch.from_numpy(x).permute(2, 0, 1),
    "shares": lambda x: torch.from_numpy(x).permute(2, 0, 1) / 255,
}
def sets(form="pil"):
    return Set(form, range(40)), Set(form, range(40, 60))
def arrays():
    tensors = torch.from_numpy(pixels[40:]).permute(0, 3, 1, 2), torch.from_numpy(labels[40:])
    return (pixels[:40], labels[:40]), tensors
"""


@pytest.fixture
def own(tmp_path: Path) -> Any:
    """Writes a module of the user's, anew under the same name."""

    def write(source: str) -> None:
        (tmp_path / "own_sets.py").write_text(source)
        for stale in tmp_path.rglob("*.pyc"):
            stale.unlink()
        sys.modules.pop("own_sets", None)

    yield write
    sys.modules.pop("own_sets", None)


def test_a_function_gives_its_images_in_any_form(own: Any) -> None:
    """PIL's, bytes, tensors and shares of the range are the same images; and the contents, not the code, tell."""
    own(SETS)
    names = [Data("own_sets:sets", args={"form": form}, size=0) for form in ("pil", "bytes", "tensor", "shares")]
    told = {images.data_facts(images.resolve_data(data)).identity for data in [*names, Data("own_sets:arrays", size=0)]}
    assert len(told) == 1
    assert images.data_facts(images.resolve_data(names[0])).classes == ("a", "b", "c")
    own(SETS.replace("RandomState(3)", "RandomState(4)"))
    assert images.data_facts(images.resolve_data(names[0])).identity not in told
    own(SETS.replace("np.arange(60) % 3", "np.arange(60)[::-1] % 3"))
    assert images.data_facts(images.resolve_data(names[0])).identity not in told


BAD = [
    ("raise OSError('no disk')", "f raised OSError: no disk"),
    ("return 5", "f returned a int in place of a pair"),
    ("return 5, 6", "the training set is a int: neither a pair of arrays"),
    ("return (x[:0], y[:0]), (x, y)", "the training set is empty"),
    ("return (x, y[:3]), (x, y)", "the training set has 4 images and 3 labels"),
    ("return (x[:, 0, 0], y), (x, y)", "the training set, image 0: "),
    ("return (x + 0.5 + y[:, None, None], y), (x, y)", "the training set, image 1: "),
    ("return (x, y - 1), (x, y)", "the training set, image 0: its label is "),
    ("return (x, y + 0.5), (x, y)", "the training set, image 0: its label is "),
    ("return (x, y), (x, y + 1)", "the test set, image 3: its label is 4, and there are 4 classes, 0 to 3"),
    ("return (x, y), (x[:, :5, :5], y)", "a training image is 6 × 6 in grey, a test image 5 × 5 in grey; data.size=N"),
    ("return (x[:, :, :5], y), (x, y)", "its images are 6 × 5 in grey; data.size=N"),
    ("return (x, y), (x[..., None].repeat(3, 3), y)", "a test image 6 × 6 in colour"),
    ("return list(zip(x, y)), (x, y)", "the training set is a list"),
    ("return (x, y), (x, y)", "its training images are of one level"),
    ("x = np.random.RandomState().randint(0, 256, (4, 6, 6)).astype('uint8'); return (x, y), (x, y)", "read again"),
    ("x[0] = len(seen); seen.append(1); return (x, y), (x, y)\nseen = []", "read again, it gave other images"),
]


@pytest.mark.parametrize(("body", "message"), BAD)
def test_what_a_function_cannot_give(body: str, message: str, own: Any, capsys: Any, tmp_path: Path) -> None:
    """One line that names it, exit code 2, and nothing is written."""
    own(f"import numpy as np\ndef f(x=np.zeros((4, 6, 6), np.uint8), y=np.arange(4)):\n    {body}\n")
    assert run.command(["data=own_sets:f"]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("error: data=own_sets:f: ")
    assert message in said.err
    assert said.err.count("\n") == 1
    assert not (tmp_path / "results").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["data=mnist"], "there is no data 'mnist'; there are cifar10, cifar100, digits, folder, torchvision:CLASS, "),
        (
            ["data=torchvision:MNISTS"],
            "has no data set 'MNISTS' (did you mean MNIST?); torchvision.datasets lists them (CIFAR10,",
        ),
        (["data=timm:torch/cifar10"], "timm's data sets are torchvision's (data=torchvision:CLASS) and trees of"),
        (["data=torchvision:SVHN"], "data.download=true has torchvision fetch it"),
        (["data=torchvision:EuroSAT"], "EuroSAT has no test images; data.test_share=0.2 takes a fifth"),
        (
            ["data=torchvision:MNIST", "data.test_share=0.2"],
            "has training and test images; data.test_share is for others",
        ),
        (["data=torchvision:MNIST", "data.args={kind:x}"], "TypeError"),
        (["data=nowhere:f"], "cannot import nowhere"),
        (["data=own_sets:g"], "own_sets has no function 'g'; it has f"),
        (["data=own_sets:f", "data.args={n:1}"], "f raised TypeError"),
        (["data=own_sets:f", "data.augment=imagenet"], "has no augmentation 'imagenet'"),
        (["data=digits", "data.args={n:1}"], "data.args={'n': 1}: these are "),
        (["data=folder", "data.size=0"], "data.size=0"),
    ],
)
def test_words_that_cannot_be(words: list[str], message: str, own: Any, capsys: Any) -> None:
    own("def f():\n    pass\n")
    assert run.command(words) == 2
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1


def test_images_of_any_shapes_are_brought_to_a_size(own: Any) -> None:
    """And grey ones among those in colour are shown in colour, as PIL brings them there."""
    own(
        """
import numpy as np
from PIL import Image
draw = np.random.RandomState(0)
sides = [(9, 12), (8, 8), (20, 11), (10, 10)]
pictures = [Image.fromarray(draw.randint(0, 256, (*s, 3)).astype(np.uint8)) for s in sides]
class Set:
    def __len__(self): return 4
    def __getitem__(self, at): return (pictures[at].convert("L") if at == 2 else pictures[at]), at % 2
def f(): return Set(), Set()
"""
    )
    with pytest.raises(UserError, match=r"training image 0 is 9 × 12 in colour, image 1 8 × 8 in colour; data.size=N"):
        images.resolve_data(Data("own_sets:f", size=0))
    data = images.resolve_data(Data("own_sets:f", size=8, validation=0))
    ((x_BCHW, _),) = images.load_splits(data).train.batches(4)
    import own_sets  # type: ignore[import-not-found]

    reading = image_transform(in_files(data), training=False)
    for at, (picture, _) in enumerate(own_sets.Set()[each] for each in range(4)):
        assert torch.equal(reading(picture.convert("RGB")), x_BCHW[at])


def test_from_words_to_records(own: Any, capsys: Any) -> None:
    """Two rows of sizes on the images of a function: the records hold what was measured, and go by the contents. With
    other images under the same name the trials are others; the words that a plan comes to ask for the same trials."""
    own(SETS)
    words = ["data=own_sets:sets", "+vary=data.size", "levels=[10,12]", "recipe.epochs=1", "seeds=1", "tracking=off"]
    with trained_here():
        assert run.command(words) == 0
    assert "own_sets_sets" in capsys.readouterr().out
    made = plan.make_plan(compose(words))
    records = Store(made.config.storage, create=False).read(made.trials)
    assert len(records) == 2
    for record in records.values():
        held = record["config"]["data"]
        assert (held["mean"], held["std"]) == (made.config.data.mean, made.config.data.std)
        assert record["config"]["identity"] == made.facts.identity
    again = compose([*shlex.split(words_of(made.config)), "seeds=1"])
    assert again.config.data == made.config.data
    own(SETS.replace("RandomState(3)", "RandomState(4)"))
    assert not set(plan.make_plan(compose(words)).trials) & set(records)


def test_known_images_at_another_size() -> None:
    """As a file of such an image is read."""
    data = Data(size=12, augment="none", validation=0)
    source = images.source_of("digits").index(data).read()[0]
    ((x_BCHW, _),) = images.load_splits(dataclasses.replace(data, subset=5)).train.batches(5)
    index = images.split_indices(dataclasses.replace(data, subset=5), source.labels, source.labels)[0]
    reading = image_transform(in_files(data), training=False)
    for x_CHW, place in zip(x_BCHW, index, strict=True):
        assert torch.equal(reading(source.picture(int(place))), x_CHW)
