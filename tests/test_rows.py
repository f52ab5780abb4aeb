"""The rows of a study: one factor, no null rows, the paper's costs; and every study that the lab brings."""

from __future__ import annotations

import copy
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from senet_lab import models
from senet_lab.compose import choices, compose, compose_all
from senet_lab.config import Config, Study, UserError
from senet_lab.naming import with_labels
from senet_lab.reports import paper
from senet_lab.studies import paper_costs, plan
from senet_lab.studies.cost_in_paper import FILE, cost_in_paper
from senet_lab.studies.rows import Row, build_rows
from senet_lab.training.data import DataFacts, data_facts
from senet_lab.training.lit import SENet

DIGITS = data_facts(compose([]).config.data)
BASE = compose([]).config


def study_of(rows: dict[str, Any], factor: str = "se.reduction", baseline: str = "a", **changes: Any) -> Config:
    """A configuration with a study of these rows."""
    config = copy.deepcopy(BASE)
    config.study = Study(name="made", factor=factor, baseline=baseline, rows=rows)
    for key, value in changes.items():
        setattr(config, key, value)
    return config


def rows_of(*args: Any, data_facts: DataFacts = DIGITS, **kwargs: Any) -> list[Row]:
    return build_rows(with_labels(study_of(*args, **kwargs), BASE, {}), data_facts)[0]


def rows_for(*words: str) -> list[Row]:
    """The rows that these words ask for, on the digits."""
    return build_rows(compose(words), DIGITS)[0]


def refusal(*args: Any, **kwargs: Any) -> str:
    """What a study is refused with."""
    with pytest.raises(UserError) as caught:
        rows_of(*args, **kwargs)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# --------------------------------------------------------------------------------------------------------- one factor


def test_rows_change_the_factor_and_nothing_else() -> None:
    rows = rows_of({"a": {"se.reduction": 2}, "b": {"se.reduction": {2: 4, 3: 8}}, "off": {"se": None}})
    assert [row.label for row in rows] == ["a", "b", "off"]
    assert [row.se.reduction if row.se else None for row in rows] == [{2: 2, 3: 2, 4: 2}, {2: 4, 3: 8}, None]
    assert {row.config.recipe.lr for row in rows} == {BASE.recipe.lr}
    assert BASE.se is not None
    assert BASE.se.reduction == 16, "the base is left as it was"


def test_a_second_factor_is_shown() -> None:
    text = refusal({"a": {"se.reduction": 2}, "b": {"se.reduction": 4, "se.position": "pre"}})
    assert text == "row 'b' changes more than se.reduction, compared with 'a': se.position: standard → pre"
    text = refusal({"a": {"se.reduction": 2}, "b": {"se": None, "recipe.lr": 0.5}})
    assert "row 'b' changes more" in text
    assert "recipe.lr: 0.1 → 0.5" in text


def test_rows_with_se_are_compared_with_each_other_where_the_baseline_has_none() -> None:
    text = refusal({"a": {"se": None}, "b": {"se.reduction": 4}, "c": {"se.reduction": 8, "se.excitation": "tanh"}})
    assert text == "row 'c' changes more than se.reduction, compared with 'b': se.excitation: sigmoid → tanh"


def test_a_change_that_all_rows_share_is_no_second_factor() -> None:
    rows = rows_of({"a": {"se.reduction": 2, "recipe.lr": 0.2}, "b": {"se.reduction": 4, "recipe.lr": 0.2}})
    assert {row.config.recipe.lr for row in rows} == {0.2}


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ({"b": {"se.foo": 1}}, ("study.rows.b: there is no key 'se.foo'", "reduction, squeeze")),
        ({"b": {"se.reductoin": 1}}, ("did you mean reduction?",)),
        ({"b": {"recipe.lr": "much"}}, ("study.rows.b: recipe.lr: Value 'much'",)),
        ({"b": {"recipe.lr": -1}}, ("study.rows.b: recipe.lr=-1.0 is not between",)),
        ({"b": {"se.reduction": 0}}, ("row 'b': se.reduction: 0 is not a whole number",)),
        ({"b": {"se.reduction": "4"}}, ("row 'b': se.reduction: '4' is not a whole number",)),
        ({"b": {"se.reduction": {7: 4}}}, ("row 'b'", "no stage 7; it has 2, 3, 4")),
        ({"b": {"se": None, "se.reduction": 4}}, ("study.rows.b: se.reduction cannot be set, because se is null",)),
        ({"b": 3}, ("study.rows.b: 3 is not a mapping",)),
        ({"b": None}, ("study.rows.b: None is not a mapping",)),
        ({" ": {}}, ("' ' cannot be the label of a row",)),
        ({"two\nlines": {}}, ("cannot be the label of a row",)),
    ],
)
def test_a_row_that_cannot_be_is_named(rows: dict[str, Any], words: tuple[str, ...]) -> None:
    text = refusal({"a": {"se.reduction": 2}, **rows})
    assert all(word in text for word in words), text


