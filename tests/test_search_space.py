"""The space of a search: what is one design, how many there are and what they cost, by networks that are built."""

from __future__ import annotations

import dataclasses
import random
from typing import Any

import pytest
import torch

from senet_lab import models
from senet_lab.compose import compose
from senet_lab.config import UserError
from senet_lab.studies import pricing
from senet_lab.studies.pricing import PricedSpace
from senet_lab.studies.space import OFF, WORDS, design_text
from senet_lab.training import data as images

# In stages 2 and 3 of a ResNet-8 (16 and 32 channels) 32 and 64 leave one hidden unit, or less than one.
SPACES: list[dict[str, Any]] = [
    {"se.reduction": [False, 4, 32, 64]},
    {"se.reduction": {2: ["off", 2], 4: ["off", 16, 8]}, "se.position": ["standard", "pre"]},
    {"se.reduction": [4, 32, 64], "se.squeeze": ["avg", "none"], "se.excitation": ["sigmoid", "relu"]},
    {"se.position": ["standard", "post", "identity"]},
    {"se.reduction": {2: ["off"], 3: ["off", 128, 256]}, "se.position": ["pre", "post"]},
    {"se.reduction": ["off", 4], "recipe.lr": [0.05, 0.1], "data.size": [8, 16]},
]


def priced(space: dict[str, Any], *words: str) -> PricedSpace:
    composed = compose(["+search=tabular", *words])
    config = composed.config
    assert config.search is not None
    config = dataclasses.replace(config, search=dataclasses.replace(config.search, space=space))
    return pricing.price(dataclasses.replace(composed, config=config), images.data_facts(config.data))


@pytest.mark.parametrize("space", SPACES, ids=str)
def test_designs_are_the_different_networks_each_once(space: dict[str, Any]) -> None:
    made = priced(space)
    designs = list(made.space.designs())
    assert len(designs) == len(set(designs)) == made.space.distinct()
    rows = {design: made.row(design) for design in designs}
    if "recipe.lr" not in space:
        assert len({row.network for row in rows.values()}) == len(designs), "no two of them build the same network"
    assert len({row.label for row in rows.values()}) == len(designs)
    facts = made.facts
    assert len({row.spec(facts, 0, "cpu").trial_id for row in rows.values()}) == len(designs)

    points = random.Random(0)  # and whatever point a sampler proposes is one of them, with that point's own network
    for _ in range(12):
        params = {key: points.choice(levels) for key, levels in made.space.levels.items()}
        design = made.space.design(params)
        assert design in rows
        with torch.device("meta"):
            net = models.create("resnet8", None, 10, in_channels=1, seed=0)
        ratios = {int(key[-1]): level for key, level in params.items() if key.startswith("se.reduction.")}
        ratios = {stage: level for stage, level in ratios.items() if level != OFF}
        words = {key[3:]: params[key] for key in WORDS}
        models.add_se(net, {"reduction": ratios, **words})
        size = int(params.get("data.size", 8))
        assert models.fingerprint(net, (1, size, size)) == rows[design].network
        said = rows[design].config
        assert (said.recipe.lr, said.data.size) == (params.get("recipe.lr", said.recipe.lr), size)


@pytest.mark.parametrize("space", [*SPACES[:3], SPACES[-1]], ids=str)
def test_costs_are_those_of_the_networks(space: dict[str, Any]) -> None:
    made = priced(space)
    designs = list(made.space.designs())
    for design in random.Random(1).sample(designs, 4):
        row = made.row(design)
        with torch.device("meta"):
            net = models.create("resnet8", row.se, 10, in_channels=1, seed=0)
        assert dataclasses.replace(row.cost, operations={}, stages={}) == dataclasses.replace(
            models.cost(net, (1, row.config.data.size, row.config.data.size)), operations={}, stages={}
        )
        assert made.space.cost(design) == {"params": row.cost.params, "macs": row.cost.macs}
    for metric in ("params", "macs"):
        costs = [made.space.cost(design)[metric] for design in designs]
        assert made.space.cost(made.space.extreme(metric))[metric] == min(costs)
        assert made.space.cost(made.space.extreme(metric, dearest=True))[metric] == max(costs)


def test_what_the_space_leaves_out_stays_as_the_words_say() -> None:
    made = priced({"se.squeeze": ["avg", "max"]}, "se.reduction={3:8}", "se.position=post")
    assert [design_text(made.space, design) for design in made.space.designs()] == [
        "r off/8/off, avg",
        "r off/8/off, max",
    ]
    assert all(made.row(design).se.position == "post" for design in made.space.designs())  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("space", "words"),
    [
        ({}, "the space is empty"),
        ({"se.reduction": ["off"]}, "the space is empty: .* switches SE off in every stage"),
        ({"se.reduction": {}}, "the space is empty"),
        ({"se.reduction": {5: [4]}}, "the network has no stage 5; it has 2, 3, 4"),
        ({"se.reduction": []}, r"se.reduction.2: \[\] is not a list of levels such as \[off, 4, 16\]"),
        ({"se.reduction": 4}, "4 is not a list of levels"),
        ({"se.reduction": [0]}, "0 is neither off nor a whole number"),
        ({"se.reduction": ["none"]}, "'none' is neither off nor a whole number"),
        ({"se.reduction": [True]}, "True is neither off nor"),
        ({"se.reduction": [4, 4]}, "4 is there twice"),
        ({"se.squeeze": ["avg", "median"]}, "'median' is not one of avg, max, none"),
        ({"se.position": ["side"]}, "'side' is not one of standard"),
        ({"se.excitation": ["swish"]}, "'swish' is not one of sigmoid"),
        ({"se.stages": [[2]]}, "there is no factor 'se.stages'; there are se.reduction, se.squeeze"),
        ({"data.subset": [10]}, "there is no factor 'data.subset'; there are se.reduction.* recipe.lr"),
        ({"recipe.lr": [-1]}, "search.space: recipe.lr=-1"),
        ({"stride": ["none"]}, "search.space: stride"),
    ],
)
def test_a_space_that_cannot_be_is_said(space: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        priced(space)
