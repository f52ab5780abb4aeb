"""Seeds until the verdicts are in: the same rows and seeds whatever trains them, in whatever order, however often it is
killed; seeds that somebody has seen are not used; a plan is not changed afterwards."""

from __future__ import annotations

import io
import os
import random
import re
import shlex
import signal
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from in_process import trained_here
from launching import TINY, Lab
from rich.console import Console

from senet_lab.compose import compose
from senet_lab.config import UserError
from senet_lab.reports.sequential import Looks
from senet_lab.reports.trials import read_trials
from senet_lab.run import main
from senet_lab.studies import settle_plan, settling, transfer
from senet_lab.studies.designs import ListedDesign
from senet_lab.studies.forecast import Expectation
from senet_lab.studies.plan import Plan, make_plan, merge_plans
from senet_lab.studies.progress import Progress
from senet_lab.studies.store import DONE, FAILED, Record, Store
from senet_lab.studies.wandb_dashboards import from_store

SMALL = ["recipe.epochs=1", "data.subset=40", "data.test_subset=20", "executor.workers=1", "tracking=off"]
WORDS = ["+ablation=excitation", "seeds=settle", "settle.max=9", "margin=2", *SMALL]
MEANS = {"ReLU": 3.0, "tanh": 0.5, "sigmoid": 0.0, "softmax": 0.1}  # points beside the baseline; deviations are 0.5
FIELDS = {"config": {}, "epochs": [], "seconds": 1.0, "resumed": False}


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(f"sqlite:///{tmp_path}/lab.db")


def placed(store: Store, *words: str, folder: Path = Path("nowhere")) -> Plan:
    """A settling plan with its first seed."""
    (plan,) = settle_plan.with_first_seeds([make_plan(compose([*WORDS, *words]))], [folder], store)
    return plan


def outcomes(plan: Plan, seed: int = 0) -> Callable[[str, int], Record]:
    """What a training of a row with a seed comes to, drawn once for each."""
    drawn = np.random.default_rng(seed).normal(0, 0.5, (200, len(plan.rows)))

    def record(label: str, at: int) -> Record:
        error = 20 + MEANS[label] + drawn[at, [row.label for row in plan.rows].index(label)]
        return {"state": DONE, "metrics": {"test_error": error, "test_loss": error / 30}}

    return record


def settled(plan: Plan, record: Callable[[str, int], Record], order: random.Random | None = None) -> Plan:
    """The plan as it ends when its cells are trained, several at once, in whatever order."""
    design = listed(plan)
    waiting = list(plan.cells)
    while waiting or (waiting := design.more(progress(plan))):
        at = order.randrange(len(waiting)) if order else 0
        cell = waiting.pop(at)
        design.ended(cell, record(cell.row.label, cell.seed))
        if order and order.random() < 0.7:  # a worker is free, and asks before the others have ended
            waiting += design.more(progress(plan))
    design.finish()
    return design.plans[0]


def listed(*plans: Plan) -> ListedDesign:
    return ListedDesign(plans, [Path("nowhere")] * len(plans))


def progress(plan: Plan) -> Progress:
    return Progress(plan, Expectation({}, rough=True), 1, Console(file=io.StringIO()))


def seeds_of(plan: Plan) -> dict[str, list[int]]:
    return {row.label: [cell.seed for cell in plan.cells if cell.row is row] for row in plan.rows}


def test_each_row_stops_where_the_sequential_test_stops(store: Store) -> None:
    """A second implementation: all seeds at once, row by row."""
    plan = placed(store)
    for number in range(5):
        record = outcomes(plan, number)
        ended = seeds_of(settled(plan, record))
        errors = {label: [record(label, seed)["metrics"]["test_error"] for seed in range(9)] for label in MEANS}
        stops = {}
        for label in ("ReLU", "tanh", "softmax"):
            differences = np.subtract(errors[label], errors["sigmoid"])
            stop = Looks(0.05 / 3, 3, 9, 2.0, 5.0).follow(differences)
            assert stop is not None
            stops[label] = stop.n
        stops["sigmoid"] = max(stops.values())
        assert ended == {label: list(range(n)) for label, n in stops.items()}


