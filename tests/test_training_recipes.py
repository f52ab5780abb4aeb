"""Recipes: every file composes; schedules, loss and optimiser against closed forms and a loop written out by hand."""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor

from senet_lab import models
from senet_lab.compose import choices, compose
from senet_lab.config import SE, Data, Recipe, UserError
from senet_lab.training import optimizers
from senet_lab.training.data import load_splits
from senet_lab.training.lit import SENet
from senet_lab.training.optimizers import lr_factor
from senet_lab.training.spec import Step
from senet_lab.training.step import PLAIN
from senet_lab.training.trial import SplitsModule

DIGITS = Data(augment="crop", validation=0.2, subset=40, test_subset=20)


def fit(recipe: Recipe, *callbacks: pl.Callback, se: SE | None = None, seed: int = 0, step: Step = PLAIN) -> SENet:
    """A training without checkpoints: 40 images an epoch."""
    module = SENet("resnet8", se, channels=1, recipe=recipe, seed=seed, step=step)
    trainer = pl.Trainer(
        max_epochs=recipe.epochs,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        reload_dataloaders_every_n_epochs=1,
        callbacks=list(callbacks),
    )
    trainer.fit(module, datamodule=SplitsModule(load_splits(DIGITS), recipe.batch_size, seed))
    return module


# ---------------------------------------------------------------------------------------------------------------------
# Files


# By hand from the articles: epochs, batch, learning rate, weight decay, cuts (none: one cosine), others.
RECIPES: dict[str, tuple[int, int, float, float, list[int], dict[str, Any]]] = {
    "imagenet": (100, 1024, 0.6, 1e-4, [30, 60, 90], {}),
    "places365": (100, 1024, 0.6, 1e-4, [30, 60, 90], {"sampling": "balanced"}),
    "imagenet_ablation": (270, 256, 0.1, 1e-4, [125, 200, 250], {"label_smoothing": 0.1}),
    "mobile": (400, 256, 0.1, 4e-5, [185, 296, 370], {}),
    "cifar": (182, 128, 0.1, 1e-4, [91, 136], {"warmup_steps": 400}),
    "wrn": (200, 128, 0.1, 5e-4, [60, 120, 160], {"nesterov": True, "factor": 0.2}),
    "shake_cifar10": (1800, 128, 0.2, 1e-4, [], {"nesterov": True}),
    "shake_cifar100": (1800, 32, 0.025, 5e-4, [], {"nesterov": True}),
    "quick": (30, 32, 0.1, 1e-3, [], {}),
    "tabular": (24, 16, 0.05, 5e-4, [], {}),
    "tabular_ema": (24, 16, 0.05, 5e-4, [], {"ema": 0.97}),
}
ALL = {"momentum": 0.9, "nesterov": False, "decay_norm": True, "factor": 0.1, "warmup_steps": 0, "warmup_lr": 0.01}
ALL |= {"label_smoothing": 0.0, "sampling": "uniform", "ema": 0.0, "optimizer": "sgd", "optimizer_args": None}
ALL |= {"warmup_epochs": 0.0, "warmup_start": 0.01, "peak": 0.3, "clip": 0.0, "loss": "cross_entropy"}
ALL |= {"mixup": 0.0, "cutmix": 0.0, "stochastic_depth": 0.0, "lr_parts": {}}


MODERN: dict[str, tuple[int, int, float, float, list[int], dict[str, Any]]] = {  # of timm's and torchvision's authors
    "rsb_a3": (100, 2048, 0.008, 0.02, [], {"optimizer": "lamb", "loss": "bce_any", "mixup": 0.1}),
    "torchvision": (600, 1024, 0.5, 2e-5, [], {"label_smoothing": 0.1, "mixup": 0.2, "ema": 0.999966}),
}
for *_, words in MODERN.values():
    words |= {"warmup_epochs": 5, "cutmix": 1.0, "decay_norm": False}
RECIPES |= MODERN


@pytest.mark.parametrize("name", choices("recipe"))
def test_recipes_are_those_of_the_articles(name: str) -> None:
    """Of the paper's sections 5.1 and 6, of He et al., Zagoruyko and Gastaldi."""
    epochs, batch, lr, decay, cuts, other = RECIPES[name]
    words = {**ALL, "schedule": "step" if cuts else "cosine", "milestones": cuts, "weight_decay": decay, **other}
    assert vars(compose([f"recipe={name}"]).config.recipe) == {
        **{"name": name, "epochs": epochs, "batch_size": batch, "lr": lr},
        **words,
    }


