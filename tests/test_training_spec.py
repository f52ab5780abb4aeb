"""The name of a training: what changes it, what does not, and that it never changes by accident."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import Any

import pytest

from senet_lab.compose import compose
from senet_lab.config import SE, Data, Recipe
from senet_lab.studies import rows
from senet_lab.studies.store_check import spec_of as spec_from
from senet_lab.training.data import data_facts
from senet_lab.training.spec import IDLE_DATA, IDLE_RECIPE, Spec

BASE = Spec(
    backbone="resnet8",
    network="abc",
    stride="paper",
    se=SE(reduction={2: 16, 3: 16, 4: 16}),
    hidden={2: (1,), 3: (2,), 4: (4,)},
    data=Data(augment="crop", validation=0.2),
    identity="digits 0b7e9c3202d7bcd2",
    classes=10,
    channels=1,
    recipe=Recipe(name="quick", batch_size=32, lr=0.05, weight_decay=5e-4),
    seed=0,
)
CIFAR = dataclasses.replace(
    BASE,
    backbone="resnet56",
    se=None,
    hidden={},
    data=Data(name="cifar10", size=32, augment="cifar"),
    identity="CIFAR10 official md5",
    channels=3,
    recipe=Recipe(name="cifar", epochs=182, schedule="step", milestones=[91, 136], warmup_steps=400),
    seed=2,
)

# Records and published tables go by these names. A change here orphans every training that anybody has recorded.
GOLDEN = {
    "SE on the digits": (BASE, "f9686c275913c3c5"),
    "another design": (
        dataclasses.replace(BASE, se=SE(squeeze="max", excitation="tanh", position="pre", bias=True), seed=1),
        "ad39efcafa232dea",
    ),
    "plain on CIFAR-10": (CIFAR, "5a6d8f11389de31a"),
    "on a GPU": (
        dataclasses.replace(CIFAR, device="cuda", precision="bf16-mixed", stride="torchvision"),
        "75335b28f2fe3582",
    ),
    "the user's own": (
        dataclasses.replace(BASE, backbone="mine.nets:small", network="0123456789abcdef"),
        "bf02d1f197cf3e9f",
    ),
}


@pytest.mark.parametrize(("spec", "trial_id"), GOLDEN.values(), ids=GOLDEN)
def test_ids_never_change(spec: Spec, trial_id: str) -> None:
    assert spec.trial_id == trial_id


def test_fields_at_their_default_are_left_out() -> None:
    """So a field that is added later, with the old behaviour as its default, renames nothing."""
    assert BASE.determinants() == {
        "backbone": "resnet8",
        "identity": "digits 0b7e9c3202d7bcd2",
        "seed": 0,
        "se": {"hidden": {2: (1,), 3: (2,), 4: (4,)}},
        "data": {"name": "digits", "augment": "crop", "validation": 0.2},
        "recipe": {"batch_size": 32, "lr": 0.05, "weight_decay": 5e-4},
    }
    assert CIFAR.determinants()["se"] is None


def other(value: Any) -> Any:
    """Another value of the same kind."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, (int, float)):
        return value + 1
    return [*value, 3] if isinstance(value, list) else 77 if value is None else f"{value}x"


def changed_part(part: str) -> list[Spec]:
    """The base with each field of its data, recipe or design changed in turn."""
    value = getattr(BASE, part)
    fields = dataclasses.fields(value)
    return [
        dataclasses.replace(BASE, **{part: dataclasses.replace(value, **{f.name: other(getattr(value, f.name))})})
        for f in fields
    ]


@pytest.mark.parametrize(
    ("part", "idle"), [("data", IDLE_DATA), ("recipe", IDLE_RECIPE), ("se", {"reduction", "stages"})]
)
def test_every_field_changes_the_id_but_for_the_idle_ones(part: str, idle: set[str]) -> None:
    names = [f.name for f in dataclasses.fields(getattr(BASE, part))]
    if part == "se":  # a reduction is a mapping here, and tells only what `hidden` tells
        specs = [
            dataclasses.replace(BASE, se=dataclasses.replace(BASE.se, **{name: value}))
            for name, value in (
                ("reduction", 8),
                ("squeeze", "max"),
                ("excitation", "tanh"),
                ("position", "pre"),
                ("stages", [2, 3]),
                ("bias", True),
                ("identity_start", True),
                ("kind", "static"),
                ("args", {"value": 0.3}),
            )
        ]
        assert len(specs) == len(names)
    else:
        specs = changed_part(part)
    ids = dict(zip(names, (spec.trial_id for spec in specs), strict=True))
    assert {name for name, trial_id in ids.items() if trial_id == BASE.trial_id} == idle
    assert len(set(ids.values())) == len(names) - len(idle) + 1  # each in its own way


