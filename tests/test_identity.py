"""What makes a training another one, so that no result is shown as that of another; and that it repeats itself."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from rich.console import Console

from senet_lab.__main__ import main
from senet_lab.compose import PACKAGE, compose
from senet_lab.config import RunError, UserError
from senet_lab.models import BACKBONES, cifar, released
from senet_lab.models.gates import EXCITATIONS, FROM_ONE, SQUEEZES
from senet_lab.reports import kept_tables, results, tables
from senet_lab.reports.cells import csv_bytes
from senet_lab.reports.trials import COLUMNS, read_trials
from senet_lab.studies import plan, plan_text, study
from senet_lab.studies.designs import ListedDesign
from senet_lab.studies.export_facts import of_plan
from senet_lab.studies.forecast import Expectation
from senet_lab.studies.store import Store
from senet_lab.training import trial
from senet_lab.training.spec import Spec

SHORT = ("data.subset=60", "data.test_subset=60", "recipe.epochs=2", "tracking=off")
Write = Callable[..., str]
RECORD = {"state": "done", "metrics": {"test_error": 9.0, "val_error": 9.0, "val_loss": 1.0}, "epochs": []}
RECORD |= {"config": {}, "seconds": 1.0, "resumed": False}


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Write]:
    """Write modules of the user's into a folder, and import them anew when they are next asked for."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    names: set[str] = set()

    def write(**modules: str) -> str:
        for name, source in modules.items():
            path = tmp_path / f"{name.replace('__', '/')}.py"
            path.parent.mkdir(exist_ok=True)
            path.write_text(source)
            names.add(name.split("__")[0])
        for name in [name for name in sys.modules if name.split(".")[0] in names]:
            del sys.modules[name]
        return str(tmp_path)

    yield write
    write()


def specs(*words: str) -> list[Spec]:
    return [cell.spec for cell in plan.make_plan(compose(words)).cells]


def numbers(record: dict[str, Any]) -> tuple[Any, Any]:
    return record["epochs"], record["metrics"]


# ---------------------------------------------------------------------------------------- trainings repeat themselves

DRAWING = """
import random
import numpy as np, torch
from torch import nn

class Net(nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.stem, self.fc = nn.Conv2d(1, 8, 3), nn.Linear(8, classes)
        self.fc.weight.data = torch.tensor(np.random.randn(classes, 8).astype("float32")) * random.random()
    def forward(self, x):  # draws in evaluation, too
        x = self.stem(x) * (1 + random.random() * np.random.rand())
        return self.fc(torch.relu(x).mean((2, 3)))

def net(num_classes):
    return Net(num_classes)
"""


def test_a_network_that_draws_from_any_generator_repeats_itself_cut_off_or_not(tmp_path: Path, write: Write) -> None:
    """Seen: initial weights and steps that were drawn from Python's or NumPy's generator, which nothing seeded."""
    write(drawing=DRAWING)
    first, second = specs("backbone=drawing:net", "se=null", *SHORT, "seeds=2")
    whole = numbers(trial.run_trial(first, tmp_path / "a.ckpt", lambda _: None))
    for last in (1, 2):  # of the epochs that end: one is to come, or the test alone

        def cut_off(said: dict[str, Any], last: int = last) -> None:
            if said["epoch"] == last:
                raise InterruptedError

        with pytest.raises(InterruptedError):
            trial.run_trial(first, tmp_path / "b.ckpt", cut_off)
        assert numbers(trial.run_trial(first, tmp_path / "b.ckpt", lambda _: None)) == whole
        (tmp_path / "b.ckpt").unlink()
    assert numbers(trial.run_trial(second, tmp_path / "c.ckpt", lambda _: None)) != whole


def test_rows_share_initial_weights_whatever_draws_them(write: Write) -> None:
    """As above: the plain network and the one with SE started from other weights."""
    from senet_lab import models

    write(drawing=DRAWING)
    plain, again = (models.create("drawing:net", None, 10, in_channels=1, seed=3).state_dict() for _ in range(2))
    other = models.create("drawing:net", None, 10, in_channels=1, seed=4).state_dict()
    assert all((plain[name] == again[name]).all() for name in plain)
    assert (plain["fc.weight"] != other["fc.weight"]).all()


