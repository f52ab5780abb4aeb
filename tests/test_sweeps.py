"""The studies and searches of `sweeps/` against the paper: each row's design, network and recipe, written down anew."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import pytest

from senet_lab.compose import choices, compose
from senet_lab.config import SE, Config
from senet_lab.reports import paper
from senet_lab.studies.variants import variants

# Study → the paper's table, the baseline, and row → the paper's row and the design.
DESIGNS: dict[str, tuple[str, str, dict[str, tuple[str, SE | None]]]] = {
    "ratio": (
        "table10",
        "r = 16",
        {f"r = {r}": (str(r), SE(reduction=r)) for r in (2, 4, 8, 16, 32)} | {"no SE": ("original", None)},
    ),
    "squeeze": ("table11", "avg", {"max": ("Max", SE(squeeze="max")), "avg": ("Avg", SE())}),
    "excitation": (
        "table12",
        "sigmoid",
        {
            "ReLU": ("ReLU", SE(excitation="relu")),
            "tanh": ("Tanh", SE(excitation="tanh")),
            "sigmoid": ("Sigmoid", SE()),
            "softmax": ("", SE(excitation="softmax")),
        },
    ),
    "stages": (
        "table13",
        "no SE",
        {"no SE": ("ResNet-50", None)}
        | {f"stage {stage}": (f"SE_Stage_{stage}", SE(stages=[stage])) for stage in (2, 3, 4)}
        | {"stage 5": ("", SE(stages=[5])), "all but the last": ("", SE(stages="all_but_last"))}
        | {"all": ("SE_All", SE())},
    ),
    "position": (
        "table14",
        "SE",
        {
            "SE": ("SE", SE()),
            "SE-PRE": ("SE-PRE", SE(position="pre")),
            "SE-POST": ("SE-POST", SE(position="post")),
            "SE-Identity": ("SE-Identity", SE(position="identity")),
        },
    ),
    "conv3x3": ("table15", "SE", {"SE": ("SE", SE()), "SE 3×3": ("SE_3x3", SE(position="conv3x3"))}),
    "nosqueeze": (
        "table16",
        "SE",
        {"no SE": ("ResNet-50", None), "NoSqueeze": ("NoSqueeze", SE(squeeze="none")), "SE": ("SE", SE())},
    ),
}
# Study → the paper's table, its data set, and plain row → backbone, recipe and what else is particular.
PAIRS: dict[str, tuple[str, str, dict[str, tuple[str, str, dict[str, float]]]]] = {
    "networks_imagenet": (
        "table2",
        "folder",
        {
            "ResNet-50": ("resnet50", "imagenet", {}),
            "ResNet-101": ("resnet101", "imagenet", {}),
            "ResNet-152": ("resnet152", "imagenet", {}),
            "ResNeXt-50": ("resnext50", "imagenet", {}),
            "ResNeXt-101": ("resnext101", "imagenet", {}),
            "VGG-16": ("vgg16", "imagenet", {}),
            "BN-Inception": ("bn_inception", "imagenet", {"weight_decay": 2e-4}),
            "Inception-ResNet-v2": ("inception_resnet_v2", "imagenet", {"size": 299}),
        },
    ),
    "networks_mobile": (
        "table3",
        "folder",
        {"MobileNet": ("mobilenet", "mobile", {}), "ShuffleNet": ("shufflenet", "mobile", {})},
    ),
    "networks_cifar10": (
        "table4",
        "cifar10",
        {
            "ResNet-110": ("preresnet110", "cifar", {}),
            "ResNet-164": ("preresnet164", "cifar", {}),
            "WRN-16-8": ("wrn16_8", "wrn", {}),
            "Shake-Shake 26 2x96d": ("shake26_2x96d", "shake_cifar10", {"cutout": 16}),
        },
    ),
    "networks_cifar100": (
        "table5",
        "cifar100",
        {
            "ResNet-110": ("preresnet110", "cifar", {}),
            "ResNet-164": ("preresnet164", "cifar", {}),
            "WRN-16-8": ("wrn16_8", "wrn", {}),
            "Shake-Even 29 2x4x64d": ("shake29_2x4x64d", "shake_cifar100", {"cutout": 8}),
        },
    ),
    "networks_places": ("table6", "folder", {"ResNet-152": ("resnet152", "places365", {})}),
}


# Of the training, not of the paper: factor and its levels.
TRAININGS = {
    "augment": ("data.policy", ["none", "randaugment", "trivialaugment"]),
    "optimizer": ("recipe.optimizer", ["sgd", "adamw", "lamb"]),
    "resolution": ("data.size", [8, 12, 16]),
}


def test_every_study_is_written_down_here() -> None:
    assert {*DESIGNS, *PAIRS, *TRAININGS} == set(choices("ablation")) - {
        "attention",
        "finetune",
    }  # test_models_kinds, test_starting


@pytest.mark.parametrize("name", TRAININGS)
def test_studies_of_the_training(name: str) -> None:
    """The same network, images and recipe, but for the factor and what belongs to a level; the first row, which is
    as the words say without a study, is the baseline."""
    factor, levels = TRAININGS[name]
    rows = variants(compose([f"+ablation={name}"]))
    assert [row.levels for row in rows] == [{factor: level} for level in levels]
    assert {row.baseline for row in rows} == {rows[0].label}
    assert rows[0].config.data == base_of("digits", "quick").data
    assert rows[0].config.recipe == base_of("digits", "quick").recipe


@pytest.mark.parametrize("name", DESIGNS)
def test_designs_are_those_of_the_papers_table(name: str) -> None:
    table, baseline, rows = DESIGNS[name]
    composed = compose([f"+ablation={name}"])
    assert composed.config.study is not None
    assert composed.config.study.paper == table
    made = variants(composed)
    assert {row.label: (row.paper_row, row.config.se) for row in made} == rows
    assert {row.baseline for row in made} == {baseline}
    assert {row for row, _ in rows.values()} - {""} == set(paper.paper_table(table).rows)


@cache
def base_of(data: str, recipe: str) -> Config:
    return compose([f"data={data}", f"recipe={recipe}"]).config


@pytest.mark.parametrize("name", PAIRS)
def test_networks_are_those_of_the_papers_table(name: str) -> None:
    table, data, rows = PAIRS[name]
    composed = compose([f"+ablation={name}"])
    assert composed.config.study is not None
    assert composed.config.study.paper == table
    made = {row.label: row for row in variants(composed)}
    assert (
        list(made) == [row for plain in rows for row in (plain, f"SE-{plain}")] == list(paper.paper_table(table).rows)
    )
    for plain, (backbone, recipe, other) in rows.items():
        base = base_of(data, recipe)
        decay = other.get("weight_decay", base.recipe.weight_decay)
        sizes = {key: other[key] for key in ("size", "cutout") if key in other}
        for label, se in ((plain, None), (f"SE-{plain}", SE())):
            row = made[label]
            assert (row.paper_row, row.baseline) == (label, plain)
            assert (row.config.backbone, row.config.se, row.config.stride) == (backbone, se, "paper")
            assert row.config.recipe == replace(base.recipe, weight_decay=decay)
            assert row.config.data == replace(base.data, **sizes)


def test_searches_are_those_whose_fronts_are_published() -> None:
    off = False  # as YAML reads it
    positions = ["standard", "pre", "post", "identity"]
    common = {"se.squeeze": ["avg", "max"]}
    excitations = {"se.excitation": ["sigmoid", "tanh"]}
    spaces = {
        "design": {"se.reduction": [off, 2, 4, 8, 16, 32], **common, **excitations, "se.position": positions},
        "tabular": {
            "se.reduction": [off, 4, 16],
            **common,
            "se.excitation": ["sigmoid", "tanh", "relu"],
            "se.position": ["standard", "post"],
        },
        "tabular_sigmoid": {
            "se.reduction": [off, 4, 16],
            **common,
            "se.excitation": ["sigmoid"],
            "se.position": [*positions, "conv3x3"],
        },
        "se_bench": {"se.reduction": [off, 4, 16], "se.position": positions},
    }
    others = {
        "design": ("quick", 0.2, None, "nsga2", ["val_error", "params"]),
        "tabular": ("tabular", 0.9, 3, "enumerate", ["val_error", "params"]),
        "tabular_sigmoid": ("tabular_ema", 0.9, 3, "enumerate", ["val_loss", "params"]),
        "se_bench": ("quick", 0.33333, 3, "enumerate", ["val_loss", "params"]),
    }
    assert set(spaces) == set(choices("search"))
    for name, space in spaces.items():
        config = compose([f"+search={name}"]).config
        assert config.search is not None
        assert config.search.space == space
        found = (config.recipe.name, config.data.validation, config.seeds)
        assert (*found, config.search.sampler, config.search.objectives) == others[name]
