"""W&B dashboards: what the command writes, against runs that were really tracked and a server on this machine."""

from __future__ import annotations

import io
import json
import os
import re
import runpy
import subprocess
import sys
import warnings
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

import pytest
from launching import FOLDER, ROOT, WORDS, Ended, Lab, one_line
from wandb_runs import inspect
from wandb_server import Server

from senet_lab.__main__ import main
from senet_lab.config import SE
from senet_lab.reports.tables import read_trials
from senet_lab.reports.wandb_views import DashboardContent, group_key
from senet_lab.studies.export_facts import design_words
from senet_lab.studies.wandb_dashboards import SAVE

SECONDS = 480  # more than any command here takes, on a machine that is busy
FILES = ("dashboard.json", "report.json")
NO_KEY = (
    "not saved: there is no W&B key; `wandb login` stores one, WANDB_API_KEY gives one, and the same command saves it"
)


def command(folder: Path, home: Path, *words: str, **environment: str) -> Ended:
    """`dashboard` with these words in a folder, and nothing of the machine's own W&B settings."""
    inherited = {key: value for key, value in os.environ.items() if not key.startswith(("WANDB", "XDG_"))}
    done = subprocess.run(
        [sys.executable, "-m", "senet_lab", "dashboard", *words],
        cwd=folder,
        env={**inherited, "HOME": str(home), "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        timeout=SECONDS,
    )
    return Ended(done.returncode, done.stdout, done.stderr)


def inside(folder: Path, home: Path, *words: str, **environment: str) -> Ended:
    """The same in this process, which spares the imports."""
    out, err = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the library's own import
        patch.chdir(folder)
        for key in [key for key in os.environ if key.startswith(("WANDB", "XDG_"))]:
            patch.delenv(key)
        for key, value in {"HOME": str(home), **environment}.items():
            patch.setenv(key, value)
        return Ended(main(["dashboard", *words]), out.getvalue(), err.getvalue())


@pytest.fixture(scope="module")
def written(finished: Lab, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """What the command writes of the finished study, from the store."""
    to = tmp_path_factory.mktemp("written")
    done = inside(finished.folder, to, "tiny", *WORDS[1:], "--to", str(to))
    assert (done.code, done.err) == (0, ""), done
    title = "A small study: resnet8 on digits-subset 200, recipe quick-epochs 8"
    assert done.out == f"{title}: W&B workspace and report written to {to}/ (dashboard.json, report.json); {NO_KEY}\n"
    return {name: (to / name).read_bytes() for name in FILES}


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as serving:
        yield serving


def parts(value: Any) -> Iterator[dict[str, Any]]:
    """Every mapping in a JSON value."""
    if isinstance(value, dict):
        yield value
    for inner in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from parts(inner)


def keys(view: Any) -> dict[str, set[str]]:
    """The keys of runs that the panels of a view name: of their `config`, `summary` and `history`, and `table` for
    those of the study's own run."""
    found: dict[str, set[str]] = {"config": set(), "summary": set(), "history": set(), "table": set()}
    for part in parts(view):
        kind = part.get("viewType")
        config = part.get("config") or {}
        if kind == "Run History Line Plot":
            found["history"] |= {config["xAxis"], *config["metrics"]}
        if kind == "Bar Chart":
            found["summary"] |= set(config["metrics"])
        if kind == "Scatter Plot":
            found["summary"] |= {config[axis].removeprefix("summary:") for axis in ("xAxis", "yAxis")}
        if kind == "Media Browser":
            found["table"] |= set(config["mediaKeys"])
        if kind == "Weave":
            found["table"].add(config["panel2Config"]["exp"]["fromOp"]["inputs"]["key"]["val"])
        if "groupBy" in config:
            found["config"].add(config["groupBy"])
        for accessor in [part.get("accessor", ""), *part.get("columnOrder", [])]:
            section, _, name = accessor.partition(":")
            if section in ("config", "summary"):
                found[section].add(name)
        for key in part.get("grouping", []):
            found[key["section"]].add(key["name"])
    return found


def config_keys(config: dict[str, Any]) -> set[str]:
    """How W&B addresses the keys of a run's configuration, two levels deep."""
    inner = {f"{a}.value.{b}" for a, value in config.items() if isinstance(value, dict) for b in value}
    return inner | {f"{name}.value" for name in config}


def runs_of(view: Any) -> set[str]:
    """Ids of the runs that a view is filtered to."""
    filters = [part for part in parts(view) if part.get("op") == "IN"]
    assert all(part["key"] == {"section": "run", "name": "name"} for part in filters)
    return {run for part in filters for run in part["value"]}


# --------------------------------------------------------------------------------------------------------------------
# What is written


def test_panels_name_what_is_logged(finished: Lab, written: dict[str, bytes]) -> None:
    """Every key of every panel is one that the runs of a real study have, and every run that it shows is there."""
    paths = {path.name.split("-", 3)[3]: path for path in finished.folder.glob("results/local/wandb/offline-run-*")}
    runs = {run_id: inspect(path) for run_id, path in paths.items()}
    trials = {trial["trial_id"] for trial in finished.trials()}
    for text in written.values():
        view = json.loads(text)
        used = keys(view)
        assert used["history"] >= {"epoch", "val_error", "val_loss", "train_loss"}
        assert used["summary"] >= {"params", "GFLOPs", "final/test_error"}
        assert used["config"] >= {f"design.value.{factor}" for factor in ("reduction", "squeeze", "position", "stages")}
        assert used["table"] == {"table", "figure"}
        for trial_id in trials:
            assert used["config"] <= config_keys(runs[trial_id]["config"])
            assert used["summary"] <= runs[trial_id]["summary"].keys()
            assert all(used["history"] <= line.keys() for line in runs[trial_id]["history"])
        assert runs_of(view) == runs.keys()  # the study's own run among them: its id is found without W&B
        (table_run,) = runs.keys() - trials
        logged = {key.partition(".")[0] for line in runs[table_run]["history"] for key in line}
        assert used["table"] <= logged | runs[table_run]["summary"].keys()


def test_rows_are_told_apart(finished: Lab, written: dict[str, bytes]) -> None:
    """What runs are grouped by has one value for a row, and another one for another row."""
    (grouping,) = {
        part["grouping"][0]["name"] for part in parts(json.loads(written["dashboard.json"])) if part.get("grouping")
    }
    assert grouping == "design.value.reduction"
    levels: dict[str, set[str]] = {}
    for path in finished.folder.glob("results/local/wandb/offline-run-*"):
        config = inspect(path)["config"]
        if "design" in config:
            levels.setdefault(config["row"], set()).add(config["design"]["reduction"])
    assert levels == {"r = 2": {"2"}, "r = 8": {"8"}, "no SE": {"none"}}


def test_the_same_bytes_from_a_file(finished: Lab, written: dict[str, bytes], tmp_path: Path) -> None:
    """From the store and from the trials.csv, in two processes: the library's random ids are nowhere."""
    done = command(finished.folder, tmp_path, f"{FOLDER}/trials.csv", "--to", str(tmp_path))
    assert (done.code, done.err) == (0, ""), done
    assert {name: (tmp_path / name).read_bytes() for name in FILES} == written


def test_table_and_mean_and_spread(finished: Lab, written: dict[str, bytes]) -> None:
    markdown = (finished.table / "table.md").read_text()
    workspace, report = (json.loads(written[name]) for name in FILES)
    panels = [part for part in parts(workspace) if "viewType" in part]
    (shown,) = (panel["config"]["value"] for panel in panels if panel["viewType"] == "Markdown Panel")
    cells, whole = ([{*line.strip("| ").split(" | ")} for line in text.splitlines()] for text in (shown, markdown))
    assert {"row", "our error %", "Δ [95%]", "verdict"} <= cells[2] < whole[2]
    assert all(some <= line for some, line in zip(cells, whole, strict=True))  # some columns, and every note
    (block,) = (part for part in parts(report) if part.get("type") == "markdown-block")
    assert markdown.endswith(f"\n\n{block['content']}\n")
    spread = [panel["config"] for panel in panels if panel["viewType"] in ("Run History Line Plot", "Bar Chart")]
    assert len(spread) == 5
    assert all((each["groupAgg"], each["groupArea"]) == ("mean", "stddev") for each in spread)
    assert len({panel["__id__"] for panel in panels}) == len(panels)


@pytest.mark.parametrize(
    ("se", "reduction", "stages"),
    [(SE({2: 16, 3: 16}), "16", "2 3"), (SE({2: 16, 4: 8}), "2:16 4:8", "2 4"), (None, "none", "none")],
)
def test_a_design_in_words(se: SE | None, reduction: str, stages: str) -> None:
    words = design_words(se)
    assert (words["reduction"], words["stages"]) == (reduction, stages)
    assert words["squeeze"] == ("none" if se is None else "avg")


def test_what_rows_are_grouped_by() -> None:
    """Where SE is switched off beside another factor than SE's, only the label tells."""
    trials = read_trials(ROOT / "results/digits/resnet8-quick/ratio/trials.csv")
    assert group_key("se.reduction", trials) == "design.reduction"
    assert group_key("recipe.lr", trials) == "row"
    assert group_key("recipe.lr", trials[trials["row"] != "no SE"]) == "recipe.lr"
    assert group_key("", trials) == "row"


@pytest.mark.parametrize("title", ["Ratio 🎉 <r> = 2 + 3 | ~x^2", "x" * 300])
def test_titles_that_the_server_takes(title: str) -> None:
    """W&B's library refuses symbols and more than 128 characters; texts that differ at their end stay apart."""
    trials = read_trials(ROOT / "results/digits/resnet8-quick/ratio/trials.csv")
    shown, other = (DashboardContent(trials.assign(title=text), (), "", "row") for text in (title, f"{title}1"))
    for what in ("", "Report of "):
        assert not re.search(r"[🎉<>=+|~^]", shown.title(what))
        assert len(shown.title(what)) <= 128
        assert shown.title(what) != other.title(what)


# --------------------------------------------------------------------------------------------------------------------
# Saving


def test_saved_once_under_its_address(finished: Lab, written: dict[str, bytes], server: Server, tmp_path: Path) -> None:
    """What arrives is what was written; the second time replaces the first."""
    for _ in range(2):
        done = inside(finished.folder, tmp_path, FOLDER, "--to", str(tmp_path), **server.environment)
        assert (done.code, done.err) == (0, ""), done
        assert len(server.views) == 2
        assert one_line(done.out, f"written to {tmp_path}/ (dashboard.json, report.json); saved: ")
        addresses = done.out.rpartition(" saved: ")[2].split(" and ")
        for view, name, address in zip(server.views.values(), FILES, addresses, strict=True):
            file = json.loads(written[name])
            assert json.loads(view["spec"]) == file["spec"]
            sent = {key: view[key] for key in file}
            assert sent == {**file, "entityName": "someone", "spec": view["spec"]}
            known = view["id"] if name == "report.json" else view["name"].removeprefix("nw-").removesuffix("-v")
            assert re.fullmatch(rf"{server.url}/someone/senet_lab[/?][\w/=?-]*{known}\n?", address)
    assert {name: (tmp_path / name).read_bytes() for name in FILES} == written
    assert server.requests.count("CreateProject") == 1


def test_requests_have_the_variables_of_the_library() -> None:
    """The loopback server checks no schema: the library's own mutation stands beside ours."""
    library = distribution("wandb-workspaces").locate_file("wandb_workspaces/reports/v2/gql.py")
    texts = (runpy.run_path(str(library))["upsert_view"], SAVE)
    declared, ours = (set(re.findall(r"[$](\w+): ?(ID|String)", text)) for text in texts)
    assert len(declared) == 8
    assert ours == declared
    given, ours = (set(re.findall(r"(\w+): ([$]\w+|WANDB_SDK)", text)) for text in texts)
    assert ours == given


@pytest.mark.parametrize("fault", ["refused", "denied", "nowhere"])
def test_it_cannot_be_saved(
    finished: Lab, written: dict[str, bytes], server: Server, fault: str, tmp_path: Path
) -> None:
    server.refuses, server.denied = fault == "refused", "SaveView" if fault == "denied" else ""
    environment = {**server.environment, "WANDB_HTTP_TIMEOUT": "2"}
    if fault == "nowhere":
        environment["WANDB_BASE_URL"] = "http://127.0.0.1:9"
    done = inside(finished.folder, tmp_path, FOLDER, "--to", str(tmp_path), **environment)
    assert done.code == 1, done
    assert one_line(done.err, "error: dashboard: ", f"{tmp_path}/ holds what would be saved"), done.err
    assert {name: (tmp_path / name).read_bytes() for name in FILES} == written
    assert server.views == {}


# --------------------------------------------------------------------------------------------------------------------
# Bad input


def test_what_cannot_be_shown(
    tmp_path: Path, finished: Lab, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One line, exit code 2, and nothing is written."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    lines = (finished.table / "trials.csv").read_text().splitlines()
    (tmp_path / "cut.csv").write_text("\n".join(lines)[:-20])
    cases = {
        ("none",): "ablation: there is no study 'none'; there are",
        ("ratio",): "lab.db has no record of digits/resnet8-quick/ratio: there is nothing to show",
        ("ratio", "sedes=2"): "there is no key 'sedes' (did you mean seeds?)",
        ("empty",): "empty/trials.csv: cannot be read",
        ("cut.csv",): "cut.csv: damaged",
        (str(finished.table / "trials.csv"), "seeds=2"): "seeds=2: ",
    }
    for words, said in cases.items():
        assert main(["dashboard", *words]) == 2
        assert one_line(capsys.readouterr().err, "error: ", said)
    monkeypatch.setitem(sys.modules, "wandb_workspaces", None)  # as if it were not installed
    assert main(["dashboard", "ratio"]) == 2
    assert one_line(capsys.readouterr().err, "wandb-workspaces is not installed; pip install 'senet-lab[dashboard]'")
    assert not (tmp_path / "results").exists()


@pytest.mark.slow
def test_a_study_that_is_not_complete(copy: Lab) -> None:
    """What is recorded is shown, and the runs that are to come are in it, too."""
    (trial,) = (trial for trial in copy.trials() if (trial["row"], trial["seed"]) == ("r = 8", "1"))
    forget = [sys.executable, "-m", "senet_lab", "store", "forget", trial["trial_id"]]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    subprocess.run(forget, cwd=copy.folder, env=environment, check=True, capture_output=True, timeout=SECONDS)
    done = command(copy.folder, copy.folder, "tiny", *WORDS[1:])
    assert (done.code, done.err) == (0, ""), done
    view = json.loads((copy.table / "dashboard.json").read_text())
    assert trial["trial_id"] in runs_of(view)
    (markdown,) = (part["config"]["value"] for part in parts(view) if part.get("viewType") == "Markdown Panel")
    assert markdown != (copy.table / "table.md").read_text()
