"""W&B against its real client: offline runs are read back and synced, online runs go to a server on this machine."""

from __future__ import annotations

import base64
import csv
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from launching import TINY, USERS, Lab
from launching import WORDS as SETTINGS
from wandb_runs import END_SECONDS, WANDB, finish, first_line, inspect, services
from wandb_server import Server

from senet_lab.config import UserError
from senet_lab.studies.wandb_client import LONGEST, run_name, wandb_mode

ROOT = Path(__file__).parents[1]
LONG = "a row whose label holds “quotes”, 100 %, a/slash, \\ and #?:" + 12 * " and more"
OTHER = TINY.replace("name: tiny", "name: other").replace("    no SE: {se: null}\n", "")
FIGURE = "home/figure.png"
PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGNgAAAAAgABSK+kcQAAAABJRU5ErkJggg=="
WORDS = ["data.subset=100", "seeds=1", "executor.workers=2"]
EPOCHS = list(range(1, 9))  # of the finished study
NOWHERE = "http://127.0.0.1:9"


@dataclass(frozen=True)
class Place:
    """A user's working directory and home, and nothing of the machine's own W&B settings."""

    folder: Path

    def environment(self, **more: str) -> dict[str, str]:
        inherited = {key: value for key, value in os.environ.items() if not key.startswith(("WANDB", "XDG_"))}
        return {**inherited, "HOME": str(self.folder / "home"), "PYTHONPATH": f"{ROOT}:{ROOT}/tests", **more}

    def start(self, command: list[str], **more: str) -> subprocess.Popen[str]:
        pipe, environment = subprocess.PIPE, self.environment(**more)
        return subprocess.Popen(
            command, cwd=self.folder, env=environment, stdin=pipe, stdout=pipe, stderr=pipe, text=True
        )

    def run(self, command: list[str], **more: str) -> subprocess.CompletedProcess[str]:
        process = self.start(command, **more)
        output, errors = finish(process)
        return subprocess.CompletedProcess(command, process.returncode, output, errors)

    def study(self, name: str, *words: str, **more: str) -> subprocess.CompletedProcess[str]:
        return self.run(study_command(name, *words), **more)

    def script(self, text: str, *words: str, **more: str) -> subprocess.CompletedProcess[str]:
        return self.run([sys.executable, "-c", text, *words], **more)

    def runs(self) -> dict[str, Path]:
        return runs_below(self.folder)

    def trials(self, name: str) -> list[dict[str, str]]:
        (path,) = self.folder.glob(f"results/local/*/*/{name}/trials.csv")
        with path.open() as lines:
            return list(csv.DictReader(lines))


def runs_below(folder: Path) -> dict[str, Path]:
    """Offline runs by id."""
    return {path.name.split("-", 3)[3]: path for path in folder.glob("results/local/wandb/offline-run-*")}


def study_command(name: str, *words: str) -> list[str]:
    return [sys.executable, "-m", "senet_lab.run", f"+ablation={name}", *WORDS, *words]


@pytest.fixture
def fresh(tmp_path: Path) -> Place:
    (tmp_path / "home").mkdir()
    (tmp_path / FIGURE).write_bytes(base64.b64decode(PIXEL))
    sweeps = tmp_path / "sweeps" / "ablation"
    sweeps.mkdir(parents=True)
    (sweeps / "tiny.yaml").write_text(TINY)
    (sweeps / "other.yaml").write_text(OTHER)
    return Place(tmp_path)


@pytest.fixture(scope="module")
def runs(finished: Lab) -> dict[str, Path]:
    """The offline runs of the finished study by id."""
    return runs_below(finished.folder)


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as serving:
        yield serving