# ---------------------------------------------------------------------------------------- threads of a process


@pytest.mark.parametrize(
    ("words", "same"),
    [
        (("executor.threads=1",), True),
        (("executor.threads=2",), False),
        (("executor=ray", "executor.cpus_per_trial=0.5", "executor.threads=4"), True),
        (("executor=ray", "executor.cpus_per_trial=2"), False),
    ],
)
def test_threads_are_a_part_of_what_a_trial_is(words: tuple[str, ...], same: bool) -> None:
    """Seen: `executor.threads` changed every test error on a CPU under the same id."""
    (plain,), (asked,) = specs(*SHORT), specs(*SHORT, *words)
    assert (asked.trial_id == plain.trial_id) == same
    assert asked.threads == 1 or asked.trial_id == replace(plain, threads=2).trial_id


# ------------------------------------------------------------------------------------------------ code of one's own

NETS = """
import json, os, pathlib
import torch
from torch import nn
from parts import Scaled

HERE = os.path.dirname(__file__)
SLOPE = 0.0

class Net(nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.stem, self.fc = nn.Conv2d(1, 8, 3), nn.Linear(8, classes)
        self.scaled = Scaled(json.loads(pathlib.Path(HERE, "scale.json").read_text()))
        nn.init.normal_(self.fc.weight, std=0.01)
        nn.init.zeros_(self.fc.bias)
        nn.init.constant_(self.stem.bias, float(os.environ.get("BIAS", 0)))
    def forward(self, x):
        return self.fc(self.scaled(nn.functional.leaky_relu(self.stem(x), SLOPE)).mean((2, 3)))

def net(num_classes):
    return Net(num_classes)
"""
PARTS = """
from torch import nn

class Scaled(nn.Module):
    def __init__(self, factor):
        super().__init__()
        self.factor = factor
    def forward(self, x):
        from inner.deep import power
        return (self.factor * x) ** power
"""
MINE = {"nets": NETS, "parts": PARTS, "inner__deep": "from .numbers import power", "inner__numbers": "power = 1\n"}
ASKED = ("backbone=nets:net", "se=null", *SHORT)


