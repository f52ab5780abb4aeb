"""Trains a network as the lab does, in this process, and keeps its weights and its record as the lab keeps them."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from senet_lab.__main__ import main
from senet_lab.compose import compose
from senet_lab.studies import plan
from senet_lab.studies.store import DONE, Store
from senet_lab.training import trial

torch.set_num_threads(1)

DIGITS = ("recipe.epochs=1", "se.reduction=4", "training.device=cpu")


@dataclass(frozen=True)
class Kept:
    """A results folder with one trial in it, whose weights were kept."""

    results: Path
    trial_id: str
    record: dict[str, Any]

    @property
    def checkpoint(self) -> Path:
        return self.results / "checkpoints" / f"{self.trial_id}.ckpt"


def train(results: Path, words: Sequence[str] = DIGITS) -> Kept:
    """Train the network of the words once."""
    (cell,) = plan.make_plan(compose(words)).cells
    record = trial.run_trial(cell.spec, results / "checkpoints" / f"{cell.trial_id}.ckpt", lambda entry: None)
    store = Store(f"sqlite:///{results}/lab.db")
    assert store.claim(cell.trial_id)
    assert store.finish(cell.trial_id, DONE, record, record.pop("outputs"))
    return Kept(results, cell.trial_id, record)


def changed(source: Path, path: Path, change: Callable[[dict[str, Any]], object]) -> Path:
    """A copy of a checkpoint, changed."""
    saved = torch.load(source, weights_only=True)
    change(saved)
    torch.save(saved, path)
    return path


class Trap:
    """What runs code when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return (Path.touch, (self.path,))


def predicted(capsys: pytest.CaptureFixture[str], *words: object) -> Any:
    """What `predict --json` prints."""
    capsys.readouterr()
    assert main(["predict", *map(str, words), "--json"]) == 0, capsys.readouterr().err
    return json.loads(capsys.readouterr().out)


def refused(capsys: pytest.CaptureFixture[str], *words: object, code: int = 2) -> str:
    """The one line that a command answers with, which prints nothing else."""
    capsys.readouterr()
    assert main([*map(str, words)]) == code, words
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err.startswith("error: ")
    assert told.err.count("\n") == 1, told.err
    return told.err