def test_the_steps_of_cifar_are_he_et_als() -> None:
    """64k steps of 128 of 45,000 images, cut at 32k and 48k."""
    epochs, batch, _, _, cuts, _ = RECIPES["cifar"]
    steps = math.ceil(45_000 / batch)
    assert [epoch * steps for epoch in (*cuts, epochs)] == pytest.approx([32_000, 48_000, 64_000], abs=steps)


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("recipe.sampling=even", "recipe.sampling: there is no 'even'; there are uniform, balanced"),
        ("recipe.ema=1", "recipe.ema=1.0 is not between 0 and 0.999999"),
        ("recipe.ema=-0.1", "recipe.ema=-0.1 is not between 0 and 0.999999"),
        ("recipe.ema=nan", "recipe.ema=nan is not between 0 and 0.999999"),
    ],
)
def test_values_that_cannot_be(word: str, message: str) -> None:
    with pytest.raises(UserError) as caught:
        compose([word])
    assert str(caught.value) == message


# ---------------------------------------------------------------------------------------------------------------------
# Schedules, in the learning rates that an optimiser really had


class Rates(pl.Callback):
    def __init__(self) -> None:
        self.seen: list[float] = []

    def on_train_batch_start(self, trainer: pl.Trainer, *_: Any) -> None:
        rates = {group["lr"] for group in trainer.optimizers[0].param_groups}
        (rate,) = rates  # all groups alike
        self.seen.append(rate)


def rates(**words: Any) -> list[float]:
    """What the optimiser had at each step: 5 steps of 8 images an epoch."""
    seen = Rates()
    fit(Recipe(batch_size=8, **words), seen)
    return seen.seen


def test_constant() -> None:
    assert rates(epochs=2, lr=0.03, schedule="constant") == [0.03] * 10


def test_steps_are_cut_where_epochs_begin() -> None:
    seen = rates(epochs=5, lr=0.2, schedule="step", milestones=[1, 3, 4], factor=0.5)
    assert seen == pytest.approx([0.2] * 5 + [0.1] * 10 + [0.05] * 5 + [0.025] * 5)


def test_cosine_goes_from_the_whole_rate_to_zero() -> None:
    seen = rates(epochs=4, lr=0.2, schedule="cosine")
    assert seen == pytest.approx([0.1 * (1 + math.cos(math.pi * step / 20)) for step in range(20)])
    assert seen[0] == 0.2
    assert seen[10] == pytest.approx(0.1)
    assert lr_factor(Recipe(schedule="cosine"), 20, 20) == pytest.approx(0)


@pytest.mark.parametrize("schedule", ["constant", "cosine", "step"])
def test_warm_up_then_the_schedule_where_it_would_have_been(schedule: str) -> None:
    words: dict[str, Any] = {"epochs": 2, "lr": 0.2, "schedule": schedule, "milestones": [1]}
    assert rates(**words, warmup_steps=7, warmup_lr=0.01) == pytest.approx([0.01] * 7 + rates(**words)[7:])


@pytest.mark.parametrize("batches", [1, 7, 352])
@pytest.mark.parametrize("epochs", [1, 7, 182, 270])
def test_epochs_begin_where_they_begin(batches: int, epochs: int) -> None:
    """No rounding moves a cut by a step."""
    for cut in {1, epochs // 2, epochs - 1} - {0}:
        recipe = Recipe(epochs=epochs, schedule="step", milestones=[cut])
        assert lr_factor(recipe, cut * batches - 1, epochs * batches) == 1
        assert lr_factor(recipe, cut * batches, epochs * batches) == pytest.approx(0.1)


# ---------------------------------------------------------------------------------------------------------------------
# Loss


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.5])
def test_the_training_loss(smoothing: float) -> None:
    """Cross entropy against (1 - s) · one-hot + s / K; without smoothing in validation."""
    module = SENet("resnet8", None, classes=7, channels=1, recipe=Recipe(label_smoothing=smoothing)).eval()
    x, y = torch.randn(9, 1, 8, 8), torch.arange(9) % 7
    loss = module.training_step((x, y), 0)
    module.validation_step((x, y), 0)
    logits = module(x).detach().numpy().astype(np.float64)
    log_p = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    targets = (1 - smoothing) * np.eye(7)[y.numpy()] + smoothing / 7
    assert loss.item() == pytest.approx(-(targets * log_p).sum(1).mean(), rel=1e-5)
    assert module.means("val")["val_loss"] == pytest.approx(-log_p[np.arange(9), y.numpy()].mean(), rel=1e-5)


