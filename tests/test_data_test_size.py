"""`data.test_size`: trained at one size, validated and tested at another one."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from kept import DIGITS, train
from test_data_feeds import fed, make_tree

from senet_lab.__main__ import main
from senet_lab.compose import compose
from senet_lab.config import Data
from senet_lab.studies import plan
from senet_lab.studies.calibration import Decoding
from senet_lab.studies.forecast import trial_seconds
from senet_lab.training.checkpoints import load_network
from senet_lab.training.data import load_splits

OWN = """
import numpy as np
from torch import nn
def squares():
    images, labels = np.random.RandomState(0).randint(0, 256, (40, 16, 16)).astype(np.uint8), np.arange(40) % 2
    return (images[:30], labels[:30]), (images[30:], labels[30:])
def fixed(num_classes, in_channels=3):
    return nn.Sequential(nn.Conv2d(in_channels, 4, 3, padding=1), nn.Flatten(), nn.Linear(4 * 8 * 8, num_classes))
"""


@pytest.fixture(autouse=True)
def own_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "own_sizes.py").write_text(OWN)
    sys.modules.pop("own_sizes", None)


@pytest.mark.parametrize("kind", ["digits", "function", "files", "memory"])
def test_training_is_as_at_the_one_size_and_the_rest_as_at_the_other(kind: str, tmp_path: Path) -> None:
    feed = kind if kind in ("files", "memory") else "files"
    sets = {"digits": Data(augment="crop"), "function": Data(name="own_sizes:squares", size=12, mean=[0.5], std=[0.2])}
    data = sets[kind] if kind in sets else replace(make_tree(tmp_path / "tree", {"a": 9, "b": 6}), resize=0)
    data = replace(data, validation=0.25)
    both = load_splits(replace(data, test_size=20), feed)
    for split, size in (("train", data.size), ("validation", 20), ("test", 20)):
        words = (4, 1, 2) if split == "train" else (4,)
        found, expected = (fed(getattr(x, split), *words) for x in (both, load_splits(replace(data, size=size), feed)))
        assert len(found) == len(expected) > 0
        assert all(
            torch.equal(a, b)
            for one, other in zip(found, expected, strict=True)
            for a, b in zip(one, other, strict=True)
        )
        assert {x.shape[-1] for x, _ in found} == {size}


def test_a_training_validates_tests_and_keeps_its_test_size(tmp_path: Path) -> None:
    kept = train(tmp_path / "results", [*DIGITS, "data.test_size=12"])
    metrics, net = kept.record["metrics"], load_network(kept.checkpoint).eval()
    ((x, y),) = load_splits(replace(compose([]).config.data, size=12)).validation.batches(1000)
    with torch.no_grad():
        assert metrics["val_loss"] == pytest.approx(float(F.cross_entropy(net(x), y)), rel=1e-4)
    for place, word in enumerate(("data.size=12", "data.test_size=12")):
        words = ["evaluate", str(kept.checkpoint), "data=digits", word, "--to", str(tmp_path / f"{place}")]
        assert main(words) == 0
        (line,) = pd.read_csv(tmp_path / f"{place}/evaluation.csv").to_dict("records")
        assert line["loss"] == pytest.approx(metrics["test_loss"], abs=2e-3)
    assert torch.load(kept.checkpoint, weights_only=True)["images"]["size"] == 12


def test_its_name_and_its_time() -> None:
    """The same size by another word is the same training; passes at twice the size take four times as long."""
    small, same, large = (
        plan.make_plan(compose([*words, "data.validation=0.25"]))
        for words in ([], ["data.test_size=8"], ["data.test_size=16"])
    )
    assert [*small.trials] == [*same.trials] != [*large.trials]
    taken = [trial_seconds(each.cells[0], each.facts, 1e9, Decoding(), 1.0) for each in (small, large)]
    shown = small.facts.validation * small.config.recipe.epochs + small.facts.test
    assert taken[1] - taken[0] == pytest.approx(3 * shown * small.rows[0].cost.macs / 1e9)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("data.test_size=-1", "data.test_size=-1 is not between 0 and 10000"),
        ("backbone=own_sizes:fixed se=null data.test_size=12", "1 × 12 × 12"),
        ("data=folder data.size=64 data.test_size=96 data.resize=80", "data.resize=80 is less than data.test_size=96"),
        ("data=folder data.size=64 data.test_size=96 data.scales=[80]", "80 is less than data.test_size=96"),
    ],
)
def test_sizes_that_cannot_be(words: str, message: str, refuses: Callable[[list[str], str], None]) -> None:
    refuses(words.split(), message)
