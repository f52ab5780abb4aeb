"""Reported: results that were shown as those of other trainings, and trainings that did not repeat themselves."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from senet_lab.compose import compose
from senet_lab.studies import plan
from senet_lab.training import trial
from senet_lab.training.spec import Spec

SHORT = ("data.subset=60", "data.test_subset=60", "recipe.epochs=2", "tracking=off")
Write = Callable[..., str]


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Write]:
    """Write modules of the user's into a folder, and import them anew when they are next asked for."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    names: set[str] = set()

    def write(**modules: str) -> str:
        for name, source in modules.items():
            path = tmp_path / f"{name.replace('__', '/')}.py"
            path.parent.mkdir(exist_ok=True)
            path.write_text(source)
            names.add(name.split("__")[0])
        for name in [name for name in sys.modules if name.split(".")[0] in names]:
            del sys.modules[name]
        return str(tmp_path)

    yield write
    write()


def specs(*words: str) -> list[Spec]:
    return [cell.spec for cell in plan.make(compose(words)).cells]


def numbers(record: dict[str, Any]) -> tuple[Any, Any]:
    return record["epochs"], record["metrics"]


# ---------------------------------------------------------------------------------------- trainings repeat themselves

DRAWING = """
import random
import numpy as np, torch
from torch import nn

class Net(nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.stem, self.fc = nn.Conv2d(1, 8, 3), nn.Linear(8, classes)
        self.fc.weight.data = torch.tensor(np.random.randn(classes, 8).astype("float32")) * random.random()
    def forward(self, x):  # draws in evaluation, too
        x = self.stem(x) * (1 + random.random() * np.random.rand())
        return self.fc(torch.relu(x).mean((2, 3)))

def net(num_classes):
    return Net(num_classes)
"""


def test_a_network_that_draws_from_any_generator_repeats_itself_cut_off_or_not(tmp_path: Path, write: Write) -> None:
    """Kind: initial weights and steps that were drawn from Python's or NumPy's generator, which nothing seeded."""
    write(drawing=DRAWING)
    first, second = specs("backbone=drawing:net", "se=null", *SHORT, "seeds=2")
    whole = numbers(trial.run(first, tmp_path / "a.ckpt", lambda _: None))
    for last in (1, 2):  # of the epochs that end: one is to come, or the test alone

        def cut_off(said: dict[str, Any], last: int = last) -> None:
            if said["epoch"] == last:
                raise InterruptedError

        with pytest.raises(InterruptedError):
            trial.run(first, tmp_path / "b.ckpt", cut_off)
        assert numbers(trial.run(first, tmp_path / "b.ckpt", lambda _: None)) == whole
        (tmp_path / "b.ckpt").unlink()
    assert numbers(trial.run(second, tmp_path / "c.ckpt", lambda _: None)) != whole


def test_rows_share_initial_weights_whatever_draws_them(write: Write) -> None:
    """Kind: as above; the plain network and the one with SE started from other weights."""
    from senet_lab import models

    write(drawing=DRAWING)
    plain, again = (models.create("drawing:net", None, 10, in_channels=1, seed=3).state_dict() for _ in range(2))
    other = models.create("drawing:net", None, 10, in_channels=1, seed=4).state_dict()
    assert all((plain[name] == again[name]).all() for name in plain)
    assert (plain["fc.weight"] != other["fc.weight"]).all()


# ---------------------------------------------------------------------------------------- threads of a process


@pytest.mark.parametrize(
    ("words", "same"),
    [
        (("executor.threads=1",), True),
        (("executor.threads=2",), False),
        (("executor=ray", "executor.cpus_per_trial=0.5", "executor.threads=4"), True),
        (("executor=ray", "executor.cpus_per_trial=2"), False),
    ],
)
def test_threads_are_a_part_of_what_a_trial_is(words: tuple[str, ...], same: bool) -> None:
    """Kind: `executor.threads` changed every test error on a CPU under the same id."""
    (plain,), (asked,) = specs(*SHORT), specs(*SHORT, *words)
    assert (asked.trial_id == plain.trial_id) == same
    assert asked.threads == 1 or asked.trial_id == replace(plain, threads=2).trial_id
