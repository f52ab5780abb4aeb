"""Studies of several networks: each row has its own baseline, and is compared fairly with that alone; what the user's
words replace, choose and refuse."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from launching import one_line

from senet_lab.commands.table import regenerate
from senet_lab.compose import compose, compose_all
from senet_lab.config import Study
from senet_lab.naming import Composed
from senet_lab.reports.tables import read_trials
from senet_lab.run import main
from senet_lab.selection import picked
from senet_lab.studies import plan
from senet_lab.studies.study import table_from_store
from senet_lab.studies.variants import Variant, variants

CIFAR10 = "+ablation=networks_cifar10"
HEAD = "# @package _global_\nstudy:\n  name: mine\n  factor: se\n  rows:\n"
PAIR = "    a: {backbone: resnet8, se: null}\n    SE-a: {backbone: resnet8, baseline: a}\n"


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "sweeps/ablation").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def by_label(composed: Composed) -> dict[str, Variant]:
    return {each.label: each for each in variants(composed)}


# -------------------------------------------------------------------------------------------------------------- recipes


def test_one_recipe_replaces_them_all() -> None:
    made = by_label(compose([CIFAR10, "recipe=quick"]))
    assert {each.recipe for each in made.values()} == {"quick"}
    assert {each.data for each in made.values()} == {"cifar10"}, "Cutout goes with its recipe"
    assert {repr(each.config.recipe) for each in made.values()} == {repr(compose(["recipe=quick"]).config.recipe)}
    made = by_label(compose([CIFAR10, "recipe=quick", "data.cutout=4"]))
    assert {each.data for each in made.values()} == {"cifar10-cutout=4"}


def test_a_word_for_a_single_key_changes_it_in_every_recipe() -> None:
    composed = compose([CIFAR10, "recipe.epochs=200", "data.cutout=0", "se.reduction=8"])
    made = by_label(composed)
    assert {each.config.recipe.epochs for each in made.values()} == {200}
    assert made["ResNet-110"].recipe == "cifar-reduction=8-epochs=200"
    assert made["WRN-16-8"].recipe == "wrn-reduction=8", "which has 200 epochs anyway"
    assert made["WRN-16-8"].config.recipe.factor == 0.2
    assert {each.config.data.cutout for each in made.values()} == {0}
    assert {each.config.se.reduction for each in made.values() if each.config.se} == {8}
    assert composed.folder == "cifar10/networks-cifar+wrn+shake_cifar10-reduction=8-epochs=200/networks_cifar10"


def test_what_a_row_has_of_its_own_is_named() -> None:
    words = ["+ablation=networks_imagenet", "data.root=/data/imagenette"]
    made = by_label(compose(words))
    assert (made["ResNet-50"].data, made["ResNet-50"].recipe) == ("folder-imagenette", "imagenet")
    assert made["SE-BN-Inception"].recipe == "imagenet-weight_decay=0.0002"
    assert made["SE-Inception-ResNet-v2"].data == "folder-imagenette-size=299"
    small = by_label(compose([*words, "data.size=64"]))
    assert {each.config.data.size for each in small.values()} == {64}
    assert {each.data for each in small.values()} == {"folder-imagenette-size=64"}
    quick = by_label(compose([*words, "recipe=quick"]))
    assert {each.recipe for each in quick.values()} == {"quick"}
    assert quick["Inception-ResNet-v2"].config.data.size == 299


# -------------------------------------------------------------------------------------------------------------- choices


@pytest.mark.parametrize(
    ("only", "labels"),
    [
        ("wrn16_8", ["WRN-16-8", "SE-WRN-16-8"]),
        ("WRN-16-8", ["WRN-16-8", "SE-WRN-16-8"]),
        ("SE-WRN-16-8", ["WRN-16-8", "SE-WRN-16-8"]),
        ("wrn16_8,SE-ResNet-110", ["ResNet-110", "SE-ResNet-110", "WRN-16-8", "SE-WRN-16-8"]),
        ("Shake-Shake 26 2x96d", ["Shake-Shake 26 2x96d", "SE-Shake-Shake 26 2x96d"]),
    ],
)
def test_pairs_are_chosen_by_row_or_backbone(only: str, labels: list[str]) -> None:
    rows: dict[str, Any] = {
        label: {"backbone": backbone, **({"baseline": label.removeprefix("SE-")} if "SE-" in label else {})}
        for name, backbone in (("ResNet-110", "preresnet110"), ("WRN-16-8", "wrn16_8"), ("Shake-Shake 26 2x96d", "x"))
        for label in (name, f"SE-{name}")
    }
    assert picked(Study(rows=rows, only=only.split(","))) == labels


def test_rows_of_one_network_are_chosen_with_their_baseline() -> None:
    study = compose(["+ablation=ratio", "study.only=['r = 2']"]).config.study
    assert study is not None
    assert list(study.rows) == ["r = 2", "r = 16"]
    study = compose(["+ablation=ratio", "study.only=['r = 16']"]).config.study
    assert study is not None
    assert len(study.rows) == 6, "a baseline stands for all that is compared with it"
    study = compose(["+ablation=ratio", "study.only=['r = 16','r = 2']"]).config.study
    assert study is not None
    assert list(study.rows) == ["r = 2", "r = 16"], "unless some of that is named"


def test_chosen_pairs_are_filed_apart() -> None:
    assert compose([CIFAR10, "recipe=quick"]).folder == "cifar10/networks-quick/networks_cifar10"
    chosen = compose([CIFAR10, "study.only=[wrn16_8,ResNet-110]"])
    assert chosen.folder == "cifar10/networks-cifar+wrn/networks_cifar10-only=wrn16_8_ResNet-110"


def test_the_papers_studies_of_one_network_stay_the_seven() -> None:
    studies = [each.config.study for each in compose_all(["+ablation=all", "backbone=resnet20"])]
    assert [study.paper for study in studies if study] == [f"table{number}" for number in range(10, 17)]


def test_a_pair_is_the_same_two_trainings_as_its_networks_alone() -> None:
    """A pair that was trained for the table is never trained again, and the other way round."""
    pair = plan.make_plan(compose([CIFAR10, "study.only=[wrn16_8]", "seeds=1"])).cells
    alone = [
        plan.make_plan(compose(["data=cifar10", "recipe=wrn", "backbone=wrn16_8", *more])).cells[0]
        for more in (["se=null"], [])
    ]
    assert [cell.trial_id for cell in pair] == [cell.trial_id for cell in alone]


# ------------------------------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("words", "answer"),
    [
        ("backbone=resnet20", "backbone: the rows of networks_cifar10 name their own networks; study.only=[…] chooses"),
        ("study.only=[wrn16-8]", "study.only: networks_cifar10 has no row 'wrn16-8' (did you mean wrn16_8?); it has R"),
        ("study.only=wrn16_8", "study.only"),
        ("se=null", "row 'SE-ResNet-110' does not differ from 'ResNet-110', its baseline: neither has SE"),
        ("study.paper=table2", "study.paper=table2: the paper's table 2 has no row 'ResNet-110'; it has ResNet-50, "),
        ("study.paper=table1", "study.paper=table1: "),
        ("data=digits", "row 'Shake-Shake 26 2x96d': data.cutout=16 is not between 0 and data.size=8"),
    ],
)
def test_words_that_do_not_fit_pairs_are_refused(
    here: Path, capsys: pytest.CaptureFixture[str], words: str, answer: str
) -> None:
    assert main([CIFAR10, "data.download=true", "plan=true", words]) == 2
    seen = capsys.readouterr()
    assert one_line(seen.err, answer), seen.err
    assert not (here / "results").exists()


@pytest.mark.parametrize(
    ("rows", "answer"),
    [
        ("    b: {backbone: resnet20, se: null}\n", "study.baseline: there is no row '' in mine; there are a, SE-a, b"),
        ("    b: {baseline: nope}\n", "study.rows.b.baseline: there is no row 'nope' in mine; there are a, SE-a, b"),
        ("    b: {baseline: SE-a}\n", "study.rows.b.baseline: 'SE-a' is itself compared with 'a'"),
        (
            "    b: {backbone: resnet20, baseline: a}\n",
            "row 'b' changes more than se, compared with 'SE-a': backbone: resnet8 → resnet20",
        ),
        (
            "    b: {backbone: resnet8, baseline: a, recipe: wrn, se: null}\n",
            "row 'b' changes more than se, compared with 'SE-a': recipe.name: quick → wrn",
        ),
        ("    b: {backbone: resnet8, baseline: a, se: null}\n", "row 'b' does not differ from 'a', its baseline: n"),
        ("    b: {recipe: nope, se: null}\n", "study.rows.b: there is no recipe 'nope'; there are cifar, "),
        ("    b: {recipe: [a], se: null}\n", "study.rows.b: there is no recipe '['a']'; there are cifar, "),
        (
            "    b: {data.subset: 9, se: null}\n    SE-b: {data.subset: 9, baseline: b}\n",
            "row 'b': data.subset is the same for all rows of a study; a row can override backbone, stride, init, se",
        ),
        (
            "    b: {seeds: 9, se: null}\n    SE-b: {seeds: 9, baseline: b}\n",
            "row 'b': seeds is the same for all rows of a study",
        ),
        (
            "    b: {backbone: vgg16, se: null}\n    SE-b: {backbone: vgg16, baseline: b}\n",
            "row 'b': images of 8 × 8 pixels are too small",
        ),
        (
            "    b: {data.augment: imagenet, se: null}\n    SE-b: {data.augment: imagenet, baseline: b}\n",
            "row 'b': data.augment: digits has no augmentation 'imagenet'",
        ),
    ],
)
def test_a_study_that_is_not_pairs_is_refused(
    here: Path, capsys: pytest.CaptureFixture[str], rows: str, answer: str
) -> None:
    (here / "sweeps/ablation/mine.yaml").write_text(HEAD + PAIR + rows)
    assert main(["+ablation=mine"]) == 2
    seen = capsys.readouterr()
    assert one_line(seen.err, answer), seen.err
    assert not (here / "results").exists()


def test_comparisons_of_any_factor_may_be_of_several_networks(here: Path) -> None:
    """Two reductions in each of two networks: four rows, two baselines."""
    rows = "".join(
        f"    {net} r = {r}: {{backbone: {net}, se.reduction: {r}, baseline: {net} r = 2}}\n"
        for net in ("resnet8", "resnet20")
        for r in (2, 8)
    )
    text = HEAD.replace("factor: se", "factor: se.reduction") + rows
    (here / "sweeps/ablation/mine.yaml").write_text(text)
    made = plan.make_plan(compose(["+ablation=mine", "seeds=1"]))
    assert [(row.label, row.baseline, row.paper_cost) for row in made.rows] == [
        ("resnet8 r = 2", "resnet8 r = 2", None),
        ("resnet8 r = 8", "resnet8 r = 2", None),
        ("resnet20 r = 2", "resnet20 r = 2", None),
        ("resnet20 r = 8", "resnet20 r = 2", None),
    ]


# ------------------------------------------------------------------------------------------------------- a whole study

OWN = (
    HEAD
    + PAIR
    + "    b: {backbone: resnet20, recipe: wrn, data.cutout: 2, se: null}\n"
    + "    SE-b: {backbone: resnet20, recipe: wrn, data.cutout: 2, baseline: b}\n"
)
SMALL = ("+ablation=mine", "recipe.epochs=1", "data.subset=60", "data.test_subset=90", "seeds=1", "tracking=off")
DATA = "digits-subset=60-test_subset=90"
CUT = "digits-cutout=2-subset=60-test_subset=90"


@pytest.mark.slow
def test_a_study_of_pairs_from_its_words_to_its_table(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "sweeps/ablation/mine.yaml").write_text(OWN)
    words = [*SMALL, "executor.workers=1", "training.device=cpu"]
    assert main(words) == 0
    out = capsys.readouterr().out
    assert "4 of 4 trials to train" in out
    assert f"a: recipe quick-epochs=1, 1 epoch, {DATA}\n" in out
    assert f"b: recipe wrn-epochs=1, 1 epoch, {CUT}\n" in out
    folder = here / "results/local" / DATA / "networks-quick+wrn-epochs=1/mine"
    whole = read_trials(folder / "trials.csv")
    assert list(whole["baseline"]) == ["a", "a", "b", "b"]
    assert list(whole["backbone"]) == ["resnet8", "resnet8", "resnet20", "resnet20"]
    assert list(whole["data"]) == [DATA, DATA, CUT, CUT]
    text = (folder / "table.md").read_text().replace("\\_", "_")
    assert f"1 epoch; backbones resnet8, resnet20 in the order of the pairs; a: data {DATA}, recipe quick-" in text
    before = {path: path.read_bytes() for path in folder.iterdir() if path.suffix in (".md", ".csv", ".svg")}
    regenerate(folder / "trials.csv", folder)
    assert {path: path.read_bytes() for path in before} == before

    table_from_store([*words, "study.only=[resnet20]"])
    pair = read_trials(here / "results/local" / DATA / "networks-wrn-epochs=1/mine-only=resnet20/trials.csv")
    assert whole[2:].reset_index(drop=True).equals(pair)