def test_a_study_that_says_nothing_is_refused() -> None:
    assert refusal({}) == "the study made is empty: study.rows has no row"
    assert "there is no row 'x' in made; there are a, b" in refusal({"a": {}, "b": {}}, baseline="x")
    for factor in ("", "foo", "data.name", "data.test_subset", "seeds"):
        text = refusal({"a": {}}, factor=factor)
        assert text.startswith(f"study.factor: '{factor}' cannot be varied")
        assert "; what can: se, recipe, backbone, stride, init" in text


def test_se_may_be_off_for_all_rows() -> None:
    rows = rows_of({"a": {"recipe.lr": 0.1}, "b": {"recipe.lr": 0.2}}, factor="recipe.lr", se=None)
    assert [(row.se, row.config.recipe.lr) for row in rows] == [(None, 0.1), (None, 0.2)]
    assert "because se is null" in refusal({"a": {"se.reduction": 2}}, se=None)


# ------------------------------------------------------------------------------------------------------ same networks


def test_rows_that_build_the_same_network_are_pointed_out_and_share_their_trials() -> None:
    """16 channels in stage 2: r = 16 and r = 32 both leave one hidden unit."""
    config = compose(["+ablation=ratio", "se.stages=[2]", "seeds=2"])
    made = plan.make_plan(config)
    assert made.twins == [["r = 16", "r = 32"]]
    ids = {row.label: [cell.trial_id for cell in made.cells if cell.row is row] for row in made.rows}
    assert ids["r = 16"] == ids["r = 32"]
    assert len(made.cells) == 12
    assert len(made.trials) == len(made.todo) == 10


def test_rows_that_differ_share_nothing() -> None:
    made = plan.make_plan(compose(["+ablation=ratio"]))
    assert made.twins == []
    assert len(made.trials) == len(made.cells) == 18


def test_only_the_gates_are_new(tmp_path: Path) -> None:
    """Every row starts from the same backbone weights, given the same seed."""
    made = plan.make_plan(compose(["+ablation=ratio", "seeds=1"]))
    plain: dict[str, torch.Tensor] = {}
    for cell in reversed(made.cells):  # the row without SE comes last
        spec = cell.spec
        net = SENet(spec.backbone, spec.se, spec.classes, spec.channels, spec.stride, spec.recipe, spec.seed).net
        weights = {key.replace(".body", ""): value for key, value in net.state_dict().items() if ".se." not in key}
        plain = plain or weights
        assert weights.keys() == plain.keys()
        assert all(torch.equal(weights[key], plain[key]) for key in plain)


# -------------------------------------------------------------------------------------------------------------- costs


def test_the_ratio_study_costs_what_the_paper_says() -> None:
    rows = rows_for("+ablation=ratio")
    costs = [cost_in_paper("resnet50", row.config.se, 224, 1000) for row in rows]
    assert costs == [row.paper_cost for row in rows]  # as kept
    assert [cost.params for cost in costs if cost] == [
        45_676_584,
        35_616_808,
        30_586_920,
        28_071_976,
        26_814_504,
        25_557_032,
    ]
    assert [f"{cost.macs / 1e9:.3f}" for cost in costs[3:6:2] if cost] == ["3.872", "3.858"]


