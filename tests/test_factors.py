"""Any key that determines a result is a factor: with a file or without, alone or in a grid; its rows are the trainings
that the same words ask for one by one."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
from launching import one_line

from senet_lab.__main__ import main as commands
from senet_lab.commands.table import regenerate
from senet_lab.compose import compose
from senet_lab.config import RESULT, RUN, Config, Study, UserError, flat, walk
from senet_lab.factors import variable_keys
from senet_lab.reports.trials import read_trials
from senet_lab.run import main
from senet_lab.studies import plan
from senet_lab.studies.study import table_from_store

# Factor → two levels, as they are typed.
LEVELS = {
    "se.reduction": "4,16",
    "se.kind": "se,simam",
    "se.squeeze": "avg,max",
    "se.excitation": "sigmoid,tanh",
    "se.position": "standard,pre",
    "se.stages": "[2],all",
    "se.bias": "false,true",
    "se.identity_start": "false,true",
    "backbone": "resnet8,resnet20",
    "stride": "paper,torchvision",
    "data.augment": "none,crop",
    "data.cutout": "0,2",
    "data.validation": "0.1,0.2",
    "data.subset": "60,null",
    "recipe.epochs": "1,2",
    "recipe.batch_size": "16,32",
    "recipe.lr": "0.05,0.1",
    "recipe.lr_parts": "{},{fc: 10}",
    "recipe.momentum": "0.5,0.9",
    "recipe.nesterov": "false,true",
    "recipe.weight_decay": "0,1e-3",
    "recipe.decay_norm": "false,true",
    "recipe.schedule": "cosine,constant",
    "recipe.milestones": "[1],[1,2]",
    "recipe.factor": "0.1,0.2",
    "recipe.warmup_steps": "0,9",
    "recipe.warmup_lr": "0.01,0.02",
    "recipe.label_smoothing": "0,0.1",
    "recipe.sampling": "uniform,balanced",
    "recipe.ema": "0,0.9",
    "recipe.optimizer": "sgd,adamw",
    "recipe.warmup_epochs": "0,0.5",
    "recipe.warmup_start": "0.01,0.1",
    "recipe.peak": "0.2,0.3",
    "recipe.clip": "0,1",
    "recipe.loss": "cross_entropy,bce",
    "recipe.mixup": "0,0.2",
    "recipe.cutmix": "0,1",
    "data.size": "8,12",
    "data.test_size": "0,12",
    "data.policy": "none,randaugment",
    "data.erasing": "0,0.1",
    "training.precision": "32-true,bf16-mixed",
    "training.layout": "contiguous,channels_last",
    "training.optimiser": "plain,fused",
    "training.compile": "off,blocks",
    "training.freeze": "[],[conv1]",
}
# Of images in folders, or of GPUs, or of what `auto` stands for there, or of one kind of gate.
ELSEWHERE = {"data.resize", "data.crops", "data.scales", "training.path", "training.feed"}
ELSEWHERE |= {"training.sync_batchnorm", "se.args"}
# Where something else is asked for, too: an optimiser, a policy, a network with layers for it.
ELSEWHERE |= {"recipe.optimizer_args", "data.policy_args", "recipe.stochastic_depth"}
ELSEWHERE |= {"init"}  # takes files: test_starting
NAMED = {"se", "recipe"}


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "sweeps/ablation").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def vary(key: str, levels: str, *words: str) -> list[str]:
    return [f"+vary={key}", f"levels=[{levels}]", *words]


def split(levels: str) -> list[str]:
    """At the commas outside of brackets."""
    parts, depth = [""], 0
    for letter in levels:
        depth += (letter == "[") - (letter == "]")
        if letter == "," and not depth:
            parts.append("")
        else:
            parts[-1] += letter
    return parts


def ids(words: list[str]) -> list[str]:
    return [cell.trial_id for cell in plan.make_plan(compose([*words, "seeds=1"])).cells]


def test_every_key_that_determines_a_result_is_tried_here() -> None:
    assert {*LEVELS, *ELSEWHERE, *NAMED} == set(variable_keys())


@pytest.mark.parametrize("key", LEVELS)
def test_a_level_is_the_training_that_its_word_asks_for(key: str) -> None:
    first, second = ids(vary(key, LEVELS[key]))
    assert first != second or key == "stride", "no level is another one's training"
    assert [second] == ids([f"{key}={split(LEVELS[key])[1]}"])


def test_recipes_are_varied_by_name_and_bring_all_that_they_say() -> None:
    words = ["recipe.epochs=3", "data.subset=90"]
    composed = compose(vary("recipe", "quick,wrn", *words))
    made = plan.make_plan(composed)
    assert [row.label for row in made.rows] == ["recipe = quick", "recipe = wrn"]
    assert [row.recipe for row in made.rows] == ["quick-epochs=3", "wrn-epochs=3"]
    assert ids(vary("recipe", "quick,wrn", *words)) == [*ids(words), *ids(["recipe=wrn", *words])]
    assert ids(vary("recipe.name", "quick,wrn", *words)) == ids(vary("recipe", "quick,wrn", *words))


def test_without_se_is_a_level() -> None:
    assert ids(vary("se", "false,true")) == [*ids(["se=null"]), *ids([])]
    assert ids(vary("se.reduction", "off,4")) == [*ids(["se=null"]), *ids(["se.reduction=4"])]


def test_the_baseline_is_what_the_configuration_has() -> None:
    def baseline(*words: str, levels: str = "0.05,0.1,0.2") -> str:
        study = compose(vary("recipe.lr", levels, *words)).config.study
        assert study is not None
        return study.baseline

    assert baseline() == "lr = 0.1"
    assert baseline("recipe.lr=0.2") == "lr = 0.2"
    assert baseline(levels="0.05,0.2") == "lr = 0.05", "the first, where the recipe has none of them"
    assert baseline("study.baseline='lr = 0.05'") == "lr = 0.05"


def test_levels_in_a_file_are_the_same_study(here: Path) -> None:
    head = "# @package _global_\nstudy:\n  name: mine\n"
    (here / "sweeps/ablation/mine.yaml").write_text(head + "  factor: recipe.lr\n  levels: [0.05, 0.1]\n")
    assert ids(["+ablation=mine"]) == ids(vary("recipe.lr", "0.05,0.1"))
    study = compose(["+ablation=mine", "study.only=['lr = 0.05']"]).config.study
    assert study is not None
    assert list(study.rows) == ["lr = 0.05", "lr = 0.1"], "with its baseline"
    grid = "  design: grid\n  factors: {se.reduction: [4, 16], se.position: [standard, pre]}\n"
    (here / "sweeps/ablation/mine.yaml").write_text(head + grid)
    words = ["+vary=[se.reduction,se.position]", "levels=[[4,16],[standard,pre]]"]
    assert ids(["+ablation=mine"]) == ids(words)


def test_a_grid_has_every_combination() -> None:
    made = plan.make_plan(compose(["+vary=[se.reduction,recipe.lr]", "levels=[[off,4],[0.1,0.2]]", "seeds=1"]))
    assert [(row.label, row.levels) for row in made.rows] == [
        ("no SE, lr = 0.1", {"se.reduction": None, "recipe.lr": 0.1}),
        ("no SE, lr = 0.2", {"se.reduction": None, "recipe.lr": 0.2}),
        ("reduction = 4, lr = 0.1", {"se.reduction": 4, "recipe.lr": 0.1}),
        ("reduction = 4, lr = 0.2", {"se.reduction": 4, "recipe.lr": 0.2}),
    ]
    words = [[se, f"recipe.lr={lr}"] for se in ("se=null", "se.reduction=4") for lr in ("0.1", "0.2")]
    assert [cell.trial_id for cell in made.cells] == [trial_id for each in words for trial_id in ids(each)]


def test_what_a_backbone_takes_along_is_said(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = "    a: {backbone: resnet8}\n    b: {backbone: resnet20, recipe: wrn}\n"
    text = f"# @package _global_\nstudy:\n  name: mine\n  factor: backbone\n  baseline: a\n  rows:\n{rows}"
    (here / "sweeps/ablation/mine.yaml").write_text(text)
    assert ids(["+ablation=mine"]) == [*ids([]), *ids(["backbone=resnet20", "recipe=wrn"])]
    assert main(["+ablation=mine", "plan=true"]) == 0
    assert "\nb: recipe wrn, 200 epochs\n" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (
            vary("recipe.momentum", "0.9,0.5", "recipe.optimizer=adamw"),
            "only with recipe.optimizer=sgd; here it is adamw",
        ),
        (vary("recipe.peak", "0.2,0.3"), "only with recipe.schedule=onecycle; here it is cosine"),
        (vary("recipe.warmup_lr", "0.1,0.2"), "only with recipe.warmup_steps above 0; here it is 0"),
        (vary("data.resize", "0,20"), "only with data.name=folder; here it is digits"),
        (vary("recipe.warmup_start", "0.1,0.2", "recipe.warmup_epochs=0.5"), ""),
        (["+vary=[recipe.optimizer,recipe.momentum]", "levels=[[sgd,adamw],[0.9,0.8]]"], ""),
    ],
)
def test_what_has_no_part_in_a_training_is_told_before_it(
    words: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*words, "plan=true"]) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert (f"makes a difference {told}: its rows are trained alike" in out) == bool(told)
    assert ("makes a difference" in out) == bool(told)


def test_what_has_nothing_to_do_with_the_paper_shows_nothing_of_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(vary("recipe.lr", "0.05,0.1", "plan=true")) == 0
    assert "ResNet-50" not in capsys.readouterr().out
    assert main(["+ablation=ratio", "plan=true"]) == 0
    assert "ResNet-50" in capsys.readouterr().out


# ----------------------------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("words", "answer"),
    [
        (
            vary("recipe.lrr", "1,2"),
            "+vary: 'recipe.lrr' cannot be varied (did you mean recipe.lr?); what can: se, recipe",
        ),
        (vary("executor.workers", "1,2"), "+vary: 'executor.workers' cannot be varied, because it is the same for all"),
        (vary("tracking", "off,auto"), "+vary: 'tracking' cannot be varied, because it is the same for all rows"),
        (vary("data.name", "digits,cifar10"), "+vary: 'data.name' cannot be varied, because it is the same for all"),
        (vary("recipe.lr", "-1,0.1"), "recipe.lr=-1.0 is not between 1e-09 and 1e+09"),
        (vary("recipe.lr", "0.1,x"), "study.rows.lr = x: recipe.lr: Value 'x'"),
        (vary("recipe.epochs", "1.5,2"), "study.rows.epochs = 1.5: recipe.epochs: Value '1.5'"),
        (vary("recipe.schedule", "cosine,x"), "recipe.schedule: there is no 'x'; there are constant, cosine, step"),
        (vary("se.excitation", "relu,x"), "'x' is not one of sigmoid, softmax, tanh, relu"),
        (vary("recipe", "quick,x"), "there is no recipe 'x'; there are cifar, "),
        (vary("se", "x,true"), "levels of se: there are false and true"),
        (vary("recipe.lr", "0.1,0.10"), "levels of recipe.lr: 0.1 is there twice"),
        (vary("recipe.epochs", "1,1.0"), "levels of recipe.epochs: 1 is there twice"),
        (vary("recipe.lr", "0.1"), "levels of recipe.lr: [0.1] is not a list of at least two levels"),
        (["+vary=recipe.lr", "levels=0.1"], "levels of recipe.lr: 0.1 is not a list of at least two levels"),
        (["+vary=recipe.lr"], "+vary=recipe.lr: which levels? One list of them: 'levels=[…]'"),
        (["levels=[1,2]"], "levels=[1,2]: levels of what? +vary=KEY says it"),
        (
            ["+vary=[recipe.lr,se.bias]", "levels=[1,2,3]"],
            "levels=[1,2,3]: it has as many lists of levels as there are",
        ),
        (["+vary=[recipe.lr,recipe.lr]", "levels=[[1,2],[3,4]]"], "+vary=[recipe.lr,recipe.lr]: a key is there twice"),
        (["+vary=[recipe.lr", "levels=[1,2]"], "'+vary=[recipe.lr' cannot be read"),
        (["+vary={recipe.lr:1}", "levels=[1,2]"], "+vary={recipe.lr:1}: it is a key, or a list of keys"),
        (vary("recipe.lr", "1,2", "+ablation=ratio"), "one study at a time: +vary=recipe.lr and ratio were asked for"),
        (vary("recipe.lr", "1,2", "+vary=se.bias"), "one study at a time: +vary=recipe.lr and +vary=se.bias"),
        (
            ["+vary=recipe.lr", "levels=[1,2]", "recipe.lr=3"],
            "recipe.lr: a word chooses the baseline among the levels, which are 1, 2",
        ),
        (["+ablation=ratio", "se.reduction=4"], "se.reduction: each row of ratio sets it, because"),
        (["+ablation=ratio", "study.levels=[1,2]"], "the study ratio lists rows, and levels that would be rows"),
        (["+ablation=ratio", "study.rows={}", "seeds=[3,3]"], "seeds=[3, 3]: a list names different whole numbers"),
        (["seeds=[]"], "seeds=[]: a list names different whole numbers from 0 to 9999"),
        (["seeds=[-1]"], "seeds=[-1]: a list names different whole numbers"),
        (["seeds=[0.5]"], "seeds=[0.5]: a list names different whole numbers"),
        (["+search=tabular", "seeds=[0,1]"], "seeds=[0, 1]: a search has a number of seeds"),
    ],
)
def test_words_that_are_no_factor_or_no_levels_are_one_line(
    here: Path, capsys: pytest.CaptureFixture[str], words: list[str], answer: str
) -> None:
    assert main([*words, "plan=true"]) == 2
    seen = capsys.readouterr()
    assert one_line(seen.err, answer), seen.err
    assert seen.out == ""
    assert not (here / "results").exists()


@pytest.mark.parametrize(
    ("study", "answer"),
    [
        ("levels: [1, 2]", "study.levels: what they are levels of is study.factor"),
        ("factors: {recipe.lr: [0.1, 0.2], se.bias: [false, true]}", "vary together in a grid: study.design=grid"),
        ("factors: {recipe.lr: 0.1}", "levels of recipe.lr: 0.1 is not a list"),
        (
            "{factor: recipe.lr, levels: [0.1, 0.2], design: cube}",
            "study.design: there is no 'cube'; there are rows, grid",
        ),
    ],
)
def test_a_file_of_levels_that_is_wrong_is_one_line(
    here: Path, capsys: pytest.CaptureFixture[str], study: str, answer: str
) -> None:
    body = study.strip("{}") if study.startswith("{") else study
    text = "# @package _global_\nstudy: {name: mine, " + body + "}\n"
    (here / "sweeps/ablation/mine.yaml").write_text(text)
    assert main(["+ablation=mine", "plan=true"]) == 2
    seen = capsys.readouterr()
    assert one_line(seen.err, answer), seen.err


# --------------------------------------------------------------------------------------------------------- declarations


def test_what_only_the_run_bears_on_changes_no_trial() -> None:
    """Second implementation of what a trial is: its id knows which keys are declared to change no result."""
    other: dict[type, Any] = {bool: True, int: 7, float: 0.5, str: "other"}
    config = compose([]).config
    before = plan.make_plan(compose([])).cells[0].trial_id
    changed = dataclasses.replace(config, executor=dataclasses.replace(config.executor))
    idle = {key for key, declared, _ in walk(config) if declared.decides == RUN} - {
        "executor.threads",
        "training.device",
    }
    assert {"executor.workers", "tracking", "data.workers", "recipe.name", "training.keep"} <= idle
    for key in ("recipe.name", "data.root", "data.download", "data.workers", "data.identity"):
        assert key in idle
        part, name = key.split(".")
        value = getattr(getattr(changed, part), name)
        setattr(getattr(changed, part), name, other[type(value)])
    composed = compose(["executor.workers=7", "training.keep=last", "training.outputs=off", "tracking=off", "margin=1"])
    assert plan.make_plan(composed).cells[0].trial_id == before
    spec = plan.make_plan(compose([])).cells[0].spec
    assert dataclasses.replace(spec, data=changed.data, recipe=changed.recipe).trial_id == before
    assert {key for key, declared, _ in walk(Config()) if declared.decides == RESULT} == {*variable_keys()} - NAMED
    assert set(flat(Config(study=Study()))) > idle - {"study"}


# ------------------------------------------------------------------------------------------------------- a whole study


@pytest.mark.slow
def test_machines_without_a_common_store_share_a_study(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Named seeds, trained apart and put together by their trials.csv, are the study that one machine trains."""
    words = vary("data.subset", "40,60", "recipe.epochs=1", "data.test_subset=90", "tracking=off", "executor.workers=1")
    folder = "digits-test_subset=90/resnet8-quick-epochs=1/data.subset=40_60"
    for place, seeds in (("a", "[0,2]"), ("b", "[1]"), ("whole", "3")):
        assert main([*words, f"seeds={seeds}", f"results={place}"]) == 0
    files = [str(here / place / folder / "trials.csv") for place in ("a", "b")]
    assert commands(["store", "import", *files, "--storage", "sqlite:///together/lab.db"]) == 0
    capsys.readouterr()
    assert main([*words, "seeds=3", "results=together"]) == 0
    assert "all 6 trials are recorded: nothing to train" in capsys.readouterr().out
    for name in ("trials.csv", "table.md", "table.csv", "figure.svg"):
        assert (here / "together" / folder / name).read_bytes() == (here / "whole" / folder / name).read_bytes(), name
    trials = read_trials(here / "whole" / folder / "trials.csv")
    assert list(trials["factors"].unique()) == ["data.subset"]
    assert list(trials["data.subset"].unique()) == ["40", "60"]
    assert list(trials["train_images"].unique()) == [40, 60]
    before = (here / "whole" / folder / "table.md").read_bytes()
    regenerate(here / "whole" / folder / "trials.csv", here / "whole" / folder)
    assert (here / "whole" / folder / "table.md").read_bytes() == before
    assert commands(["table", *words, "seeds=3", "results=together"]) == 0
    with pytest.raises(UserError, match="has 6 of the 8 trials"):
        table_from_store([*words, "seeds=4", "results=together"])
