"""Parts that do not train or learn at another rate, against loops written with groups of torch.optim's own."""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from test_training_optimizers import warmed
from test_training_recipes import DIGITS, fit
from test_training_trial import SPEC, CutOffError, outcome, silent, stop_after
from torch import nn

from senet_lab import models
from senet_lab.compose import compose, words_of
from senet_lab.config import SE, Recipe
from senet_lab.studies import plan
from senet_lab.training import trial
from senet_lab.training.data import load_splits
from senet_lab.training.parts import freeze, paths_of, rates
from senet_lab.training.spec import Step

FROZEN = ("conv1.", "bn1.", "layer1.")
WORDS = ["training.freeze=[conv1,bn1,layer1]", "recipe.lr_parts={fc:10,layer2.*:0.1,*.se:3}"]


def is_gate(name: str) -> bool:
    return ".se." in name


def is_frozen(name: str) -> bool:
    return name.startswith(FROZEN) and not is_gate(name)


def factor(name: str) -> float:
    return 3.0 if is_gate(name) else 10.0 if name.startswith("fc.") else 0.1 if name.startswith("layer2.") else 1.0


@pytest.mark.filterwarnings("ignore:.*eval mode at the start.*", "ignore:The epoch parameter:UserWarning")
def test_training_against_a_loop() -> None:
    """Rates with warm-up and cosine, decay, clipping; what is frozen keeps weights and statistics to the last bit."""
    recipe = Recipe(epochs=10, batch_size=8, lr=0.02, weight_decay=0.05, warmup_epochs=2, warmup_start=0.1, clip=1.0)
    recipe = dataclasses.replace(recipe, lr_parts={"fc": 10, "layer2.*": 0.1, "*.se": 3})
    ours = fit(recipe, se=SE(reduction=4), step=Step(freeze="bn1 conv1 layer1"))
    net = models.create("resnet8", SE(reduction=4), 10, in_channels=1, seed=0)
    begun = {name: value.clone() for name, value in net.state_dict().items()}
    trained = {name: weight for name, weight in net.named_parameters() if not is_frozen(name)}
    groups = [{"params": [weight], "lr": 0.02 * factor(name)} for name, weight in trained.items()]
    optimizer = torch.optim.SGD(groups, lr=1.0, momentum=0.9, weight_decay=0.05)
    schedule = warmed(optimizer)
    for epoch in range(10):
        for path, module in net.named_modules():
            module.training = not (isinstance(module, nn.BatchNorm2d) and is_frozen(f"{path}."))
        for x, y in load_splits(DIGITS).train.batches(8, 0, epoch):
            optimizer.zero_grad()
            F.cross_entropy(net(x), y).backward()
            nn.utils.clip_grad_norm_(trained.values(), 1.0)
            optimizer.step()
            schedule.step()
    for name, value in ours.net.state_dict().items():
        torch.testing.assert_close(
            value, net.state_dict()[name], rtol=1e-3, atol=1e-4, msg=lambda m, n=name: f"{n}: {m}"
        )
        assert torch.equal(value, begun[name]) == is_frozen(name), name


@pytest.mark.parametrize(
    ("backbone", "pattern", "expected"),
    [
        ("resnet8", "layer1", lambda name: name.startswith("layer1.")),
        ("resnet8", "*.bias", lambda name: name.endswith(".bias")),
        ("resnet8", "layer[12].0.conv1", lambda name: name in ("layer1.0.conv1.weight", "layer2.0.conv1.weight")),
        ("resnet8", "*", lambda name: True),
        ("timm:mobilenetv2_050", "blocks.[0-3]", lambda name: name[:8] in [f"blocks.{n}" for n in range(4)]),
        ("torchvision:regnet_y_400mf", "stem*", lambda name: name.startswith("stem.")),
    ],
)
def test_a_pattern_takes_the_same_weights_with_gates_and_without(backbone: str, pattern: str, expected: Any) -> None:
    with torch.device("meta"):
        plain, gated = (models.create(backbone, se, 10, seed=0) for se in (None, SE(reduction=4)))
    named = {name for name, _ in plain.named_parameters() if expected(name)}
    assert paths_of(plain, pattern, "") & dict(plain.named_parameters()).keys() == named
    taken = paths_of(gated, pattern, "") & dict(gated.named_parameters()).keys()
    assert {name.replace(".body.", ".") for name in taken} == named
    gates = {name for name, _ in gated.named_parameters() if is_gate(name)}
    assert paths_of(gated, "*.se", "") & dict(gated.named_parameters()).keys() == gates
    assert len(rates(gated, {"*.se": 2.0, pattern: 0.5})) == len(gates) + len(named)


