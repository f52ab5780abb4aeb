"""Optimisers, schedules and losses by name, against loops written out and PyTorch's own schedulers."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from test_training_recipes import DIGITS, Rates, fit
from timm.optim.lamb import Lamb
from torch import Tensor
from torch.optim import lr_scheduler

from senet_lab import models
from senet_lab.compose import compose
from senet_lab.config import Recipe, UserError
from senet_lab.studies import plan
from senet_lab.training.data import load_splits
from senet_lab.training.losses import LOSSES
from senet_lab.training.optimizers import check_optimizer, lr_factor


def adamw(weights: list[Tensor], gradients: list[Tensor], state: Any, lr: float, decay: list[float]) -> None:
    """Loshchilov and Hutter 2019, algorithm 2, with betas of 0.8 and 0.95."""
    state["step"] = state.get("step", 0) + 1
    for name, (weight, gradient) in enumerate(zip(weights, gradients, strict=True)):
        mean, square = state.get(name, (torch.zeros_like(weight), torch.zeros_like(weight)))
        mean, square = 0.8 * mean + 0.2 * gradient, 0.95 * square + 0.05 * gradient**2
        state[name] = mean, square
        hats = mean / (1 - 0.8 ** state["step"]), square / (1 - 0.95 ** state["step"])
        weight.sub_(lr * (hats[0] / (hats[1].sqrt() + 1e-8) + decay[name] * weight))


def theirs(
    weights: list[Tensor], gradients: list[Tensor], state: dict[str, Any], lr: float, decay: list[float]
) -> None:
    """timm's LAMB, weight by weight."""
    if not state:
        groups = [{"params": [w], "weight_decay": d} for w, d in zip(weights, decay, strict=True)]
        state["lamb"] = Lamb(groups, lr=lr, max_grad_norm=None)
    for group, gradient in zip(state["lamb"].param_groups, gradients, strict=True):
        group["lr"] = lr
        group["params"][0].grad = gradient
    state["lamb"].step()


@pytest.mark.parametrize(
    ("words", "step"),
    [
        ({"optimizer": "adamw", "optimizer_args": {"betas": [0.8, 0.95]}, "warmup_epochs": 0.6, "clip": 0.5}, adamw),
        ({"optimizer": "lamb", "optimizer_args": {"max_grad_norm": None}, "loss": "bce", "clip": 0.01}, theirs),
        ({"optimizer": "lamb", "optimizer_args": {"max_grad_norm": None}, "label_smoothing": 0.2}, theirs),
    ],
    ids=["adamw", "lamb-bce", "lamb-smoothed"],
)
def test_first_steps_against_a_loop(words: dict[str, Any], step: Any) -> None:
    recipe = Recipe(epochs=2, batch_size=8, lr=0.01, weight_decay=0.05, decay_norm=False, **words)
    seen = Rates()
    ours = fit(recipe, seen)
    net = models.create("resnet8", None, 10, in_channels=1, seed=0).train()
    weights, state = list(net.parameters()), {}
    decay = [0.05 if weight.ndim > 1 else 0.0 for weight in weights]
    rates = iter(seen.seen)
    for epoch in range(2):
        for x, y in load_splits(DIGITS).train.batches(8, 0, epoch):
            targets = torch.eye(10)[y] * (1 - recipe.label_smoothing) + recipe.label_smoothing / 10
            log_p = net(x).log_softmax(1)
            loss = -(targets * log_p).sum(1).mean()
            if recipe.loss == "bce":
                p = net(x).sigmoid()
                loss = -(targets * p.log() + (1 - targets) * (1 - p).log()).mean()
            gradients = list(torch.autograd.grad(loss, weights))
            norm = torch.stack([(gradient**2).sum() for gradient in gradients]).sum().sqrt()
            shrink = min(1.0, recipe.clip / float(norm)) if recipe.clip else 1.0
            with torch.no_grad():
                step(weights, [gradient * shrink for gradient in gradients], state, next(rates), decay)
    for (name, value), (_, expected) in zip(ours.net.named_parameters(), net.named_parameters(), strict=True):
        torch.testing.assert_close(value, expected, rtol=2e-3, atol=2e-4, msg=lambda text, name=name: f"{name}: {text}")


def rates_of(scheduler: Any, steps: int) -> list[float]:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=1.0)
    schedule, found = scheduler(optimizer), []
    for _ in range(steps):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return found


def warmed(optimizer: Any) -> Any:
    """As torchvision's reference does it, step by step."""
    rise = lr_scheduler.LinearLR(optimizer, start_factor=0.1, total_iters=10)
    fall = lr_scheduler.CosineAnnealingLR(optimizer, T_max=40)
    return lr_scheduler.SequentialLR(optimizer, [rise, fall], milestones=[10])


@pytest.mark.filterwarnings("ignore:The epoch parameter:UserWarning")
def test_linear_warm_up_then_the_cosine() -> None:
    recipe = Recipe(epochs=10, warmup_epochs=2, warmup_start=0.1)
    assert [lr_factor(recipe, step, 50) for step in range(50)] == pytest.approx(rates_of(warmed, 50))


