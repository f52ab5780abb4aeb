"""Optuna's dashboard on the lab's store: the real server on this machine, asked as its page asks it."""

from __future__ import annotations

import csv
import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import optuna
import pytest
from launching import ROOT, TRIALS, WORDS, Lab, one_line
from optuna.distributions import CategoricalDistribution, IntDistribution

from senet_lab import run
from senet_lab.__main__ import main
from senet_lab.studies.workers import Workers

SECONDS = 240  # more than the server takes to start, or a request to be answered
STUDY = "digits-subset=200/resnet8-quick-epochs=8/tiny"
STORE = "sqlite:///results/local/lab.db"


@pytest.fixture(scope="module")
def served(finished: Lab) -> Iterator[str]:
    """The address of a server on the finished study's store."""
    command = [sys.executable, "-m", "senet_lab", "optuna-dashboard", "--port", "0"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    pipe = subprocess.PIPE
    with subprocess.Popen(command, cwd=finished.folder, env=environment, stdout=pipe, stderr=pipe, text=True) as server:
        try:
            assert server.stdout is not None
            assert server.stderr is not None
            ready, _, _ = select.select([server.stdout], [], [], SECONDS)
            assert ready, "the server has not said where it is"
            words = server.stdout.readline().split()
            assert words[:2] == ["1", "study"], (words, server.poll() is not None and server.stderr.read())
            yield next(word for word in words if word.startswith("http://127.0.0.1:"))
            server.send_signal(signal.SIGINT)
            _, errors = server.communicate(timeout=SECONDS)
            assert (server.returncode, errors) == (0, "")
        finally:
            server.kill()


def get(address: str) -> Any:
    with urllib.request.urlopen(address, timeout=SECONDS) as answer:
        return json.load(answer)


def wait_for(address: str) -> Any:
    """An answer of a server, once it is there; pages that need some time are made in the background."""
    until = time.monotonic() + SECONDS
    while True:
        found = get(address)
        if found.get("trials") or time.monotonic() > until:
            return found
        time.sleep(0.1)


def test_every_trial_is_readable(served: str, finished: Lab) -> None:
    """A trial shows its row, seed, level, costs and errors, under names that say what they are."""
    (study,) = get(f"{served}api/studies")["study_summaries"]
    assert study["study_name"].startswith(f"{STUDY} (")
    shown = wait_for(f"{served}api/studies/{study['study_id']}?after=0")
    assert shown["objective_names"] == ["validation error (%)", "params", "multiply-adds"]
    about = {attribute["key"]: attribute["value"] for attribute in shown["user_attrs"]}
    assert about == {
        "title": "A small study",
        "data": "digits-subset=200",
        "backbone": "resnet8",
        "recipe": "quick-epochs=8",
        "factor": "se.reduction",
        "baseline": "r = 2",
    }
    expected = {(trial["row"], trial["seed"]): trial for trial in finished.trials()}
    assert len(shown["trials"]) == len(expected) == TRIALS
    for trial in shown["trials"]:
        params = {param["name"]: param["param_external_value"] for param in trial["params"]}
        record = expected.pop((params["row"], params["seed"]))
        assert trial["values"] == [float(record[name]) for name in ("val_error", "params", "macs")]
        told = {attribute["key"]: attribute["value"] for attribute in trial["user_attrs"]}
        assert told["se.reduction"] == {"r = 2": "2", "r = 8": "8", "no SE": "none"}[params["row"]]
        assert float(told["test error (%)"]) == pytest.approx(float(record["test_error"]))
        assert json.loads(told["trial"])["id"] == record["trial_id"]
    spaces = {space["name"]: space["distribution"] for space in shown["union_search_space"]}
    assert {choice["value"] for choice in spaces["row"]["choices"]} == {"r = 2", "r = 8", "no SE"}
    assert (spaces["seed"]["low"], spaces["seed"]["high"]) == (0, 1)  # the axes of its plots are as wide
    assert {"key": "test error (%)", "sortable": True} in shown["union_user_attrs"]


def test_importances_are_those_of_what_is_known(served: str) -> None:
    """Parameters depend on the row and on nothing else. A range of seeds far wider than the seeds told otherwise."""
    (study,) = get(f"{served}api/studies")["study_summaries"]
    for importances in get(f"{served}api/studies/{study['study_id']}/param_importances")["param_importances"][1:]:
        found = {one["name"]: one["importance"] for one in importances}
        assert found["row"] > 0.9, found


def test_times_are_those_of_the_trainings(served: str, finished: Lab) -> None:
    (study,) = get(f"{served}api/studies")["study_summaries"]
    with (finished.table / "runs.csv").open(newline="") as file:
        seconds = {run["trial_id"]: float(run["seconds"]) for run in csv.DictReader(file)}
    for trial in wait_for(f"{served}api/studies/{study['study_id']}?after=0")["trials"]:
        told = {attribute["key"]: attribute["value"] for attribute in trial["user_attrs"]}
        begun, ended = (datetime.fromisoformat(trial[f"datetime_{name}"]) for name in ("start", "complete"))
        assert (ended - begun).total_seconds() == pytest.approx(seconds[json.loads(told["trial"])["id"]], abs=0.011)


def test_a_store_of_the_version_before_goes_on(
    copy: Lab, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Trials that were added with other ranges and attributes stay; those that are missing join them."""
    monkeypatch.chdir(copy.folder)
    monkeypatch.setattr(Workers, "submit", None)
    storage = optuna.storages.RDBStorage(STORE)
    (name,) = optuna.get_all_study_names(storage)
    optuna.delete_study(study_name=name, storage=storage)
    study = optuna.create_study(study_name=name, storage=storage, directions=["minimize"] * 3)
    rows = CategoricalDistribution(["r = 2", "r = 8", "no SE"])
    records = copy.records()
    for record in records[:4]:
        metrics = record["metrics"]
        study.add_trial(
            optuna.trial.create_trial(
                params={"row": record["label"], "seed": record["seed"]},
                distributions={"row": rows, "seed": IntDistribution(0, 2**31 - 1)},
                values=[metrics["val_error"], record["params"], record["macs"]],
                user_attrs={"trial": {"id": record["trial_id"], **metrics}},
            )
        )
    assert run.main([*WORDS, "tracking=off"]) == 0
    assert capsys.readouterr().err == ""
    trials = optuna.load_study(study_name=name, storage=storage).trials
    assert [trial.user_attrs["trial"]["id"] for trial in trials[:4]] == [record["trial_id"] for record in records[:4]]
    assert {trial.user_attrs["trial"]["id"] for trial in trials} == {record["trial_id"] for record in records}
    assert len(trials) == TRIALS
    assert [len(trial.user_attrs) for trial in trials] == [1, 1, 1, 1, 3, 3]


def test_what_cannot_be_served(
    tmp_path: Path, finished: Lab, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["optuna-dashboard"]) == 2
    assert one_line(capsys.readouterr().err, f"error: {STORE} holds no study yet")
    assert list(tmp_path.iterdir()) == []
    assert main(["optuna-dashboard", "--storage", "lab.db"]) == 2
    assert one_line(capsys.readouterr().err, "error: storage=lab.db is not a database URL")
    monkeypatch.chdir(finished.folder)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert main(["optuna-dashboard", "--port", str(port)]) == 2
    assert one_line(capsys.readouterr().err, f"error: --port {port} cannot be served: Address already in use")
    assert main(["optuna-dashboard", "--port", "70000"]) == 2
    assert one_line(capsys.readouterr().err, "error: --port 70000 cannot be served")
    monkeypatch.setitem(sys.modules, "optuna_dashboard", None)  # as if it were not installed
    assert main(["optuna-dashboard"]) == 2
    assert one_line(capsys.readouterr().err, "optuna-dashboard is not installed; pip install 'senet-lab[dashboard]'")