@pytest.mark.parametrize("classes", [2, 4, 5, 9])
def test_errors_over_uneven_batches(classes: int) -> None:
    """Sums over a split, not means of means; with five classes or fewer nobody misses the first five."""
    module = SENet("resnet8", None, classes=classes, channels=1)
    logits = torch.randn(50, classes)
    y = torch.randint(classes, (50,))
    for rows in torch.split(torch.arange(50), [17, 32, 1]):
        module.add_batch("val", torch.nn.functional.cross_entropy(logits[rows], y[rows]), logits[rows], y[rows])
    ranks = (logits > logits[torch.arange(50), y][:, None]).sum(1)
    means = module.means("val")
    assert means["val_error"] == pytest.approx(100 * (ranks > 0).double().mean().item())
    assert means["val_top5_error"] == pytest.approx(100 * (ranks > 4).double().mean().item())
    assert means["val_loss"] == pytest.approx(torch.nn.functional.cross_entropy(logits, y).item(), rel=1e-5)
    assert module.sums == {}


# ---------------------------------------------------------------------------------------------------------------------
# Optimiser


def descend(recipe: Recipe, rates: list[float], se: SE | None) -> dict[str, Tensor]:
    """The same training written out: batch by batch, gradient by gradient."""
    net = models.create("resnet8", se, 10, in_channels=1, seed=0).train()
    feed = load_splits(DIGITS).train
    velocity: dict[str, Tensor] = {}
    step = 0
    for epoch in range(recipe.epochs):
        for x, y in feed.batches(recipe.batch_size, 0, epoch):
            log_p = net(x).log_softmax(1)
            loss = -log_p[torch.arange(len(y)), y].mean()
            gradients = torch.autograd.grad(loss, list(net.parameters()))
            with torch.no_grad():
                for (name, weights), gradient in zip(net.named_parameters(), gradients, strict=True):
                    if recipe.decay_norm or "conv" in name or name.endswith(("fc.weight", "fc1.weight", "fc2.weight")):
                        gradient = gradient + recipe.weight_decay * weights
                    velocity[name] = recipe.momentum * velocity.get(name, torch.zeros(())) + gradient
                    nesterov = gradient + recipe.momentum * velocity[name]
                    weights -= rates[step] * (nesterov if recipe.nesterov else velocity[name])
            step += 1
    return net.state_dict()


@pytest.mark.parametrize(
    "words",
    [
        {"momentum": 0.0, "weight_decay": 0.0},
        {"momentum": 0.9, "weight_decay": 0.0},
        {"momentum": 0.9, "weight_decay": 0.1},
        {"momentum": 0.9, "weight_decay": 0.1, "decay_norm": False},
        {"momentum": 0.9, "weight_decay": 0.1, "nesterov": True},
    ],
    ids=str,
)
def test_the_optimiser_step_by_step(words: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = Recipe(epochs=2, batch_size=16, lr=0.05, **words)
    se = SE(reduction=4)
    seen = Rates()
    ours = fit(recipe, seen, se=se).net.state_dict()
    expected = descend(recipe, seen.seen, se)
    assert ours.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(
            ours[name], value, rtol=1e-4, atol=1e-5, msg=lambda text, name=name: f"{name}: {text}"
        )

    # All weights at once give the bits that one after another gives.
    whole = optimizers.PYTORCH["sgd"]
    one_by_one = functools.partial(whole, foreach=False)
    monkeypatch.setitem(optimizers.PYTORCH, "sgd", lambda *given, **how: one_by_one(*given, **how))
    single = fit(recipe, se=se).net.state_dict()
    assert all(torch.equal(value, single[name]) for name, value in ours.items())


def test_decay_norm_spares_norms_and_biases_and_nothing_else() -> None:
    """With a rate of weight decay that no gradient of these few steps reaches, what shrank is told at a glance."""
    for decay_norm in (True, False):
        recipe = Recipe(epochs=1, batch_size=20, lr=1e-3, momentum=0, weight_decay=300.0, decay_norm=decay_norm)
        net = fit(recipe, se=SE(bias=True)).net
        before = models.create("resnet8", SE(bias=True), 10, in_channels=1, seed=0)
        for (name, new), (_, old) in zip(net.named_parameters(), before.named_parameters(), strict=True):
            if old.any():
                shrunk = bool(new.norm() < 0.8 * old.norm())
                assert shrunk == (decay_norm or old.ndim > 1), name


def test_views_are_averaged_over_probabilities() -> None:
    """The test's logits over views, against the mean of the softmax of each view by itself."""
    module = SENet("resnet8", SE(), seed=0).eval()
    x_BVCHW = torch.randn(3, 10, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = torch.stack([module(x_BVCHW[:, view]).softmax(1) for view in range(10)]).mean(0)
        torch.testing.assert_close(module.over_views(x_BVCHW).exp(), expected)
        module.test_step((x_BVCHW, expected.argmax(1)), 0)
    assert module.means("test")["test_error"] == 0