def until(condition: Callable[[], bool], seconds: float) -> bool:
    """Whether a condition comes true in time."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.05)
    return condition()


# --------------------------------------------------------------------------------------------------------------------
# Offline


def test_every_trial_is_one_offline_run(finished: Lab, runs: dict[str, Path]) -> None:
    trials = finished.trials()
    assert {run_id for run_id in runs if not run_id.startswith("study-")} == {trial["trial_id"] for trial in trials}
    for trial in trials:
        run = inspect(runs[trial["trial_id"]])
        assert run["last"]["type"] == "exit"
        assert run["about"]["run_id"] == trial["trial_id"]
        assert run["about"]["run_group"].endswith("/tiny")
        assert run["about"]["job_type"] == trial["row"]
        config = run["config"]
        assert (config["row"], config["seed"]) == (trial["row"], int(trial["seed"]))
        assert config["trial_id"] == trial["trial_id"]
        assert config["recipe"]["epochs"] == 8
        assert config["data"]["subset"] == 200
        assert config["versions"]["torch"]
        assert [line["epoch"] for line in run["history"]] == [line["_step"] for line in run["history"]] == EPOCHS
        assert {"train_loss", "val_error"} <= run["history"][0].keys()
        summary = run["summary"]
        assert summary["final/test_error"] == pytest.approx(float(trial["test_error"]))
        assert summary["params"] == int(trial["params"])
        assert summary["GFLOPs"] == pytest.approx(int(trial["macs"]) / 1e9)
        assert summary["state"] == "done"


def test_design_is_in_the_configuration(finished: Lab, runs: dict[str, Path]) -> None:
    designs = {trial["row"]: inspect(runs[trial["trial_id"]])["config"]["se"] for trial in finished.trials()}
    assert designs["no SE"] == "none"
    assert designs["r = 2"]["reduction"] == {"2": 2, "3": 2, "4": 2}
    assert designs["r = 2"]["position"] == "standard"


def test_study_ends_with_its_table_and_figure(finished: Lab, runs: dict[str, Path]) -> None:
    (folder,) = (path for run_id, path in runs.items() if run_id.startswith("study-"))
    run = inspect(folder)
    assert run["about"]["job_type"] == "study"
    assert run["about"]["run_group"].endswith("/tiny")
    (line,) = run["history"]
    assert (folder / "files" / line["figure.path"]).read_bytes() == (finished.table / "figure.png").read_bytes()
    logged = json.loads((folder / "files" / line["table.path"]).read_text())
    with (finished.table / "table.csv").open() as lines:
        heading, *rows = csv.reader(lines)
    assert logged["columns"] == heading
    assert [row[heading.index("row")] for row in logged["data"]] == [row[heading.index("row")] for row in rows]
    assert all(value is None or value == value for row in logged["data"] for value in row)  # no NaN


def test_the_users_environment(finished: Lab, runs: dict[str, Path]) -> None:
    """Project and entity are the user's; `results` decides the place; the home stays clean."""
    assert {inspect(run)["about"]["project"] for run in runs.values()} == {"my-project"}
    assert {inspect(run)["about"]["entity"] for run in runs.values()} == {"someone"}
    assert sorted(path.name for path in finished.folder.iterdir()) == ["home", "results", "screen", "sweeps"]
    assert not [path for path in (finished.folder / "home").rglob("*") if "wandb" in path.name]
    assert b"wandb" not in (finished.folder / "screen").read_bytes().lower()


@pytest.mark.slow
def test_nothing_is_written_twice(copy: Lab) -> None:
    """Not by another study that shares the trials; that adds its own table only. What was cut off is cleaned up."""
    before = runs_below(copy.folder)
    cut_off = copy.folder / "results/local/wandb/.writing/wandb/offline-run-20260101_000000-cut"
    cut_off.mkdir(parents=True)
    (copy.folder / "sweeps/ablation/other.yaml").write_text(OTHER)
    done = copy.run("+ablation=other", *SETTINGS[1:], tracking="offline", environment=USERS)
    assert done.code == 0, done.err
    after = runs_below(copy.folder)
    assert before.items() <= after.items()
    (added,) = after.keys() - before.keys()
    assert added.startswith("study-")
    assert inspect(after[added])["about"]["run_group"].endswith("/other")
    assert not cut_off.exists()