@pytest.mark.slow
def test_kept_costs_are_those_that_are_counted(tmp_path: Path) -> None:
    """Rows of all studies: 25 networks are counted."""
    paper_costs.write_kept(tmp_path / "costs.json")
    assert (tmp_path / "costs.json").read_text() == FILE.read_text()


def test_costs_are_those_of_the_network_that_is_trained() -> None:
    (row,) = rows_for("backbone=resnet20", "se.reduction=4")
    net = models.create("resnet20", row.se, 10, in_channels=1)
    assert row.cost.params == sum(weight.numel() for weight in net.parameters())
    assert row.hidden == {2: (4, 4, 4), 3: (8, 8, 8), 4: (16, 16, 16)}


def test_a_design_that_the_papers_network_lacks_has_no_cost_there(monkeypatch: pytest.MonkeyPatch) -> None:
    (row,) = rows_for("se.reduction={2:4}")
    assert row.paper_cost is not None
    monkeypatch.setattr("senet_lab.studies.cost_in_paper.PAPER_NETWORK", "resnet20")
    (row,) = rows_for("backbone=resnet50", "se.stages=[5]")
    assert row.paper_cost is None


# ------------------------------------------------------------------------------------------------------- every study


SEVERAL = [name for name in choices("ablation") if name.startswith("networks_")]
# What their default data sets are like; of a folder, ImageNet's.
FACTS = {"cifar10": DataFacts("made up", tuple(map(str, range(10))), 3, 90, 10, 100)}
FACTS["cifar100"] = replace(FACTS["cifar10"], classes=tuple(map(str, range(100))))
FACTS["folder"] = replace(FACTS["cifar10"], classes=tuple(map(str, range(1000))))


@pytest.mark.parametrize(
    "name", [name if name == "networks_places" else pytest.param(name, marks=pytest.mark.slow) for name in SEVERAL]
)
def test_every_study_of_networks_composes_and_builds(name: str) -> None:
    """As pairs, each of one network, plain and with SE, that costs what the paper's own does."""
    composed = compose([f"+ablation={name}"])
    study = composed.config.study
    assert study is not None
    assert study.name == name
    assert study.title
    facts = FACTS[composed.config.data.name]
    rows, absent = build_rows(composed, facts)
    assert [row.label for row in rows] == list(paper.paper_table(study.paper).rows) == list(study.rows)
    assert absent == []
    assert len({(row.network, row.recipe, row.data) for row in rows}) == len(rows)
    for plain, se in zip(rows[::2], rows[1::2], strict=True):
        assert (plain.baseline, se.baseline) == (plain.label, plain.label)
        assert (plain.se, plain.cost.se_params, plain.hidden) == (None, 0, {})
        assert se.se is not None
        assert set(se.se.reduction.values()) == {16}
        assert se.cost.params - se.cost.se_params == plain.cost.params
        assert (plain.data, plain.recipe) == (se.data, se.recipe)
        for row in (plain, se):
            assert row.config.backbone == plain.config.backbone
            size = paper.paper_table(study.paper).row(row.paper_row).size
            assert row.config.data.size == size
            assert row.paper_cost is not None
            head = row.cost.params - row.paper_cost.params  # what other classes make of the classifier
            assert (head == 0) == (name != "networks_places")
            printed = paper.paper_table(study.paper).row(row.paper_row).gflops
            if printed and "Inception-ResNet" not in row.label:  # printed for a network that was never released
                assert row.paper_cost.macs / 1e9 == pytest.approx(printed, abs=0.03)


def test_images_that_are_too_small_for_the_network_are_refused_with_the_smallest() -> None:
    with pytest.raises(
        UserError, match=r"^images of 8 × 8 pixels are too small: the network takes 32 × 32 and larger$"
    ):
        rows_for("backbone=vgg16")