@pytest.mark.parametrize("peak", [0.2, 0.3, 0.5])
def test_one_cycle_is_pytorchs(peak: float) -> None:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=1.0)
    schedule = lr_scheduler.OneCycleLR(optimizer, 1.0, total_steps=50, pct_start=peak, cycle_momentum=False)
    recipe = Recipe(epochs=10, schedule="onecycle", peak=peak)
    for step in range(49):
        assert lr_factor(recipe, step, 50) == pytest.approx(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()


def test_losses_by_closed_forms() -> None:
    logits, targets = torch.randn(4, 3), torch.tensor([[1.0, 0, 0], [0, 0.3, 0.7], [0.5, 0, 0.5], [0, 1, 0]])
    p = logits.sigmoid()
    for name, there in (("bce", targets), ("bce_any", (targets > 0).float())):
        expected = -(there * p.log() + (1 - there) * (1 - p).log()).mean()
        torch.testing.assert_close(LOSSES[name](logits, targets), expected)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["recipe.optimizer=adamm"],
            "recipe.optimizer: there is no 'adamm' (did you mean adam?); there are adadelta, ",
        ),
        (["recipe.optimizer=adamw", "recipe.optimizer_args={beta:1}"], "it takes betas, eps, amsgrad"),
        (["recipe.optimizer=lamb", "recipe.optimizer_args={beta:1}"], "it takes bias_correction, betas"),
        (["recipe.optimizer=adamw", "recipe.optimizer_args=[1]"], "recipe.optimizer_args=[1]: no mapping"),
        (["recipe.optimizer_args={momentum:0.5}"], "SGD's are recipe.momentum and recipe.nesterov"),
        (["recipe.optimizer=adamw", "recipe.nesterov=true"], "recipe.nesterov=true is for recipe.optimizer=sgd"),
        (["recipe.loss=mse"], "recipe.loss: there is no 'mse'; there are cross_entropy, bce, bce_any"),
        (
            ["recipe.loss=own_loss:none"],
            "recipe.loss: own_loss has no function 'none'; it has focal, raises, many, constant, descent, no_optimizer",
        ),
        (["recipe.loss=own_loss:raises"], "recipe.loss=own_loss:raises: it raised ValueError: no"),
        (["recipe.loss=own_loss:many"], "recipe.loss=own_loss:many: "),
        (["recipe.loss=own_loss:constant"], "recipe.loss=own_loss:constant: "),
        (["recipe.optimizer=own_loss:none"], "recipe.optimizer: own_loss has no function 'none'"),
        (["recipe.optimizer=own_loss:focal"], "recipe.optimizer=own_loss:focal: TypeError: focal() got an unexpected"),
        (["recipe.optimizer=own_loss:no_optimizer"], "it gives a list, not a torch.optim.Optimizer"),
        (["recipe.optimizer=own_loss:Deaf"], "its step(closure) does not call the closure"),
        (["recipe.warmup_epochs=30"], "recipe.warmup_epochs=30 is all of recipe.epochs=30"),
        (["recipe.warmup_epochs=3", "recipe.schedule=onecycle"], "recipe.schedule=onecycle is a warm-up of its own"),
        (["recipe.loss=bce_any", "recipe.label_smoothing=0.1"], "every class would be there"),
        (["+vary=recipe.optimizer", "levels=[sgd,adamm]"], "row 'optimizer = adamm': recipe.optimizer: there is no"),
    ],
)
def test_words_that_cannot_be(
    words: list[str], message: str, tmp_path: Path, monkeypatch: Any, refuses: Callable[[list[str], str], None]
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "own_loss.py").write_text(OWN)
    refuses(words, message)
    sys.modules.pop("own_loss", None)


OWN = """
import torch
import torch.nn.functional as F
def focal(logits, targets):
    return -(targets * (1 - logits.softmax(1)) ** 2 * logits.log_softmax(1)).sum(1).mean()
def raises(logits, targets):
    raise ValueError("no")
def many(logits, targets):
    return -(targets * logits.log_softmax(1)).sum(1)
def constant(logits, targets):
    return logits.detach().sum()
def descent(groups, lr):
    return torch.optim.SGD(groups, lr)
def no_optimizer(groups, lr):
    return groups
class Deaf(torch.optim.SGD):
    def step(self, closure=None):
        pass
"""


def test_a_loss_and_an_optimiser_of_ones_own_are_told_by_their_source(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    for word in ("recipe.loss=own_loss:focal", "recipe.optimizer=own_loss:descent"):
        ids = []
        for source in (OWN, f"# a comment\n{OWN}", OWN.replace("** 2", "** 3")):
            (tmp_path / "own_loss.py").write_text(source)
            made = plan.make_plan(compose([word, "seeds=1"]))
            ids += list(made.trials)
        assert ids[0] == ids[1] != ids[2]
    sys.modules.pop("own_loss", None)


def test_every_optimiser_of_pytorch_takes_a_step() -> None:
    for name in ("adadelta", "adafactor", "adagrad", "adam", "adamax", "adamw", "asgd", "nadam", "radam", "rmsprop"):
        check_optimizer(Recipe(optimizer=name))
    with pytest.raises(UserError, match="there is no 'lbfgs'"):
        check_optimizer(Recipe(optimizer="lbfgs"))


def test_recipes_of_ones_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`recipe=mine` is `sweeps/recipe/mine.yaml` of the folder that one works in."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sweeps" / "recipe").mkdir(parents=True)
    (tmp_path / "sweeps" / "recipe" / "mine.yaml").write_text("name: mine\noptimizer: lamb\nepochs: 3\n")
    assert compose(["recipe=mine", "recipe.lr=0.3"]).config.recipe == Recipe("mine", 3, lr=0.3, optimizer="lamb")
    (tmp_path / "sweeps" / "recipe" / "other.yaml").write_text("name: mine\n")
    with pytest.raises(UserError, match="recipe=other: its file says name: mine"):
        compose(["recipe=other"])
    with pytest.raises(UserError, match=r"there is no recipe 'nobodys'; there are cifar, .*mine.*other"):
        compose(["recipe=nobodys"])