def test_sync_uploads_everything_once(copy: Lab, server: Server) -> None:
    runs, environment = runs_below(copy.folder), {**os.environ, "HOME": str(copy.folder), **server.environment}
    for again in ("--skip-synced", "--include-synced"):
        sync = [WANDB, "sync", again, *runs.values()]
        subprocess.run(sync, env=environment, cwd=copy.folder, check=True, capture_output=True)
        assert server.runs.keys() == runs.keys()
        for trial in copy.trials():
            run = server.runs[trial["trial_id"]]
            assert run.about["jobType"] == trial["row"]
            assert run.about["groupName"].endswith("/tiny")
            assert [line["epoch"] for line in run.history] == EPOCHS
            assert run.summary["final/test_error"] == pytest.approx(float(trial["test_error"]))
            assert run.config["row"] == trial["row"]
            assert run.exit_code == 0
        for run_id in runs.keys() - {trial["trial_id"] for trial in copy.trials()}:
            run = server.runs[run_id]
            (line,) = run.history
            assert run.files[line["figure"]["path"]].startswith(b"\x89PNG")
            assert json.loads(run.files[line["table"]["path"]])["columns"][0] == "row"
        assert json.loads(server.artifacts["table.table.json"])["columns"][0] == "row"  # W&B reads tables here


# Two trials that are recorded, and what is known of them.
RECORDED = """
import os, signal, sys
from pathlib import Path
from senet_lab.config import Config, RunError, UserError
from senet_lab.studies.export_facts import ExportedStudy, WandbRun
from senet_lab.studies.store import Store
from wandb_runs import services

mode, figure, *flags = sys.argv[1:]
store = Store("sqlite:///results/local/lab.db")
store.forget(["one", "two"])
record = {"config": {}, "epochs": [{"epoch": epoch} for epoch in range(1, 6)], "seconds": 1.0, "resumed": False}
record |= {"metrics": {"test_error": 1.0, "val_error": 1.0}, "reason": "its own", "host": "here"}
for trial_id in ("one", "two"):
    if store.claim(trial_id):
        store.finish(trial_id, "failed" if "fail" in flags else "done", record)
Path("table.csv").write_text("row,a,b\\nNone,1,\\nx,,2\\n")
runs = tuple(WandbRun(trial_id, label, 0, {}, 1, 1) for trial_id, label in (("one", "row"), ("two", LABEL)))
facts = ExportedStudy("study", "study", (), {}, {}, list(runs), [], (Path("table.csv"), Path(figure)))
""".replace("LABEL", repr(LONG))
# Their export in this process, where it can be disturbed.
WRITE = f"""{RECORDED}
from senet_lab.studies import export_wandb, wandb_client

fill = export_wandb.fill

def disturbed(made, run, record):
    fill(made, run, {{**record, "epochs": record["epochs"][:3]}} if flags else record)
    if "kill" in flags:
        os.kill(os.getpid(), signal.SIGKILL)
    if "freeze" in flags:
        os.kill(int(services(os.getpid())[0]), signal.SIGSTOP)
    fill(made, run, record)

export_wandb.fill = disturbed
if "freeze" in flags:
    export_wandb.RUN_SECONDS = 5
folder = Path("results/local/wandb")
code = 0
with wandb_client.client(folder):
    print(os.getpid(), flush=True)
    left = []
    try:
        export_wandb.Wandb(folder, mode == "online").write([facts], store, left.append, whole=True)
    except Exception as error:
        print(f"{{type(error).__name__}}: {{error}}", file=sys.stderr)
        code = 1
    print(left[-1], left[0] - left[-1], flush=True)
    for service in services(os.getpid()) if code else ():
        os.kill(int(service), signal.SIGKILL)
os._exit(code)  # W&B's own exit handler might wait for good
"""
# The same as a study does it, by the exporting process.
EXPORT = f"""{RECORDED}
from senet_lab.studies.exporter import Exporter

try:
    exporter = Exporter(Config(tracking=mode, storage=store.url), [facts], ["wandb"])
    print(exporter.process.pid, flush=True)
    word = input()
    if word == "leave":
        exporter.leave()
    else:
        done = exporter.finish(whole=True)["wandb"]
        print(done.written, done.left, done.reason)
except (RunError, UserError) as error:
    sys.exit(f"{{type(error).__name__}}: {{error}}")
"""


