"""The moving average of the weights against a loop written out, and through everything that a trial can go through."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from test_training_recipes import DIGITS, fit
from test_training_trial import RECIPE, SPEC, CutOffError, make_spec, outcome, silent, stop_after
from torch import Tensor

from senet_lab.config import SE, Recipe
from senet_lab.training import trial
from senet_lab.training.checkpoints import load_network
from senet_lab.training.data import load_splits as load_data
from senet_lab.training.ema import Average
from senet_lab.training.lit import SENet

AVERAGED = dataclasses.replace(SPEC, recipe=dataclasses.replace(RECIPE, ema=0.9))


class States(pl.Callback):
    """The network's state before the training and after each step, in double precision."""

    def __init__(self) -> None:
        self.seen: list[dict[str, Tensor]] = []

    def note(self, module: pl.LightningModule) -> None:
        self.seen.append({name: value.detach().to(torch.float64) for name, value in module.state_dict().items()})

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self.note(module)

    def on_train_batch_end(self, trainer: pl.Trainer, module: pl.LightningModule, *_: Any) -> None:
        self.note(module)


@pytest.mark.parametrize("decay", [0.5, 0.9, 0.999])
def test_the_average_step_by_step(decay: float) -> None:
    recipe, states = Recipe(epochs=2, batch_size=8, lr=0.05), States()
    module = fit(recipe, Average(decay), states, se=SE(4))
    first, *steps = states.seen
    assert len(steps) == 10
    for name, found in module.state_dict().items():
        expected = first[name]
        for step in steps:
            expected = decay * expected + (1 - decay) * step[name]
        if not found.is_floating_point():
            expected = steps[-1][name]  # of batches, counted
        torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-6)
        assert not found.ndim or not torch.equal(found.double(), steps[-1][name])


def test_it_changes_nothing_of_the_training_and_is_what_validates() -> None:
    recipe = Recipe(epochs=3, batch_size=8, lr=0.05)
    plain, averaged = fit(recipe), fit(recipe, Average(0.8))
    for name in ("train_loss", "train_error"):
        assert [entry[name] for entry in plain.history] == [entry[name] for entry in averaged.history]
    assert plain.history[0]["val_loss"] != averaged.history[0]["val_loss"]
    averaged.eval()
    with torch.no_grad():
        for index, batch in enumerate(load_data(DIGITS).validation.batches(32)):
            averaged.validation_step(batch, index)
    assert averaged.means("val")["val_loss"] == pytest.approx(averaged.history[-1]["val_loss"], rel=1e-6)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], dict[str, Any]]:
    """The record of a training without a break, and its last checkpoint."""
    path = tmp_path_factory.mktemp("whole") / "a.ckpt"
    record = trial.run_trial(AVERAGED, path, silent)
    return record, torch.load(path, weights_only=True)


@pytest.mark.parametrize("epochs", [[4], [1, 2, 3]], ids=str)
def test_cut_off_and_run_again(whole: tuple[dict[str, Any], dict[str, Any]], tmp_path: Path, epochs: list[int]) -> None:
    record, saved = whole
    for epoch in epochs:
        with pytest.raises(CutOffError):
            trial.run_trial(AVERAGED, tmp_path / "a.ckpt", stop_after(epoch))
    again = trial.run_trial(AVERAGED, tmp_path / "a.ckpt", silent)
    assert again["resumed"] is True
    assert outcome(again) == outcome(record)
    content = torch.load(tmp_path / "a.ckpt", weights_only=True)
    for key in ("state_dict", "current_state"):
        assert all(torch.equal(content[key][name], value) for name, value in saved[key].items())


def test_what_is_kept_is_the_averaged_network(whole: tuple[dict[str, Any], dict[str, Any]], tmp_path: Path) -> None:
    """A checkpoint loads as the network that was tested, by the lab and by Lightning."""
    record, saved = whole
    torch.save(saved, tmp_path / "a.ckpt")
    assert any(not torch.equal(saved["current_state"][name], value) for name, value in saved["state_dict"].items())
    for module in (
        load_network(tmp_path / "a.ckpt"),
        SENet.load_from_checkpoint(tmp_path / "a.ckpt", weights_only=True),
    ):
        module.eval()
        with torch.no_grad():
            for index, batch in enumerate(load_data(AVERAGED.data).test.batches(64)):
                module.test_step(batch, index)
        means = module.means("test")
        assert means["test_loss"] == pytest.approx(record["metrics"]["test_loss"], rel=1e-6)
        assert means["test_error"] == record["metrics"]["test_error"]


def test_everything_at_once_in_mixed_precision_is_cut_off_and_goes_on(tmp_path: Path) -> None:
    """Averaging, balanced sampling, Cutout and bfloat16."""
    recipe = dataclasses.replace(RECIPE, epochs=2, ema=0.9, sampling="balanced")
    spec = make_spec(SE(4), data=dataclasses.replace(DIGITS, cutout=3), recipe=recipe, precision="bf16-mixed")
    record = trial.run_trial(spec, tmp_path / "a.ckpt", silent)
    with pytest.raises(CutOffError):
        trial.run_trial(spec, tmp_path / "b.ckpt", stop_after(1))
    assert outcome(trial.run_trial(spec, tmp_path / "b.ckpt", silent)) == outcome(record)
    weights = torch.load(tmp_path / "a.ckpt", weights_only=True)["state_dict"].values()
    assert {value.dtype for value in weights if value.is_floating_point()} == {torch.float32}
    for change in ({"ema": 0.0}, {"sampling": "uniform"}):
        other = dataclasses.replace(spec, recipe=dataclasses.replace(recipe, **change))
        assert trial.run_trial(other, tmp_path / f"{next(iter(change))}.ckpt", silent)["metrics"] != record["metrics"]