@pytest.fixture
def mine(write: Write, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A network of the user's, in several files; the folder."""
    monkeypatch.delenv("BIAS", raising=False)
    folder = Path(write(**MINE))
    (folder / "scale.json").write_text("1.0")
    return folder


@pytest.mark.parametrize(
    ("module", "old", "new", "same"),
    [
        ("nets", "SLOPE = 0.0", "SLOPE = 0.9", False),
        ("nets", "self.stem(x)", "-self.stem(x)", False),
        ("nets", "std=0.01", "std=0.02", False),
        ("parts", "self.factor * x", "self.factor + x", False),
        ("inner__numbers", "power = 1", "power = 2", False),
        ("nets", "SLOPE = 0.0", "SLOPE = 0.0  # of the negative half", True),
        ("nets", "(self, x):\n", '(self, x):\n        """Logits."""\n', True),
        ("parts", "self.factor = factor", "self.factor = (factor)\n", True),
        ("parts", "class Scaled(nn.Module):", 'class Scaled(nn.Module):\n    """Times a number."""', True),
    ],
)
def test_an_edited_network_is_another_training(
    mine: Path, write: Write, module: str, old: str, new: str, same: bool
) -> None:
    """Seen: a network of one's own was edited, here or in what it imports, and the old result was shown as its own."""
    (before,) = specs(*ASKED)
    assert old in MINE[module]
    write(**{module: MINE[module].replace(old, new)})
    (after,) = specs(*ASKED)
    assert (after.trial_id == before.trial_id) == same


@pytest.mark.parametrize("what", ["a file", "the environment"])
def test_what_the_source_does_not_show_the_network_shows(
    mine: Path, write: Write, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    """As above: a constant or the weights came from elsewhere."""
    (before,) = specs(*ASKED)
    (mine / "scale.json").write_text("1.5") if what == "a file" else monkeypatch.setenv("BIAS", "0.1")
    write()
    write(**MINE)
    (after,) = specs(*ASKED)
    assert after.trial_id != before.trial_id


def test_code_that_changes_before_its_training_halts_the_study(mine: Path, write: Write, tmp_path: Path) -> None:
    """As above: a worker that imported the network later recorded the new code's result under the old id."""
    (spec,) = specs(*ASKED)
    trial.run_trial(spec, tmp_path / "a.ckpt", lambda _: None)
    (mine / "scale.json").write_text("1.5")
    with pytest.raises(RunError, match=r"the code of nets:net.* is not what it was when the study began"):
        trial.run_trial(spec, tmp_path / "b.ckpt", lambda _: None)
    (mine / "scale.json").unlink()
    with pytest.raises(RunError, match=r"scale.json.*nets:net cannot be built as it was"):
        trial.run_trial(spec, tmp_path / "b.ckpt", lambda _: None)


def test_a_network_that_no_seed_decides_is_refused(write: Write) -> None:
    """Seen: initial weights drawn from a generator of its own: the same id gave other results."""
    write(drawing=DRAWING.replace("np.random.randn(classes, 8)", "np.random.default_rng().normal(size=(classes, 8))"))
    with pytest.raises(UserError, match="drawing:net has other initial weights each time that it is built"):
        specs("backbone=drawing:net", "se=null", *SHORT)


def test_a_record_from_before_is_kept_and_not_used_without_a_word(
    mine: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Seen: records of earlier versions, which cannot say what code they are of."""
    (spec,) = specs(*ASKED)
    store = Store(f"sqlite:///{tmp_path}/lab.db")
    store.add(spec.as_recorded_earlier("").trial_id, "done", 0.0, json.dumps(RECORD))
    looked = plan.look_up(plan.make_plan(compose(ASKED)), store)
    assert len(looked.todo) == 1
    plan_text.show_total(looked, Expectation({spec.trial_id: 1.0}, rough=False), 1, Console(width=400))
    said = capsys.readouterr().out
    assert "1 trial of this was recorded before the code of nets:net became part of what a trial is" in said
    assert f"store forget {spec.as_recorded_earlier('').trial_id} deletes it" in said


# ------------------------------------------------------------------------------------------- entries of the registries


@pytest.mark.parametrize(
    ("entries", "name", "other", "words"),
    [
        (EXCITATIONS, "tanh", lambda y: 2 * y.tanh(), ("se.excitation=tanh",)),
        (SQUEEZES, "max", lambda x: x.amin((2, 3), keepdim=True), ("se.squeeze=max",)),
        (FROM_ONE, "relu", lambda y: (1 + y).abs(), ("se.identity_start=true", "se.excitation=relu")),
        (BACKBONES, "resnet8", partial(cifar.resnet, 14), ()),
        (BACKBONES, "resnet8", lambda **words: partial_decayed(**words), ()),
    ],
)
def test_a_changed_entry_is_another_training(
    monkeypatch: pytest.MonkeyPatch, entries: dict[str, Any], name: str, other: Any, words: tuple[str, ...]
) -> None:
    """Seen: what a name of the lab stands for was changed, and the old result was shown as the new one's."""
    plain = specs(*SHORT)[0].trial_id
    (before,) = specs(*SHORT, *words)
    assert before.code == ""
    was = entries[name]
    monkeypatch.setitem(entries, name, other)
    (after,) = specs(*SHORT, *words)
    assert after.trial_id != before.trial_id
    assert (specs(*SHORT)[0].trial_id == plain) == bool(words), "what does not use the entry is what it was"
    monkeypatch.setitem(entries, name, was)  # as a worker has it, which does not know of the change
    with pytest.raises(RunError, match="is not what it was when the study began"):
        trial.check_code(after)


def partial_decayed(**words: Any) -> Any:
    """The released network, but for the size of one layer's initial weights."""
    net = cifar.resnet(8, **words)
    net.fc.weight.data *= 1.01
    return net


def test_an_entry_written_otherwise_is_the_same_training(monkeypatch: pytest.MonkeyPatch) -> None:
    (before,) = specs(*SHORT, "se.excitation=sigmoid")
    monkeypatch.setitem(EXCITATIONS, "sigmoid", lambda y: 1 / (1 + (-y).exp()))
    monkeypatch.setitem(BACKBONES, "resnet8", lambda **words: cifar.resnet(8, **words))
    assert specs(*SHORT, "se.excitation=sigmoid")[0].trial_id == before.trial_id


def test_an_entry_of_ones_own_that_is_edited_is_another_training(monkeypatch: pytest.MonkeyPatch) -> None:
    ids = set()
    for factor in (0.5, 0.6):
        monkeypatch.setitem(EXCITATIONS, "mine", lambda y, factor=factor: (factor * y).sigmoid())
        ids.add(specs(*SHORT, "se.excitation=mine")[0].trial_id)
    assert len(ids) == 2


def test_machines_agree_on_what_a_network_is() -> None:
    """Normal numbers are drawn by other instructions elsewhere, and differ in their eighth digit."""
    net, other = (released.BACKBONES["resnet20"](num_classes=10, in_channels=3) for _ in range(2))
    other.load_state_dict(net.state_dict())
    for weight in other.parameters():
        weight.data *= 1 + 1e-7 * torch.randn_like(weight)
    assert released.weights(other) == released.weights(net)
    other.fc.weight.data *= 1.01
    assert released.weights(other) != released.weights(net)


# ------------------------------------------------------------------------------------------------- folders of results


def line(row: str, seed: int, trial_id: str, title: str = "") -> dict[str, Any]:
    """A trial as `trials.csv` has it."""
    known = dict.fromkeys(COLUMNS, "") | {"study": "s", "title": title, "row": row, "seed": seed, "trial_id": trial_id}
    known |= {"status": "done", "test_error": 10.0 + seed, "test_images": 100, "params": 1, "macs": 1}
    return known | {"data": "d", "backbone": "b", "recipe": "r", "epochs": 1, "device": "cpu", "torch": "2"}


def trials(*ids: str) -> pd.DataFrame:
    return pd.DataFrame([line("a", seed, trial_id) for seed, trial_id in enumerate(ids)])


@pytest.mark.parametrize(
    ("was", "now", "kept"),
    [
        ("abc", "abcde", False),  # more seeds
        ("abc", "abc", False),
        ("abc", "def", True),  # changed code, changed images, another data set of the same name
        ("abc", "ab", True),  # fewer seeds
        ("abc", "bcd", True),
    ],
)
def test_a_table_of_other_trials_is_kept(tmp_path: Path, was: str, now: str, kept: bool) -> None:
    """Seen: two data sets or studies of one name replaced each other's tables."""
    folder = tmp_path / "study"
    tables.write_table(folder, trials(*was))
    before = (folder / "trials.csv").read_bytes()
    said = kept_tables.replacement_notice(folder, set(now))
    place = kept_tables.make_room(folder, set(now))
    assert bool(said) == kept == (place is not None) == (not folder.exists())
    if place:
        assert (place / "trials.csv").read_bytes() == before
        assert place.name in said
        tables.write_table(folder, trials(*now))
        assert (len(list(tmp_path.rglob("trials.csv"))), kept_tables.replacement_notice(folder, set(now))) == (2, "")


def test_a_damaged_table_is_kept(tmp_path: Path) -> None:
    (tmp_path / "study").mkdir()
    (tmp_path / "study" / "trials.csv").write_text("nonsense")
    assert kept_tables.make_room(tmp_path / "study", {"a"}) is not None


TREE = ("data=folder", "data.size=8", "data.resize=8", "data.augment=none")


@pytest.mark.parametrize("words", [("data.train=train_clean",), ("data.test=exam",)])
def test_parts_of_a_tree_are_filed_apart(words: tuple[str, ...]) -> None:
    """As above: another training tree below the same root."""
    assert compose([*TREE, *words]).folder != compose(TREE).folder


@pytest.mark.parametrize(
    ("group", "name", "key"), [("ablation", "excitation", "study"), ("search", "tabular", "search")]
)
def test_a_copied_study_whose_name_was_left_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, group: str, name: str, key: str
) -> None:
    """As above: a copy of another study."""
    path = tmp_path / "sweeps" / group / "mine.yaml"
    path.parent.mkdir(parents=True)
    path.write_text((PACKAGE.parent / "sweeps" / group / f"{name}.yaml").read_text())
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=rf"mine.yaml: its {key}.name is '{name}'; it is to be the file's, 'mine'"):
        compose([f"+{group}=mine"])
    path.write_text(path.read_text().replace(f"name: {name}", "name: mine"))
    assert compose([f"+{group}=mine"]).folder.endswith("/mine")


def test_studies_that_train_other_things_are_other_studies_to_optuna(mine: Path, write: Write) -> None:
    """As above: their trials stood in one Optuna study."""

    def name(*words: str) -> str:
        composed = compose([*ASKED, *words])
        return of_plan(plan.make_plan(composed), composed).optuna.rpartition(" ")[2]

    before = name()
    assert name("seeds=3") == before, "more seeds are the same study"
    write(nets=NETS.replace("SLOPE = 0.0", "SLOPE = 0.9"))
    assert name() != before


# --------------------------------------------------------------------------------------------------- a part of a study


def test_a_stopped_study_has_a_table_that_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Seen: a study that was stopped had no table, and the report said that there was none."""
    monkeypatch.chdir(tmp_path)
    words = ["excitation", "study.only=[tanh]", "recipe.epochs=1", "data.subset=60", "seeds=2", "results=out"]
    composed = compose(["+ablation=excitation", *words[1:]])
    made = plan.make_plan(composed)
    store = Store("sqlite:///out/lab.db")
    for cell in made.cells[1:3]:  # one row has no trial of seed 0, and so no baseline there
        store.add(cell.trial_id, "done", 0.0, json.dumps(RECORD))
    assert main(["table", *words]) == 2
    assert "2 of the 4 trials" in (said := capsys.readouterr().err)
    assert "table --partial shows what there is" in said
    assert main(["table", "--partial", *words]) == 0
    mark = "2 of 4 trials"
    assert f"Partial ({mark})" in capsys.readouterr().out
    folder = Path("out") / composed.folder
    for form in ("trials.csv", "table.md", "table.csv", "table.tex", "figure.svg"):
        assert mark in (folder / form).read_text(), form
    assert main(["report", "out", "--to", "r.html", "--storage", "sqlite:///out/lab.db"]) == 0
    assert f"Partial ({mark})" in Path("r.html").read_text()
    capsys.readouterr()
    assert main(["publish", "--results", "out", "--to", "published"]) == 2
    assert "no finished table" in capsys.readouterr().err


def test_a_study_that_is_stopped_leaves_what_there_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As above."""
    monkeypatch.chdir(tmp_path)
    composed = compose(["+ablation=excitation", "study.only=[tanh]", "seeds=2", "results=out", *SHORT])
    made = plan.make_plan(composed)
    path = Path("out") / composed.folder / "trials.csv"
    left = ListedDesign([made], [path.parent])

    def stopped(*cells: plan.Cell) -> None:
        left.records = {cell.trial_id: RECORD for cell in cells}
        study.leave_parts([composed], left)

    stopped()
    assert not path.exists()
    stopped(made.cells[0])
    assert kept_tables.is_partial(path)
    stopped(*made.cells[:3])
    assert len(read_trials(path)) == 3
    whole = trials(*made.trials)
    path.write_bytes(csv_bytes(whole))
    stopped(made.cells[0])
    assert path.read_bytes() == csv_bytes(whole), "a whole table stays"


def test_hidden_folders_and_files_are_no_studies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Seen: a notebook's `.ipynb_checkpoints`, a copy's `._mine.yaml`."""
    monkeypatch.chdir(tmp_path)
    for folder in ("s", ".ipynb_checkpoints/s"):
        tables.write_table(tmp_path / folder, trials("a"))
    assert [each.name for each in results.finished_studies([tmp_path])] == ["s"]