def test_killed_in_the_middle_of_writing(fresh: Place) -> None:
    """Never half a run: what is cut off is a temporary folder, and gone the next time. The service ends, too."""
    killed = fresh.script(WRITE, "offline", FIGURE, "kill")
    assert killed.returncode == -signal.SIGKILL
    assert until(lambda: not services(int(killed.stdout.split()[0])), 10)
    folder = fresh.folder / "results/local/wandb"
    assert fresh.runs() == {}
    assert list(folder.glob(".writing/wandb/offline-run-*-one"))
    fresh.script(WRITE, "offline", FIGURE)
    assert {"one", "two"} <= fresh.runs().keys()
    assert [line["epoch"] for line in inspect(fresh.runs()["one"])["history"]] == [1, 2, 3, 4, 5]
    assert not (folder / ".writing").exists()
    about = inspect(fresh.runs()["two"])["about"]
    assert about["job_type"] == run_name(LONG)
    assert len(about["display_name"]) <= LONGEST


@pytest.mark.slow
def test_a_service_that_stops_answering(fresh: Place, server: Server) -> None:
    """It holds up nothing for good, and the next time all is written."""
    frozen = fresh.script(WRITE, "online", FIGURE, "freeze", **server.environment)
    assert (frozen.returncode, frozen.stderr) == (1, "TimeoutError: W&B did not answer for 5 seconds\n"), frozen
    assert frozen.stdout.splitlines()[-1] == "3 0"
    done = fresh.script(WRITE, "online", FIGURE, **server.environment)
    assert (done.returncode, done.stdout.splitlines()[-1]) == (0, "0 3"), done
    assert [server.runs[run_id].exit_code for run_id in ("one", "two")] == [0, 0]


def test_two_exporters_write_a_run_once(fresh: Place) -> None:
    """Both have waited for the same trial, and see its record at the same time."""
    command = [sys.executable, "-c", WRITE, "offline", FIGURE]
    exporters = [fresh.start(command) for _ in range(2)]
    for exporter in exporters:
        finish(exporter)
    found = sorted(path.name.split("-", 3)[3] for path in fresh.folder.glob("results/local/wandb/offline-run-*"))
    assert [run_id for run_id in found if not run_id.startswith("study-")] == ["one", "two"]


def test_a_trial_that_is_retried(fresh: Place) -> None:
    """Its success replaces its failure, and needs no second run."""
    assert fresh.script(WRITE, "offline", FIGURE, "fail").returncode == 0
    assert {"one-failed", "two-failed"} <= fresh.runs().keys()
    assert inspect(fresh.runs()["one-failed"])["about"]["run_id"] == "one"
    assert fresh.script(WRITE, "offline", FIGURE).returncode == 0
    assert sorted(run_id for run_id in fresh.runs() if not run_id.startswith("study-")) == ["one", "two"]


def test_a_full_disk_is_no_half_a_run(fresh: Place) -> None:
    """The limit on a file's size stands for it: the client itself would leave half a run, and not say so."""
    limited = WRITE.replace(
        "code = 0", f"code = 0\nimport resource; resource.setrlimit(resource.RLIMIT_FSIZE, 2 * [{2**20}])"
    )
    done = fresh.script(limited, "offline", FIGURE)
    assert done.returncode == 1
    assert done.stdout.splitlines()[-1] == "3 0"
    assert done.stderr == "OSError: [Errno 27] File too large\n"
    assert fresh.runs() == {}