def test_neither_order_nor_workers_change_what_is_looked_at(store: Store) -> None:
    plan = placed(store, "metric=loss", "margin=0.05")
    record = outcomes(plan, 7)
    plain = seeds_of(settled(plan, record))
    assert len({len(seeds) for seeds in plain.values()}) > 1  # rows stop at different seeds
    for number in range(20):
        assert seeds_of(settled(plan, record, random.Random(number))) == plain


def test_effects_of_a_grid_settle_each_by_itself(store: Store) -> None:
    """A second implementation: main effects and interaction by linear algebra, all seeds at once."""
    words = ["+vary=[se.reduction,recipe.lr]", "levels=[[2,8],[0.05,0.1]]", *WORDS[1:]]
    (plan,) = settle_plan.with_first_seeds([make_plan(compose(words))], [Path("nowhere")], store)
    assert plan.study_tests == 3
    signs = np.array([[-1, -1, 1, 1], [-1, 1, -1, 1], [1, -1, -1, 1]]) * [[0.5], [0.5], [1]]  # over the cells in order
    stops = set()
    for number in range(5):
        errors = 20 + np.random.default_rng(number).normal([0, 0.3, 1, 2.5], 0.7, (9, 4))
        at = {row.label: dict(enumerate(errors[:, place])) for place, row in enumerate(plan.rows)}
        ended = settled(plan, lambda label, seed, at=at: {"state": DONE, "metrics": {"test_error": at[label][seed]}})
        needed = []
        for weights in signs:
            step = 5 * np.sqrt((weights**2).sum() / 2)  # of 20 test images
            stop = Looks(0.05 / 3, 3, 9, 2.0, step).follow(errors @ weights)
            assert stop is not None
            needed.append(stop.n)
        stops.update(needed)
        assert {len(seeds) for seeds in seeds_of(ended).values()} == {max(needed)}  # every cell is in every effect
    assert len(stops) > 1


def test_verdicts_are_told_once_as_they_come_in(store: Store) -> None:
    plan = placed(store)
    record, told = outcomes(plan, 3), []
    design = listed(plan)
    waiting = list(plan.cells)
    while waiting or (waiting := design.more(progress(plan))):
        cell = waiting.pop(0)
        told += design.ended(cell, record(cell.row.label, cell.seed))
    expected = set()
    for label in ("ReLU", "tanh", "softmax"):
        errors = [[record(each, seed)["metrics"]["test_error"] for seed in range(9)] for each in (label, "sigmoid")]
        stop = Looks(0.05 / 3, 3, 9, 2.0, 5.0).follow(np.subtract(*errors))
        assert stop is not None
        expected.add(f"{label}: {stop.word}, after {stop.n} seeds")
    assert set(told) == expected
    assert len(told) == 3
    again = listed(replace(design.plans[0], recorded=design.records))
    assert again.new_verdicts() == []  # of a study that goes on, they were told before


def test_studies_that_settle_share_their_trainings_and_come_one_after_the_other(store: Store) -> None:
    names = ("excitation", "squeeze")
    made = [make_plan(compose([f"+ablation={name}", *WORDS[1:]])) for name in names]
    plans = settle_plan.with_first_seeds(made, [Path("nowhere")] * 2, store)
    records: dict[str, Record] = {}
    design = listed(*plans)
    waiting, trained = list(merge_plans(plans).todo), []
    while waiting := design.due(progress(plans[0])) + waiting or design.more(progress(plans[0])):
        cell = waiting.pop(0)
        if cell.trial_id not in records:
            trained.append(cell.trial_id)
        noise = random.Random(cell.trial_id).gauss(0, 0.5)
        records[cell.trial_id] = {"state": DONE, "metrics": {"test_error": 20 + noise}}
        design.ended(cell, records[cell.trial_id])
    assert len(trained) == len(set(trained))
    design.finish()
    first, second = (set(plan.trials) for plan in design.plans)
    assert first & second  # the baseline
    assert set(trained[: len(first)]) == first, "the first study is complete before the second one begins"
    assert set(trained[len(first) :]) >= second - first
    for plan in design.plans:
        assert not any(need.open for need in settling.needs(plan, records).values())