def test_norms_without_frozen_weights_go_on() -> None:
    net = models.create("resnet8", None, 10, in_channels=1, seed=0)
    freeze(net, ["layer1.0.bn1.weight", "*.bn2.weight", "*.bn2.bias"])
    assert [path for path, module in net.named_modules() if not module.training] == [
        f"layer{n}.0.bn2" for n in (1, 2, 3)
    ]


def test_a_training_that_was_cut_off_ends_with_the_same_bits(tmp_path: Path) -> None:
    recipe = dataclasses.replace(SPEC.recipe, ema=0.9, lr_parts={"fc": 10.0, "*.se": 0.5})
    spec = dataclasses.replace(SPEC, recipe=recipe, freeze="conv1 layer1")
    whole = trial.run_trial(spec, tmp_path / "a.ckpt", silent)
    with pytest.raises(CutOffError):
        trial.run_trial(spec, tmp_path / "b.ckpt", stop_after(2))
    again = trial.run_trial(spec, tmp_path / "b.ckpt", silent)
    assert again["resumed"]
    assert outcome(again) == outcome(whole)
    ends = [torch.load(tmp_path / f"{name}.ckpt", weights_only=True)["state_dict"] for name in "ab"]
    begun = models.create("resnet8", SPEC.se, 10, in_channels=1, seed=0).state_dict()
    for name, value in begun.items():
        assert torch.equal(ends[0][f"net.{name}"], ends[1][f"net.{name}"])
        assert torch.equal(ends[0][f"net.{name}"], value) == (is_frozen(name) and not name.startswith("bn1.")), name


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["training.freeze=[layr1]"], "training.freeze: 'layr1' names no weight of the network (near are layer1"),
        (["training.freeze=[relu]"], "it consists of conv1, bn1, layer1, layer2, layer3, fc"),
        (["training.freeze=['']"], "training.freeze: '' names no weight"),
        (["training.freeze=['*','*.se']"], "training.freeze: it leaves no weight to train"),
        (["training.freeze=['*']", "se=null"], "training.freeze: it leaves no weight to train"),
        (["recipe.lr_parts={head:10}"], "recipe.lr_parts: 'head' names no weight of the network"),
        (["recipe.lr_parts={fc:0}"], "recipe.lr_parts[fc]=0.0 is not between 1e-09 and 1e+09"),
        (["recipe.lr_parts={fc:fast}"], "recipe.lr_parts"),
        (["recipe.lr_parts={layer1:2,layer1.0:3}"], "'layer1' and 'layer1.0' both name layer1.0."),
        (["+vary=training.freeze", "levels=[[conv1],[stem]]"], "row 'freeze = [stem]': training.freeze: 'stem' names"),
        (["+search=tabular", "training.freeze=[stem]"], "training.freeze: 'stem' names no weight"),
    ],
)
def test_patterns_that_cannot_be(words: list[str], message: str, refuses: Callable[[list[str], str], None]) -> None:
    refuses(words, message)


def ids_of(*words: str) -> list[str]:
    return list(plan.make_plan(compose([*words, "seeds=1"])).trials)


def test_parts_are_factors_and_named_by_their_words() -> None:
    """Levels are rows; the words that repeat a training come to its id; gates of a plain network are no fault."""
    for key, levels in (
        ("training.freeze", "[[],[conv1],[conv1,layer1]]"),
        ("recipe.lr_parts", "[{},{fc:10,layer1.0:2}]"),
    ):
        made = plan.make_plan(compose([f"+vary={key}", f"levels={levels}", "seeds=1"]))
        assert len(made.trials) == len(made.rows) == (3 if "freeze" in key else 2)
        for cell in made.cells:
            assert ids_of(*shlex.split(words_of(cell.row.config))) == [cell.trial_id]
    assert ids_of(*WORDS) == ids_of("training.freeze=[layer1,bn1,conv1]", "recipe.lr_parts={*.se:3,layer2.*:0.1,fc:10}")
    assert ids_of(*WORDS, "se=null") != ids_of("se=null")
    assert ids_of("training.freeze=[]", "recipe.lr_parts={}") == ids_of()