@pytest.mark.parametrize(
    ("word", "said", "mode"),
    [
        *(("auto", said, "offline") for said in (None, "offline", "dryrun")),
        *(("auto", said, "online") for said in ("online", "run", "shared")),
        *((word, "disabled", "off") for word in ("auto", "offline", "online", "off")),
        *((word, None, word) for word in ("offline", "online", "off")),
        ("offline", "online", "offline"),
        ("online", "dryrun", "online"),
        ("off", "nonsense", "off"),
    ],
)
def test_the_mode_is_what_is_said_of_it(
    word: str, said: str | None, mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Off is off, by whichever word; else the lab's word is the nearer one."""
    monkeypatch.setenv("WANDB_MODE", said) if said else monkeypatch.delenv("WANDB_MODE", raising=False)
    assert wandb_mode(word) == mode


def test_a_mode_that_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "of")
    with pytest.raises(UserError, match=r"^WANDB_MODE=of: there is no such mode; there are online, run, "):
        wandb_mode("offline")


@pytest.mark.slow
def test_what_the_client_has_switched_off_writes_nothing(fresh: Place) -> None:
    """By the command `wandb disabled`, which its settings keep."""
    done = fresh.run([str(WANDB), "disabled"])
    assert done.returncode == 0, done.stderr
    done = fresh.script(WRITE, "offline", FIGURE)
    assert done.returncode == 0, done
    assert fresh.runs() == {}


def test_long_texts_stay_apart() -> None:
    assert run_name("r = 2") == "r = 2"
    assert len(run_name(LONG + "x" * 200)) == LONGEST
    assert run_name("x" * 200 + "1") != run_name("x" * 200 + "2")


# --------------------------------------------------------------------------------------------------------------------
# Online


@pytest.mark.slow
def test_online_runs_of_a_study_that_is_killed(fresh: Place, server: Server) -> None:
    """Runs appear while the study trains; after kill -9 nothing is there twice, and no epoch."""
    words = ("seeds=8", "recipe.epochs=40", "data.subset=700", "tracking=online")
    driver = fresh.start(study_command("other", *words), **server.environment)
    try:
        assert until(lambda: any(run.exit_code == 0 for run in server.runs.values()), END_SECONDS)
        assert driver.poll() is None
    finally:
        driver.kill()
        finish(driver)
    done = fresh.run(study_command("other", *words), **server.environment)
    assert (done.returncode, done.stderr) == (0, "")
    assert "wandb" not in done.stdout.lower()
    trials = fresh.trials("other")
    assert len(trials) == 16
    for trial in trials:
        run = server.runs[trial["trial_id"]]
        assert [line["epoch"] for line in run.history] == list(range(1, 41))
        assert [line["_step"] for line in run.history] == list(range(1, 41))
        assert run.summary["final/test_error"] == pytest.approx(float(trial["test_error"]))
        assert run.exit_code == 0
    (table,) = (run for run_id, run in server.runs.items() if run_id.startswith("study-"))
    assert any(name.startswith("media/images/figure") for name in table.files)
    assert len(server.runs) == len(trials) + 1


def test_what_is_interrupted_leaves_no_run_open(fresh: Place, server: Server) -> None:
    """The run that is being written is finished; the others are left to the next time."""
    driver = fresh.start([sys.executable, "-c", EXPORT, "online", FIGURE], **server.environment)
    exporter = int(first_line(driver))
    assert until(lambda: "one" in server.runs, 60)
    finish(driver, "leave\n")
    assert driver.returncode == 0
    assert not Path(f"/proc/{exporter}").exists()
    assert [run.exit_code for run in server.runs.values()] == [0] * len(server.runs)
    assert len(server.runs["one"].history) == 5