def test_a_row_that_failed_has_no_more_seeds(store: Store) -> None:
    plan = placed(store, "margin=0.01")
    good = outcomes(plan)

    def record(label: str, seed: int) -> Record:
        return {"state": FAILED, "reason": "diverged"} if (label, seed) == ("tanh", 3) else good(label, seed)

    assert seeds_of(settled(plan, record))["tanh"] == [0, 1, 2, 3]
    guessing = placed(store, "margin=0.01", "failures=chance")
    pairs = [[record(label, seed) for label in ("tanh", "sigmoid")] for seed in range(9)]
    errors = [[90.0 if each["state"] == FAILED else each["metrics"]["test_error"] for each in pair] for pair in pairs]
    stop = Looks(0.05 / 3, 3, 9, 0.01, 5.0).follow([mine - theirs for mine, theirs in errors])
    assert stop is not None
    assert len(seeds_of(settled(guessing, record))["tanh"]) == stop.n


def test_seeds_that_have_been_seen_are_not_used(store: Store, tmp_path: Path) -> None:
    assert placed(store).aim.first == 0
    plan = placed(store)
    shown = settle_plan.row_cells(plan)["tanh"].with_seed(4)
    store.claim(shown.trial_id)
    assert placed(store).aim.first == 0  # nobody has seen what is in training
    store.finish(shown.trial_id, DONE, {**FIELDS, "metrics": {"test_error": 1.0, "val_error": 1.0}})
    assert placed(store).aim.first == 5
    (tmp_path / "trials.csv").write_text(f"trial_id\n{settle_plan.row_cells(plan)['ReLU'].with_seed(7).trial_id}\n")
    assert placed(store, folder=tmp_path).aim.first == 8  # of a table whose records are gone
    other = make_plan(compose(["+ablation=squeeze", *WORDS[1:]]))  # shares the baseline alone
    assert settle_plan.with_first_seeds([other], [Path("nowhere")], store)[0].aim.first == 0


def test_a_plan_is_kept_and_its_words_go_on_with_it(store: Store) -> None:
    first, where = placed(store), [Path("a/b/excitation")]
    assert not settle_plan.write_down([first], where, store)
    seen = settle_plan.row_cells(first)["tanh"].with_seed(0)
    store.claim(seen.trial_id)
    store.finish(seen.trial_id, DONE, {**FIELDS, "metrics": {"test_error": 1.0, "val_error": 1.0}})
    again = placed(store)
    assert (again.aim.first, again.aim) == (0, first.aim)
    for changed in ("margin=3", "settle.max=10", "settle.min=4", "metric=loss", "failures=chance"):
        with pytest.raises(UserError, match=r"planned as a/b/excitation \(metric=error margin=2 .* settle.name=NAME"):
            placed(store, changed)
    second = placed(store, "margin=3", "settle.name=second")
    assert second.aim.first == 1
    assert second.aim.earlier == "a/b/excitation (metric=error margin=2 settle.min=3 settle.max=9, seeds from 0)"
    late = settle_plan.with_first_seeds([first], where, store)
    assert late[0].aim == first.aim


@pytest.mark.parametrize("failures", ["untested", "chance"])
def test_what_a_failure_is_belongs_to_the_plan(store: Store, failures: str) -> None:
    """Words of before are no other words: a plan that was noted without it goes on with either."""
    (other,) = {"untested", "chance"} - {failures}
    plan = placed(store, f"failures={failures}")
    assert not settle_plan.write_down([plan], [Path("a/b/excitation")], store)
    assert placed(store, f"failures={failures}").aim == plan.aim
    with pytest.raises(UserError, match=r"\(metric=error margin=2( failures=chance)? settle.min=3") as refused:
        placed(store, f"failures={other}")
    assert ("failures=chance" in str(refused.value)) == (failures == "chance")
    old = settle_plan.as_note(plan.aim, settle_plan.identities(plan), Path("a/b/excitation"))
    del old["failures"]
    before = Store(store.url.replace("lab.db", "before.db"))
    before.note_once(plan.aim.plan, old)
    for words in (failures, other):
        assert placed(before, f"failures={words}").aim.plan == plan.aim.plan


def test_of_two_drivers_that_plan_at_once_one_is_told(store: Store) -> None:
    mine, theirs = placed(store), placed(store)
    moved = replace(theirs, aim=replace(theirs.aim, first=5))
    assert not settle_plan.write_down([mine], [Path("x")], store)
    assert settle_plan.write_down([moved], [Path("x")], store)