def test_stages_are_those_that_the_network_has() -> None:
    three, four = (
        plan.make_plan(compose(["+ablation=stages", f"backbone={name}"])) for name in ("resnet8", "resnet18")
    )
    assert three.left_out == ["stage 5"]
    assert three.title == "Stages (stage 5: not in this network)"
    assert (four.left_out, four.title) == ([], "Stages")
    hidden = {row.label: list(row.hidden) for row in four.rows}
    assert (hidden["stage 5"], hidden["all but the last"], hidden["all"]) == ([5], [2, 3, 4], [2, 3, 4, 5])
    assert {row.label: list(row.hidden) for row in three.rows}["all but the last"] == [2, 3]
    inception = plan.make_plan(compose(["+ablation=stages", "backbone=bn_inception"]))
    assert inception.left_out == ["stage 2"]
    assert {row.label: list(row.hidden) for row in inception.rows}["all but the last"] == [3, 4]
    assert "no stage 7" in refusal({"a": {"se.stages": [2]}, "b": {"se.stages": [7]}}, factor="se.stages")


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("cifar.resnet([8, 8, 8, 14][time], num_classes, in_channels)", "without SE its network has "),
        (
            "activated(cifar.resnet(8, num_classes, in_channels), [nn.ReLU, nn.ReLU, nn.ReLU, nn.SiLU][time])",
            "without SE its network runs aten.relu_.default 0 times in stage 3, that of 'a' 2 times",
        ),
    ],
    ids=["depth", "an activation, which has neither parameters nor multiply-adds"],
)
def test_a_builder_that_changes_its_mind_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, body: str, words: str
) -> None:
    """The words differ in one factor, the networks in more."""
    name = f"moody{len(body)}"  # modules are imported once
    (tmp_path / f"{name}.py").write_text(
        "import itertools\n"
        "from torch import nn\n"
        "from senet_lab.models import cifar\n"
        "times = itertools.cycle(range(4))\n"
        "def activated(made, activation):\n"
        "    made.layer2[0].relu = activation(inplace=True)\n"
        "    return made\n"
        "def net(num_classes, in_channels):\n"
        "    time = next(times)\n"
        f"    return {body}\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    rows = {"a": {"se.reduction": 2}, "b": {"se.reduction": 4}, "c": {"se.reduction": 8}, "d": {"se.reduction": 16}}
    text = refusal(rows, backbone=f"{name}:net")
    assert re.fullmatch(rf"row '[bcd]' changes more than se.reduction: {words}.*", text)


def test_all_studies_are_one_plan() -> None:
    studies = compose_all(["+ablation=all", "seeds=2"])
    names = [study.config.study.name for study in studies if study.config.study]
    assert names == ["ratio", "squeeze", "excitation", "stages", "position", "conv3x3", "nosqueeze"]
    plans = [plan.make_plan(study) for study in studies]
    for each in plans:
        assert each.config.study is not None
        assert each.config.study.title
        assert {*(row.label for row in each.rows), *each.left_out} == {*each.config.study.rows}
        assert all(row.paper_cost for row in each.rows)
        assert each.twins == []
    whole = plan.merge_plans(plans)
    assert len(whole.cells) == 2 * sum(len(each.rows) for each in plans) == 2 * 27
    # r = 16, avg, sigmoid, all stages, standard are the same network in seven tables, no SE in three.
    assert len(whole.trials) == len(whole.todo) == 2 * (27 - 6 - 2)
    seeds = [cell.seed for cell in whole.todo]
    assert seeds == sorted(seeds)
    with pytest.raises(UserError, match=r"no key 'recipe\.epoch'"):
        compose_all(["+ablation=all", "recipe.epoch=1"])


def test_a_word_for_all_studies_passes_over_those_that_vary_it() -> None:
    reductions = {
        study.config.study.name: {row.config.se.reduction for row in plan.make_plan(study).rows if row.config.se}
        for study in compose_all(["+ablation=all", "se.reduction=8"])
        if study.config.study
    }
    assert reductions.pop("ratio") == {2, 4, 8, 16, 32}
    assert set.union(*reductions.values()) == {8}
    assert len(reductions) == 6


def test_every_choice_composes() -> None:
    pairs = [("digits", recipe) for recipe in choices("recipe")] + [(data, "quick") for data in choices("data")]
    for data, recipe in pairs:
        made = compose([f"data={data}", f"recipe={recipe}"])
        assert (made.config.data.name, made.config.recipe.name) == (data, recipe)
