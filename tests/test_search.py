"""Whole searches, as a user starts them: real workers, tiny networks, one epoch."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import os
import re
import shlex
import shutil
import signal
from collections import Counter
from pathlib import Path
from typing import Any

import optuna
import pytest
from in_process import trained_here
from launching import SEARCH, TINY, Lab, ended, one_line, wait_for

from senet_lab import outputs
from senet_lab.__main__ import main as commands
from senet_lab.run import main
from senet_lab.studies.workers import Workers

SMALL = ("recipe.epochs=1", "data.subset=60", "data.test_subset=60", "executor.workers=2")
WORDS = ("+search=small", *SMALL)
FILES = ("trials.csv", "curves.csv", "front.md", "front.csv", "front.tex", "front.svg", "outputs.npz")


class Searching(Lab):
    """A working directory with the small search, and the tiny ablation, in it."""

    def __init__(self, folder: Path, search: str = SEARCH) -> None:
        folder.mkdir(exist_ok=True)
        super().__init__(folder, TINY)
        (folder / "sweeps/search").mkdir()
        (folder / "sweeps/search/small.yaml").write_text(search)

    def front(self, name: str = "small") -> Path:
        (found,) = (self.folder / "results/local").glob(f"*/*/{name}")
        return found

    def files(self, name: str = "small") -> dict[str, bytes]:
        return {file: (self.front(name) / file).read_bytes() for file in FILES}

    def lines(self, file: str, name: str = "small") -> list[dict[str, str]]:
        with (self.front(name) / file).open(newline="") as text:
            return list(csv.DictReader(text))


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Searching:
    monkeypatch.chdir(tmp_path)
    return Searching(tmp_path)


def inside(capsys: pytest.CaptureFixture[str], *words: str, code: int = 0) -> Any:
    assert main([*words, "tracking=off"]) == code
    return capsys.readouterr()


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Searching:
    """The small search by TPE, run from beginning to end in this process."""
    lab = Searching(tmp_path_factory.mktemp("whole"))
    with contextlib.chdir(lab.folder), contextlib.redirect_stderr(io.StringIO()) as err, trained_here():
        assert main([*WORDS, "search.sampler=tpe", "tracking=off"]) == 0, err.getvalue()
    assert err.getvalue() == ""
    return lab


TPE = "small-sampler=tpe"


# --------------------------------------------------------------------------------------------------------------- whole


def test_a_search_trains_each_design_once_and_leaves_its_front(whole: Searching) -> None:
    records = whole.records()
    assert Counter(record["state"] for record in records) == {"done": 7}, "six designs, and the paper's default"
    trials = whole.lines("trials.csv", TPE)
    assert {line["trial_id"] for line in trials} == {record["trial_id"] for record in records}
    assert [line["asked"] for line in trials] == ["1", "2", "3", "4", "5", "6", ""]
    assert trials[0]["reference"] == trials[0]["row"] == "no SE", "the cheapest one first"
    assert trials[-1]["reference"] == "the paper's default"
    curves = whole.lines("curves.csv", TPE)
    assert [(line["row"], line["epoch"]) for line in curves] == [(line["row"], "1") for line in trials]

    held = outputs.read_file(whole.front(TPE) / outputs.FILE)
    assert {name: outputs.outputs_digest(each.packed()) for name, each in held.items()} == {
        line["trial_id"]: line["outputs"] for line in trials
    }
    for line in trials:
        right, loss = held[line["trial_id"]].right, held[line["trial_id"]].loss.astype(float)
        assert float(line["test_error"]) == pytest.approx(100 * (1 - right.mean()), abs=1e-4)
        assert float(line["test_loss"]) == pytest.approx(loss.mean(), rel=1e-3)

    points = [(float(line["val_error"]), float(line["params"])) for line in trials if line["asked"]]
    best = {
        line["row"]
        for line, (error, params) in zip(trials, points, strict=False)
        if not any((e <= error and p <= params) and (e, p) != (error, params) for e, p in points)
    }
    assert {line["design"] for line in whole.lines("front.csv", TPE) if line["on_front"] == "1"} == best


def test_the_best_design_is_written_as_a_command_and_as_a_call(
    whole: Searching, here: Searching, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(whole.folder / "results", here.folder / "results")
    command, call = re.findall(r"```(?:python)?\n(.*?)\n```", whole.files(TPE)["front.md"].decode(), re.DOTALL)
    words = shlex.split(command)
    assert words[:3] == ["python", "-m", "senet_lab.run"]
    assert inside(capsys, *words[3:]).err == ""
    assert len(here.records()) == 7, "the very training that the search has recorded"

    found: dict[str, Any] = {}
    exec(call, found)
    line = min((line for line in whole.lines("front.csv", TPE) if line["on_front"] == "1"), key=error_of)
    assert sum(p.numel() for p in found["net"].parameters()) == int(line["params"])


def error_of(line: dict[str, str]) -> float:
    return float(line["objective_val_error"])


def test_the_designs_are_an_optuna_study_too(whole: Searching, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(whole.folder)
    (study,) = optuna.get_all_study_names("sqlite:///results/local/lab.db")
    trials = optuna.load_study(study_name=study, storage="sqlite:///results/local/lab.db").get_trials()
    lines = [line for line in whole.lines("trials.csv", TPE) if line["asked"]]
    assert [trial.user_attrs["trial"]["ids"] for trial in trials] == [[line["trial_id"]] for line in lines]
    for trial, line in zip(trials, lines, strict=True):
        assert {key: str(level) for key, level in trial.params.items()} == {key: line[key] for key in trial.params}
        assert trial.values == [float(line["val_error"]), float(line["params"])]


def test_the_command_exports_what_is_lacking(
    whole: Searching, here: Searching, capsys: pytest.CaptureFixture[str]
) -> None:
    """The search is played again from its records, and nothing is trained."""
    shutil.copytree(whole.folder / "results", here.folder / "results")
    storage = "sqlite:///results/local/lab.db"
    (name,) = optuna.get_all_study_names(storage)
    trials = optuna.load_study(study_name=name, storage=storage).get_trials()
    optuna.delete_study(study_name=name, storage=storage)
    for written in (len(trials), 0):
        assert commands(["export", "optuna", *WORDS, "search.sampler=tpe"]) == 0
        assert capsys.readouterr().out == f"written: {written} trials of the Optuna study; all others were there\n"
        again = optuna.load_study(study_name=name, storage=storage).get_trials()
        assert [(each.params, each.values, each.user_attrs) for each in again] == [
            (each.params, each.values, each.user_attrs) for each in trials
        ]


# --------------------------------------------------------------------------------------------------------- interrupted


@pytest.mark.slow
def test_a_search_cut_off_ends_as_one_that_was_not(whole: Searching, tmp_path: Path) -> None:
    """Killed, then taken up on two workers: the same designs, the same bytes."""
    lab = Searching(tmp_path)
    driver = lab.start(*WORDS, "search.sampler=tpe")
    wait_for(lambda: (tmp_path / "results/local/lab.db").exists() and len(done_of(lab)) >= 2, driver, 240)
    os.killpg(driver.pid, signal.SIGKILL)
    assert ended(driver).code == -signal.SIGKILL
    wait_for(lambda: not lab.left())
    assert len(done_of(lab)) < 7
    done = lab.run(*WORDS, "search.sampler=tpe")
    assert (done.code, done.err) == (0, ""), done
    assert lab.files(TPE) == whole.files(TPE)
    assert Counter(record["state"] for record in lab.records()) == {"done": 7}


def done_of(lab: Lab) -> list[dict[str, Any]]:
    try:
        return [record for record in lab.records() if record["state"] == "done"]
    except Exception:  # the table is not there yet
        return []


@pytest.mark.slow
def test_what_a_study_has_trained_is_not_trained_again(
    here: Searching, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """An ablation of r = 2, r = 8 and no SE, then a search of every design of r = 2 and r = 8."""
    inside(capsys, "+ablation=tiny", *SMALL, "seeds=2")
    before = {record["trial_id"]: record for record in here.records()}
    assert len(before) == 6
    search = SEARCH.replace("{3: [off, 2, 8], 4: [off, 2, 8]}", "[2, 8]").replace("[avg, max]", "[avg]")
    (here.folder / "sweeps/search/small.yaml").write_text(search)
    words = (*WORDS, "seeds=2", "search.sampler=enumerate")
    seen = inside(capsys, *words)
    assert "8 points build 8 different networks" in seen.out
    assert "14 of 20 trials to train" in seen.out, "8 designs, no SE and the paper's default, less what is recorded"
    after = {record["trial_id"]: record for record in here.records()}
    assert {name: after[name] for name in before} == before
    assert len(after) == 20
    rows = Counter(line["row"] for line in here.lines("trials.csv", "small-sampler=enumerate"))
    assert len(rows) == 10
    assert set(rows.values()) == {2}

    files = here.files("small-sampler=enumerate")
    monkeypatch.setattr(Workers, "submit", None)
    assert "all 20 trials are recorded: nothing to train" in inside(capsys, *words).out
    assert here.files("small-sampler=enumerate") == files


# -------------------------------------------------------------------------------------------- confirmed, and halved


@pytest.mark.slow
def test_the_front_is_confirmed_with_fresh_seeds(here: Searching, capsys: pytest.CaptureFixture[str]) -> None:
    search = SEARCH.replace("{3: [off, 2, 8], 4: [off, 2, 8]}", "{4: [off, 8]}").replace("[avg, max]", "[avg]")
    (here.folder / "sweeps/search/small.yaml").write_text(search)
    seen = inside(capsys, *WORDS, "search.confirm=2")
    assert "designs on or near the front, with 2 fresh seeds:" in seen.out
    lines = here.lines("trials.csv")
    again = [line for line in lines if line["part"] == "confirmation"]
    assert {(line["row"], line["seed"]) for line in again} >= {
        (row, seed) for row in ("no SE", "the paper's default") for seed in ("1", "2")
    }
    assert {line["seed"] for line in lines if line["part"] == "search"} == {"0"}
    (plain,) = (line for line in here.lines("front.csv") if line["design"] == "no SE")
    errors = [float(line["test_error"]) for line in again if line["row"] == "no SE"]
    assert float(plain["confirmed_test_error"]) == pytest.approx(sum(errors) / 2)
    assert plain["chance_on_front"] == "", "of two seeds no chance is told"
    records = len(here.records())
    assert "nothing to train" in inside(capsys, *WORDS, "search.confirm=2").out
    assert len(here.records()) == records


@pytest.mark.slow
def test_a_search_by_halving_goes_on_where_it_was_cut_off(tmp_path: Path) -> None:
    """Trainings that were stopped at a rung have no record, and go on; what is left is the same as without the cut."""
    words = (*WORDS, "recipe.epochs=3", "search.rungs=[1]", "search.pending=2")
    name = "small-pending=2-rungs=_1_"
    whole = Searching(tmp_path / "whole")
    done = whole.run(*words)
    assert (done.code, done.err) == (0, ""), done
    assert "stopped after 1 of 3 epochs" in done.out
    trials, rungs = whole.lines("trials.csv", name), whole.lines("rungs.csv", name)
    assert {line["trial_id"] for line in trials} == {record["trial_id"] for record in whole.records()}
    assert not {line["trial_id"] for line in rungs} & {line["trial_id"] for line in trials}
    spent = 3 * sum(line["asked"] != "" for line in trials) + len(rungs)
    assert {line["spent"] for line in trials} == {f"{spent}/18"}
    assert spent < 18

    lab = Searching(tmp_path / "cut")
    driver = lab.start(*words)
    wait_for(lambda: (lab.folder / "results/local/lab.db").exists() and len(done_of(lab)) >= 2, driver, 240)
    os.killpg(driver.pid, signal.SIGKILL)
    ended(driver)
    wait_for(lambda: not lab.left())
    done = lab.run(*words, "executor.workers=1")
    assert (done.code, done.err) == (0, ""), done
    assert lab.files(name) == whole.files(name)
    assert lab.lines("rungs.csv", name) == rungs


# ----------------------------------------------------------------------------------------------------------- the plan


def test_a_plan_shows_the_space_and_writes_nothing(here: Searching, capsys: pytest.CaptureFixture[str]) -> None:
    before = sorted(here.folder.rglob("*"))
    seen = inside(capsys, *WORDS, "plan=true", "budget.params=1.05x", "search.objectives=[val_loss,params,macs]")
    assert seen.err == ""
    for words in (
        "A small search: resnet8 on digits-subset=60",
        "se.reduction.3  off 2 8",
        "18 points build 17 different networks",
        "cheapest: no SE          75,002",
        "dearest: r off/2/2, avg  80,122",
        "budget: params at most 78,752",
        "11 of 17 designs are within it",  # all without r = 2 in stage 4, which has 4,096 weights
        "nsga2 proposes up to 6 of them, trained with 1 seed; objectives: val_loss, params, macs",
        "trained beside them, for comparison: the paper's default",
        "7 of 7 trials to train, less what is recorded already: about",
    ):
        assert words in seen.out, seen.out
    assert sorted(here.folder.rglob("*")) == before


def test_a_small_space_is_enumerated(here: Searching, capsys: pytest.CaptureFixture[str]) -> None:
    seen = inside(capsys, *WORDS, "plan=true", "search.trials=17")
    assert "every one is trained with 1 seed (nsga2 is not needed for so few)" in seen.out
    assert "18 of 18 trials to train" in seen.out


# ---------------------------------------------------------------------------------------------------------- bad input

BAD = [
    ("search.objectives=[params,macs]", "params, macs is known without training; add val_error"),
    ("search.objectives=[]", "nothing is known without training"),
    ("search.objectives=[val_err]", "there is no objective 'val_err'; there are val_error, val_accuracy, val_loss"),
    ("search.objectives=[val_error,val_error]", "val_error is there twice"),
    ("search.objectives=[val_error,val_accuracy]", "are one objective"),
    ("search.sampler=cmaes", "there is no sampler 'cmaes'; there are enumerate, random, nsga2, tpe, gp, local"),
    ("search.sampler=gp search.objectives=[val_error,params,macs,latency]", "gp serves 3 objectives at most"),
    ("search.trials=0", "search.trials=0 is not between"),
    ("search.pending=0", "search.pending=0 is not between"),
    ("search.seed=-1", "search.seed=-1 is not between"),
    ("+search.space.foo=[1]", "there is no factor 'foo'; there are se.reduction"),
    ("search.space={recipe.lr:[1]}", "the space has no 'recipe.lr' yet; +search.space={recipe.lr: […]} adds it"),
    ("search.foo=1", "there is no key 'search.foo'; search has name, title, space"),
    ("search.name=a/b", "search.name: 'a/b' is not a word"),
    ("se=null", "se=null: a search varies se"),
    ("backbone=resnet9", "'resnet9' is not one of"),
    ("budget.params=few", "budget.params=few is neither a number above 0 nor one such as 1.05x"),
    ("budget.macs=0", "budget.macs=0 is neither"),
    ("budget.macs=true", "budget.macs=True is neither"),
    ("budget.latency=-1x", "budget.latency=-1x is neither"),
    (
        "budget.params=1000",
        "no design is within the budget; params: at most 1,000, and the cheapest design (no SE) has",
    ),
    ("budget.macs=0.5x", "and the cheapest design (no SE) has 747,136"),
    ("budget.latency=0.0001x", "no design is within the budget; latency: at most"),
    ("search.confirm=-1", "search.confirm=-1 is not between"),
    ("search.rungs=[30]", "search.rungs=[30]: these are not numbers of epochs"),
    ("search.keep=1", "search.keep=1.0 is not a share"),
    ("search.strata=0", "search.strata=0 is not between"),
    ("budget.gflops=1", "there is no key 'budget.gflops'; budget has params, macs, latency"),
    ("+ablation=tiny", "one study at a time: small and tiny were asked for"),
]


@pytest.mark.parametrize(("line", "words"), BAD, ids=[line for line, _ in BAD])
def test_bad_input_is_one_line(here: Searching, capsys: pytest.CaptureFixture[str], line: str, words: str) -> None:
    seen = inside(capsys, *WORDS, *line.split(), code=2)
    assert one_line(seen.err, words), seen.err
    assert seen.out == ""


def test_a_search_must_be_there_to_be_changed(here: Searching, capsys: pytest.CaptureFixture[str]) -> None:
    for word in ("search.trials=3", "budget.params=2x"):
        assert one_line(
            inside(capsys, word, code=2).err, f"{word.split('=')[0]}: there is no search to change; +search="
        )
    assert one_line(inside(capsys, "+search=nope", code=2).err, "there is no search 'nope'; there are ")


@pytest.mark.slow
def test_another_space_under_the_same_name_is_refused(here: Searching, capsys: pytest.CaptureFixture[str]) -> None:
    search = SEARCH.replace("{3: [off, 2, 8], 4: [off, 2, 8]}", "{4: [off, 8]}").replace("[avg, max]", "[avg]")
    (here.folder / "sweeps/search/small.yaml").write_text(search)
    inside(capsys, *WORDS)
    records = json.dumps(here.records())
    (here.folder / "sweeps/search/small.yaml").write_text(search.replace("[off, 8]", "[off, 8, 16]"))
    for words in (WORDS, (*WORDS, "plan=true")):
        seen = inside(capsys, *words, code=2)
        assert one_line(
            seen.err,
            "the space's se.reduction.4 was ['off', 8] in sqlite:///results/local/lab.db, and is ['off', 8, 16] now",
            "search.name=small2 starts a new search",
        ), seen.err
    assert json.dumps(here.records()) == records
    seen = inside(capsys, *WORDS, "search.name=small2")
    assert len(here.lines("trials.csv", "small2")) == 4
    assert len(here.records()) == 4, "only the new design was trained"