def bytes_of(results: Path) -> dict[str, bytes]:
    """The tables below a folder, but for what is measured once."""
    return {
        str(path.relative_to(results)): path.read_bytes()
        for path in sorted(results.glob("*/*/*/*"))
        if path.name != "runs.csv"
    }


@pytest.mark.slow
def test_a_study_settles_and_ends_the_same_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    words = [*WORDS, "settle.max=4"]
    assert main([*words, "results=one"]) == 0
    first = bytes_of(Path("one"))
    folder = next(Path("one").glob("*/*/excitation"))
    assert set(read_trials(folder / "trials.csv")["settle_max"]) == {4}
    assert main([*words, "results=one"]) == 0  # trains nothing
    assert bytes_of(Path("one")) == first
    shown, _ = from_store(compose([*words, "results=one"]), words)
    pd.testing.assert_frame_equal(shown.trials, read_trials(folder / "trials.csv"))
    for number, source in enumerate((folder / "trials.csv", Path("all.csv"))):  # another machine takes both over
        if number:
            transfer.export_csv("sqlite:///one/lab.db", source)
        transfer.read_in(f"sqlite:///other{number}/lab.db", [source])
        (plan,) = settle_plan.with_first_seeds(
            [make_plan(compose([*words, f"results=other{number}"]))], [folder], Store(f"sqlite:///other{number}/lab.db")
        )
        ended = settling.look_at(plan, Store(f"sqlite:///other{number}/lab.db"))
        assert (ended.aim.first, ended.todo, len(ended.trials)) == (0, [], len(read_trials(folder / "trials.csv")))
        with pytest.raises(UserError, match=r"/excitation \(metric=error margin=2 .* settle.max=4"):
            settle_plan.with_first_seeds(
                [make_plan(compose([*words, "margin=1"]))], [folder], Store(f"sqlite:///other{number}/lab.db")
            )


def test_a_study_with_open_verdicts_ends_with_the_command_that_settles_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As its plan says, the command trains what the line says that it costs."""
    monkeypatch.chdir(tmp_path)
    asked = ["+ablation=squeeze", "+study.rows={twin: {se.squeeze: max}}", *SMALL, "settle.max=5"]
    with trained_here():
        assert main([*asked, "seeds=1"]) == 0
    last = capsys.readouterr().out.splitlines()[-1]
    found = re.fullmatch(
        r"open verdicts: python -m senet_lab\.run (.*) adds seeds until they are in, at most 5 a row "
        r"\((\d+) to (\d+) more trainings, about \d+ s to \d+ s\)",
        last,
    )
    assert found, last
    words = shlex.split(found[1])
    assert words == [*asked, "seeds=settle"]
    assert main([*words, "plan=true"]) == 0
    planned = capsys.readouterr().out
    assert "from seed 1 on" in planned
    assert f"at least {found[2]} and at most {found[3]} trainings" in planned


@pytest.mark.slow
def test_killed_in_the_middle_it_ends_with_the_same_bytes(tmp_path: Path) -> None:
    words = [*WORDS, "settle.max=6", "margin=3"]
    lab = Lab(tmp_path)
    assert lab.run(*words, "results=one", "executor.workers=1").code == 0
    for killed in range(3):
        driver = lab.start(*words, "results=two", "executor.workers=2", stderr=subprocess.DEVNULL)
        assert driver.stdout is not None
        ends = random.Random(killed).randrange(1, 4)  # of trainings
        while ends and (line := driver.stdout.readline()):
            ends -= line.startswith("[")
        os.killpg(driver.pid, signal.SIGKILL)
        driver.communicate()
    done = lab.run(*words, "results=two", "executor.workers=2")
    assert done.code == 0, done.err
    assert bytes_of(tmp_path / "two") == bytes_of(tmp_path / "one")


def test_a_single_row_has_nothing_to_settle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = "  rows:\n    alone: {se.reduction: 2}\n"
    (tmp_path / "sweeps/ablation").mkdir(parents=True)
    (tmp_path / "sweeps/ablation/tiny.yaml").write_text(TINY.partition("  rows:")[0].replace("r = 2", "alone") + rows)
    monkeypatch.chdir(tmp_path)
    assert len(make_plan(compose(["+ablation=tiny", *SMALL])).rows) == 1
    with pytest.raises(UserError, match=r"^seeds=settle compares rows, and here is only alone$"):
        make_plan(compose(["+ablation=tiny", "seeds=settle", *SMALL]))