@pytest.mark.parametrize(
    "change",
    [
        {"backbone": "resnet20"},
        {"stride": "torchvision"},
        {"se": None},
        {"hidden": {2: (1,), 3: (2,), 4: (5,)}},
        {"hidden": {2: (1,), 3: (2,)}},
        {"identity": "digits 0"},
        {"seed": 1},
        {"device": "cuda"},
        {"precision": "bf16-mixed"},
        {"threads": 2},
        {"freeze": "conv1"},
    ],
    ids=str,
)
def test_every_other_determinant_changes_the_id(change: dict[str, Any]) -> None:
    assert dataclasses.replace(BASE, **change).trial_id != BASE.trial_id


def test_the_structure_tells_only_for_the_users_own_networks() -> None:
    """A network of the lab is known by its name; code outside the lab may change under the same name."""
    assert dataclasses.replace(BASE, network="xyz").trial_id == BASE.trial_id
    own = dataclasses.replace(BASE, backbone="mine.nets:small")
    assert dataclasses.replace(own, network="xyz").trial_id != own.trial_id


def spec_of(*words: str) -> Spec:
    """The training that a command line asks for."""
    composed = compose(words)
    known = data_facts(composed.config.data)
    ((row,), _) = rows.build_rows(composed, known)
    return row.spec(known, seed=0, device="cpu")


def test_command_lines_that_mean_the_same_training_share_an_id() -> None:
    same = [
        spec_of(),
        spec_of("se.reduction=16"),
        spec_of("se.reduction={2:16,3:16,4:16}"),
        spec_of("se.stages=[4,3,2]"),
        spec_of("results=/tmp/elsewhere", "executor.workers=7", "seeds=9", "tracking=off", "training.keep=last"),
    ]
    assert len({spec.trial_id for spec in same}) == 1


def test_reductions_that_a_narrow_network_cannot_tell_apart_share_an_id() -> None:
    """resnet8 is 16, 32 and 64 channels wide: from r = 64 on, every gate has a hidden width of 1."""
    ids = {r: spec_of(f"se.reduction={r}").trial_id for r in (16, 32, 64, 100, 1000)}
    assert ids[64] == ids[100] == ids[1000]
    assert len(set(ids.values())) == 3


def test_a_command_line_comes_to_the_id_that_its_spec_has() -> None:
    recipe = [f"recipe.{key}={value}" for key, value in (("epochs", 30), ("lr", 0.05), ("weight_decay", 5e-4))]
    words = ["data.augment=crop", "data.validation=0.2", "recipe.batch_size=32", "recipe.schedule=cosine"]
    assert spec_of("backbone=resnet8", "se.reduction=16", *words, *recipe).trial_id == BASE.trial_id


def test_a_network_of_ones_own_is_told_by_its_structure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = """
from torchvision.models.resnet import BasicBlock, ResNet

def small(num_classes, in_channels=3):
    from torch import nn
    net = ResNet(BasicBlock, [1, 1, 1, 1], num_classes=num_classes)
    net.conv1 = nn.Conv2d(in_channels, 64, WIDTH, padding=1, bias=False)
    return net
"""
    monkeypatch.syspath_prepend(tmp_path)
    ids = []
    for width in (3, 3, 5):
        (tmp_path / "own_nets.py").write_text(source.replace("WIDTH", str(width)))
        for stale in tmp_path.rglob("*.pyc"):
            stale.unlink()
        sys.modules.pop("own_nets", None)
        ids.append(spec_of("backbone=own_nets:small").trial_id)
    sys.modules.pop("own_nets")
    assert ids[0] == ids[1] != ids[2]


def test_the_record_holds_the_whole_of_it_as_plain_values() -> None:
    config = BASE.config()
    assert spec_from(config) == BASE


def test_a_record_of_an_earlier_version_is_read() -> None:
    """It says in its configuration that no end of a block was fused, which was no part of its name."""
    assert spec_from({**BASE.config(), "fused_blocks": False}) == BASE