def test_an_exporter_that_is_killed_is_replaced(fresh: Place, server: Server) -> None:
    """Whatever it was writing is there at the end, once."""
    driver = fresh.start([sys.executable, "-c", EXPORT, "online", FIGURE], **server.environment)
    exporter = int(first_line(driver))
    assert until(lambda: bool(services(exporter)), 60)
    os.kill(exporter, signal.SIGKILL)
    output, errors = finish(driver, "finish\n")
    assert (driver.returncode, errors) == (0, "")
    assert output.split()[1] == "0"
    assert until(lambda: not services(exporter), 10)
    assert len(server.runs) == 3
    for run_id in ("one", "two"):
        assert [line["epoch"] for line in server.runs[run_id].history] == [1, 2, 3, 4, 5]
        assert server.runs[run_id].exit_code == 0


def test_an_exporter_ends_with_its_driver(fresh: Place) -> None:
    driver = fresh.start([sys.executable, "-c", EXPORT, "offline", FIGURE])
    exporter = int(first_line(driver))
    assert until(lambda: bool(services(exporter)), 60)
    driver.kill()
    assert until(lambda: not Path(f"/proc/{exporter}").exists() and not services(exporter), 10)
    finish(driver)


@pytest.mark.slow
def test_online_without_a_key_trains_nothing(fresh: Place) -> None:
    done = fresh.study("tiny", "recipe.epochs=2", "tracking=online")
    assert done.returncode == 2
    assert done.stderr.startswith("error: tracking=online: there is no W&B key")
    assert len(done.stderr.splitlines()) == 1
    assert not list(fresh.folder.glob("results/local/checkpoints/*"))


@pytest.mark.parametrize("key", ["short", 40 * "a"])
def test_online_that_cannot_be(fresh: Place, key: str) -> None:
    """A key that is none, and a server that does not answer: one line, within seconds."""
    begun = time.monotonic()
    short_of_time = {"WANDB_API_KEY": key, "WANDB_BASE_URL": NOWHERE, "WANDB_HTTP_TIMEOUT": "2"}
    done = fresh.script(EXPORT, "online", FIGURE, **USERS, **short_of_time)
    assert time.monotonic() - begun < 60  # the client alone would take 100
    assert done.returncode == 1
    assert done.stderr.startswith("RunError: tracking=online: ")
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.slow
def test_a_server_that_goes_away(fresh: Place, server: Server) -> None:
    """What is missing is said at the end, and uploaded the next time."""
    driver = fresh.start([sys.executable, "-c", EXPORT, "online", FIGURE], **server.environment)
    first_line(driver)
    server.down = True
    output, errors = finish(driver, "finish\n")
    assert (driver.returncode, errors) == (0, "")
    left = int(output.split()[1])
    assert 1 <= left <= 3, output
    server.down = False
    for _ in range(2):
        server.requests.clear()
        done = fresh.script(WRITE, "online", FIGURE, **server.environment)
        assert (done.returncode, done.stderr) == (0, "")
        for run_id in ("one", "two"):
            assert [line["epoch"] for line in server.runs[run_id].history] == [1, 2, 3, 4, 5]
    assert "UpsertBucket" not in server.requests  # all was there


@pytest.mark.slow
def test_a_study_ends_with_its_table_whatever_the_server_does(fresh: Place, server: Server) -> None:
    """What is missing is said, with the command that uploads it later."""
    driver = fresh.start(study_command("tiny", "recipe.epochs=2", "tracking=online"), **server.environment)
    assert until(lambda: "Viewer" in server.requests, 60)
    server.down = True
    output, errors = finish(driver)
    assert (driver.returncode, errors) == (0, ""), output
    trials = fresh.trials("tiny")
    assert len(trials) == 3
    (line,) = (line for line in output.splitlines() if line.startswith("not exported: "))
    said, _, command = line.partition("; python -m ")
    assert re.match(r"not exported: \d W&B runs \(.+\)$", said), line
    server.down = False
    words = shlex.split(command.removesuffix(" does it later"))
    done = fresh.run([sys.executable, "-m", *words], **server.environment)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.endswith("W&B runs; all others were there\n")
    assert {trial["trial_id"] for trial in trials} < server.runs.keys()
    assert [run.exit_code for run in server.runs.values()] == [0] * 4
