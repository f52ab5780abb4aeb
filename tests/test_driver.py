"""Whole studies: cut off in every way, in company, failing; and what they leave. Real processes throughout."""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import optuna
import pytest
from launching import SAME_BYTES, TINY, TRIALS, WORDS, Ended, Lab, ended, one_line, wait_for

from senet_lab.__main__ import main as commands
from senet_lab.run import main
from senet_lab.studies.driver import git_commit
from senet_lab.studies.workers import Workers
from senet_lab.training import checkpoints

GOES_ON = "what has ended is recorded; the same command goes on from there"
INTERRUPTED, TERMINATED = f"interrupted: {GOES_ON}", f"ended by SIGTERM: {GOES_ON}"


def check_complete(lab: Lab, like: Lab) -> None:
    """The study is whole, every trial is there once, and its files are those of another run of it, byte for byte."""
    records = lab.records()
    assert Counter(record["state"] for record in records) == {"done": TRIALS}
    assert lab.bytes() == like.bytes()
    assert not list((lab.folder / "results/local/checkpoints").iterdir())
    assert lab.left() == []


def catches(pid: int, number: signal.Signals) -> bool:
    """Whether a process has a handler for a signal. Python itself has one for SIGINT, and none for SIGTERM."""
    status = Path(f"/proc/{pid}/status").read_text()
    (caught,) = (line.split()[1] for line in status.splitlines() if line.startswith("SigCgt:"))
    return bool(int(caught, 16) >> (number - 1) & 1)


def optuna_trials(lab: Lab) -> list[optuna.trial.FrozenTrial]:
    """All trials of all Optuna studies in the lab's store."""
    with contextlib.chdir(lab.folder):  # its awkward name would have to be quoted in a URL
        storage = optuna.storages.RDBStorage("sqlite:///results/local/lab.db")
        found = [trial for study in storage.get_all_studies() for trial in storage.get_all_trials(study._study_id)]
        storage.engine.dispose()
        return found


def inside(lab: Lab, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *words: str) -> Ended:
    """The command in this process (its workers are processes all the same): spares the import of torch."""
    monkeypatch.chdir(lab.folder)
    code = main([*words, "tracking=off"])
    seen = capsys.readouterr()
    return Ended(code, seen.out, seen.err)


# ------------------------------------------------------------------------------------------------------------ weights


@pytest.mark.slow
def test_weights_are_kept_and_found_and_trained_for_on_request_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As the README has it: a trial that is recorded already is not trained again unasked, and how to ask is said."""
    lab = Lab(tmp_path)
    words = ("recipe.epochs=1", "data.subset=60", "data.test_subset=60")
    folder = Path("results/local/checkpoints")
    assert "weights" not in inside(lab, monkeypatch, capsys, *words).out
    assert not list(folder.iterdir())
    again = inside(lab, monkeypatch, capsys, *words, "training.keep=last")
    assert "nothing to train" in again.out
    assert "weights kept" not in again.out
    (line,) = (line for line in again.out.splitlines() if line.startswith("recorded without weights: 1 trial;"))
    asked = shlex.split(line.partition("python -m senet_lab ")[2].removesuffix(", and this again"))
    assert commands(asked) == 0
    kept = inside(lab, monkeypatch, capsys, *words, "training.keep=last")
    (trial,) = lab.records()
    assert f"weights kept: {folder}/{trial['trial_id']}.ckpt (network, seed 0)" in kept.out
    assert "without weights" not in kept.out
    net = checkpoints.load_network(folder / f"{trial['trial_id']}.ckpt").net
    assert sum(weight.numel() for weight in net.parameters()) == trial["params"]


# ----------------------------------------------------------------------------------------------------------- complete


def test_a_finished_study_has_every_trial_once_everywhere(finished: Lab) -> None:
    check_complete(finished, finished)
    records = {record["trial_id"]: record for record in finished.records()}
    trials = optuna_trials(finished)
    assert len(trials) == TRIALS
    for trial in trials:
        record = records[trial.user_attrs["trial"]["id"]]
        assert trial.params == {"row": record["label"], "seed": record["seed"]}
        assert trial.values == [record["metrics"]["val_error"], record["params"], record["macs"]]
        assert trial.user_attrs["trial"]["test_error"] == record["metrics"]["test_error"]
    runs = [path.name.split("-", 3)[3] for path in (finished.folder / "results/local/wandb").glob("offline-run-*")]
    assert sorted(run for run in runs if not run.startswith("study-")) == sorted(records)
    assert len(runs) == TRIALS + 1
    assert [record["attempts"] for record in records.values()] == [1] * TRIALS


def test_a_complete_study_trains_nothing_and_writes_the_same_bytes(
    copy: Lab, finished: Lab, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in SAME_BYTES:
        (copy.table / name).unlink()
    monkeypatch.setattr(Workers, "submit", None)
    done = inside(copy, monkeypatch, capsys, *WORDS)
    assert (done.code, done.err) == (0, "")
    assert f"all {TRIALS} trials are recorded: nothing to train" in done.out
    assert copy.bytes() == finished.bytes()
    assert copy.records() == finished.records()
    assert len(optuna_trials(copy)) == TRIALS


@pytest.mark.slow
def test_more_seeds_train_only_the_new_ones(
    copy: Lab, finished: Lab, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {record["trial_id"]: record for record in finished.records()}
    done = inside(copy, monkeypatch, capsys, *WORDS, "seeds=3", "executor.workers=1")
    assert (done.code, done.err) == (0, "")
    assert f"3 of {TRIALS + 3} trials to train" in done.out
    after = {record["trial_id"]: record for record in copy.records()}
    assert {name: after[name] for name in before} == before
    assert [record["seed"] for name, record in after.items() if name not in before] == [2, 2, 2]
    assert Counter((trial["row"], trial["seed"]) for trial in copy.trials()) == {
        (row, str(seed)): 1 for row in ("r = 2", "r = 8", "no SE") for seed in range(3)
    }
    assert len(optuna_trials(copy)) == TRIALS + 3


# --------------------------------------------------------------------------------------------------------- interrupted


@pytest.mark.slow
def test_a_study_that_is_cut_off_in_every_way_ends_with_the_same_bytes(finished: Lab, tmp_path: Path) -> None:
    lab = Lab(tmp_path)

    driver = lab.start(*WORDS)  # Ctrl-C, as a terminal gives it: to the driver and all workers
    wait_for(lab.training, driver)
    os.killpg(driver.pid, signal.SIGINT)
    done = ended(driver)
    assert (done.code, done.err.strip()) == (130, INTERRUPTED)
    assert lab.left() == []
    assert not any(record["state"] == "running" for record in lab.records()), "its claims are given back"

    driver = lab.start(*WORDS, "executor.workers=1")  # the driver is killed
    wait_for(lambda: lab.training() and lab.workers(), driver)
    os.kill(driver.pid, signal.SIGKILL)
    assert ended(driver).code == -signal.SIGKILL
    wait_for(lambda: not lab.left())

    for record in lab.records():  # and was cut off in the middle of writing a checkpoint
        (lab.folder / f"results/local/checkpoints/{record['trial_id']}.1.tmp").touch()
    driver = lab.start(*WORDS, python=("-W", "error"))  # a worker is killed; the study goes on
    wait_for(lambda: lab.training() and len(lab.workers()) == 2 and lab.exporters(), driver)  # which may start late
    os.kill(lab.workers()[0], signal.SIGKILL)
    done = ended(driver)
    assert (done.code, done.err) == (0, "")
    assert "its worker ended with exit code -9 (Killed); it goes on from its last epoch" in done.out
    check_complete(lab, finished)
    assert sorted(record["attempts"] for record in lab.records())[-1] == 2
    assert any(record["resumed"] for record in lab.records())


@pytest.mark.parametrize("seconds", [0.0, *(pytest.param(late, marks=pytest.mark.slow) for late in (2.0, 4.5, 7.0))])
def test_ctrl_c_at_any_moment_is_one_line(tmp_path: Path, seconds: float) -> None:
    """While modules are imported, while the plan is made, while workers start, while they train."""
    lab = Lab(tmp_path)
    driver = lab.start(*WORDS, "recipe.epochs=500")
    wait_for(lambda: catches(driver.pid, signal.SIGTERM), driver)  # before, it is Python that is starting, not the lab
    time.sleep(seconds)
    assert driver.poll() is None
    os.killpg(driver.pid, signal.SIGINT)
    done = ended(driver)
    assert done.code == 130, done
    assert done.err.strip() == INTERRUPTED
    assert lab.left() == []


@pytest.mark.slow
def test_sigterm_ends_in_order_for_a_scheduler(tmp_path: Path) -> None:
    lab = Lab(tmp_path)
    driver = lab.start(*WORDS)
    wait_for(lab.training, driver)
    os.kill(driver.pid, signal.SIGTERM)
    done = ended(driver)
    assert (done.code, done.err.strip()) == (0, TERMINATED)
    assert lab.left() == []
    assert lab.training(), "the last epoch's checkpoint stands"
    assert not any(record["state"] == "running" for record in lab.records()), "its claims are given back"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_is_not_lost_where_python_ignores_exceptions(number: signal.Signals) -> None:
    code = f"""
import os, time
from senet_lab import run
class Last:
    def __del__(self):
        os.kill(os.getpid(), {number})
        time.sleep(0.1)
def answer(words):
    run.set_handlers(run.interrupt)
    Last()
    time.sleep(30)
    return 3
run.run_words = answer
raise SystemExit(run.main([]))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    said = {signal.SIGINT: (130, INTERRUPTED), signal.SIGTERM: (0, TERMINATED)}[number]
    assert (done.returncode, done.stderr.strip()) == said


@pytest.mark.slow
def test_a_second_signal_ends_at_once(tmp_path: Path) -> None:
    lab = Lab(tmp_path)
    driver = lab.start(*WORDS)
    wait_for(lab.training, driver)
    os.kill(driver.pid, signal.SIGINT)
    os.kill(driver.pid, signal.SIGTERM)
    done = ended(driver)
    assert done.code == 130
    assert "Traceback" not in done.err
    wait_for(lambda: not lab.left())


# ----------------------------------------------------------------------------------------------------------- together


@pytest.mark.slow
def test_two_drivers_share_a_study(finished: Lab, tmp_path: Path) -> None:
    lab = Lab(tmp_path)
    words = [*WORDS[:-1], "executor.workers=1"]
    drivers = [lab.start(*words, tracking="offline") for _ in range(2)]
    results = [ended(driver) for driver in drivers]
    assert [(done.code, done.err) for done in results] == [(0, ""), (0, "")], results
    check_complete(lab, finished)
    assert [record["attempts"] for record in lab.records()] == [1] * TRIALS
    assert Counter(trial.user_attrs["trial"]["id"] for trial in optuna_trials(lab)) == {
        record["trial_id"]: 1 for record in lab.records()
    }
    assert len(list((lab.folder / "results/local/wandb").glob("offline-run-*"))) == TRIALS + 1
    for done in results:
        assert done.out.count(f"/{TRIALS}]") == TRIALS, "each driver tells of every trial"


# ------------------------------------------------------------------------------------------------------------ failures

# A network of the user's own in the working directory: the lab's, with a classifier that can be made to fail.
NETS = """
import os
from pathlib import Path
from torch import nn
from senet_lab import models

class Head(nn.Linear):
    def forward(self, x):
        if self.training and x.device.type != "meta":
            try:
                word = Path("fault").read_text()
                if word == "once":
                    Path("fault").unlink()
            except FileNotFoundError:
                word = ""
            if word == "kill":
                os.kill(os.getpid(), 9)
            if word == "import":
                import nowhere
            if word:
                raise RuntimeError(f"a fault of its own\\nwith a second line")
        return super().forward(x)

def make(num_classes, in_channels):
    net = models.create("resnet8", None, num_classes, in_channels=in_channels)
    net.fc = Head(net.fc.in_features, num_classes)
    return net

def small(num_classes):
    return nn.Sequential(nn.Conv2d(1, 4, 9), nn.Flatten(), nn.Linear(4, num_classes))
"""
OWN = ("+ablation=tiny", "backbone=nets:make", "seeds=2", "recipe.epochs=1", "data.subset=100", "executor.workers=1")


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Lab:
    """A lab with a network of its own, which this process, too, imports from there."""
    lab = Lab(tmp_path)
    (tmp_path / "nets.py").write_text(NETS)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "nets", raising=False)
    return lab


@pytest.mark.slow
def test_a_trial_that_fails_is_shown_and_trained_again_on_request(
    own: Lab, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (own.folder / "fault").write_text("once")
    done = inside(own, monkeypatch, capsys, *OWN)
    assert (done.code, done.err) == (0, "")
    assert "failed: RuntimeError: a fault of its own" in done.out
    assert Counter(record["state"] for record in own.records()) == {"done": 5, "failed": 1}
    (folder,) = (own.folder / "results/local").glob("digits*/nets*/tiny")
    assert "RuntimeError: a fault of its own" in (folder / "trials.csv").read_text()
    assert "(1)" in (folder / "table.md").read_text(), "the row's n is smaller"

    done = inside(own, monkeypatch, capsys, *OWN)
    assert "1 of 6 trials are recorded as failed; retry=true trains them again" in done.out
    assert "nothing to train" in done.out

    done = inside(own, monkeypatch, capsys, *OWN, "retry=true")
    assert (done.code, done.err) == (0, "")
    assert "1 of 6 trials to train" in done.out
    assert Counter(record["state"] for record in own.records()) == {"done": 6}
    states = Counter(trial.state.name for trial in optuna_trials(own))
    assert states == {"COMPLETE": 6, "FAIL": 1}


@pytest.mark.slow
def test_a_study_of_which_every_trial_fails_says_why(
    own: Lab, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    done = inside(own, monkeypatch, capsys, *OWN[1:], "recipe.lr=1e8", "seeds=1")
    assert done.code == 1
    assert one_line(done.err, "error: every trial failed: diverged: ", "nan"), done.err
    assert not list((own.folder / "results/local").glob("digits*"))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("kill", "its worker ended with exit code -9 (Killed); killed from outside, most often because memory ran out"),
        ("import", "ModuleNotFoundError: No module named 'nowhere'"),
    ],
)
def test_what_a_machine_does_is_no_result(
    own: Lab, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], word: str, said: str
) -> None:
    (own.folder / "fault").write_text(word)
    done = inside(own, monkeypatch, capsys, *OWN[1:], "seeds=1")
    assert done.code == 1
    assert one_line(done.err, f"error: network, seed 0: {said}"), done.err
    assert done.out.count("it goes on from its last epoch") == 2 * (word == "kill")
    assert own.records() == []


def test_a_network_too_deep_for_the_images_is_refused(
    own: Lab, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    done = inside(own, monkeypatch, capsys, "backbone=nets:small", "se=null")
    assert done.code == 2
    assert one_line(done.err, "nets:small: Sequential does not run on an image of 1 × 8 × 8: ", "Kernel size"), done.err
    assert not (own.folder / "results").exists()


# ----------------------------------------------------------------------------------------------------------- full disk


def limited(size: int) -> None:
    """No file grows beyond so many bytes, as on a full disk, in this process and those that it starts."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


@pytest.mark.parametrize(
    ("size", "code", "words"),
    [
        pytest.param(4_000, 2, ("storage=sqlite:///results/local/lab.db",), marks=pytest.mark.slow),
        pytest.param(
            280_000, 1, ("the checkpoint results/local/checkpoints/", "cannot be written"), marks=pytest.mark.slow
        ),
    ],
)
def test_a_disk_that_is_full_is_one_line(tmp_path: Path, size: int, code: int, words: tuple[str, ...]) -> None:
    lab = Lab(tmp_path)
    done = ended(lab.start(*WORDS, "executor.workers=1", preexec_fn=lambda: limited(size)))
    assert done.code == code, done
    assert one_line(done.err, "error: ", *words), done.err
    assert lab.left() == []
    assert not list(lab.folder.rglob("*.part"))
    assert not list(lab.folder.rglob("*.tmp"))
    assert not lab.table.exists()


NEW_NAMESPACE_OF_MOUNTS = 0x00020000  # CLONE_NEWNS


@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() != 0, reason="mounts a small disk")
def test_a_study_goes_on_when_there_is_room_again(finished: Lab, tmp_path: Path) -> None:
    lab = Lab(tmp_path)
    disk = tmp_path / "results"
    disk.mkdir()
    # In a namespace of its own the disk is gone with this process, however that ends: one that stays cannot be removed,
    # and breaks all later runs of the tests.
    if ctypes.CDLL(None).unshare(NEW_NAMESPACE_OF_MOUNTS):
        pytest.skip("may not mount")
    subprocess.run(["mount", "--make-rprivate", "/"], check=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1100k", "none", disk], check=True)
    try:
        done = lab.run(*WORDS)
        assert done.code == 1
        assert one_line(done.err, "error: "), done.err
        subprocess.run(["mount", "-o", "remount,size=64m", disk], check=True)
        done = lab.run(*WORDS)
        assert (done.code, done.err) == (0, "")
        check_complete(lab, finished)
    finally:
        subprocess.run(["umount", disk], check=True)


# ------------------------------------------------------------------------------------------------------------- export


def test_the_command_exports_what_is_lacking(
    copy: Lab, finished: Lab, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(copy.folder)
    before = [(trial.params, trial.values, trial.user_attrs) for trial in optuna_trials(finished)]
    storage = optuna.storages.RDBStorage("sqlite:///results/local/lab.db")
    optuna.delete_study(study_name=optuna.get_all_study_names(storage)[0], storage=storage)
    storage.engine.dispose()
    folder = Path("results/local/wandb")
    runs = sorted(path.name.split("-", 3)[3] for path in folder.glob("offline-run-*"))
    shutil.rmtree(folder)
    for written in ("", "0"):
        assert commands(["export", "optuna", *WORDS]) == 0
        assert commands(["export", "wandb", *WORDS]) == 0
        first, second = capsys.readouterr().out.splitlines()
        assert first == f"written: {written or TRIALS} trials of the Optuna study; all others were there"
        assert second == f"written: {written or TRIALS + 1} W&B runs; all others were there"
        assert [(trial.params, trial.values, trial.user_attrs) for trial in optuna_trials(copy)] == before
        assert sorted(path.name.split("-", 3)[3] for path in folder.glob("offline-run-*")) == runs
    assert commands(["export", "wandb", *WORDS, "data.subset=60"]) == 2
    assert one_line(capsys.readouterr().err, "error: ", "has no record of", "there is nothing to export")
    assert commands(["export", "wandb", *WORDS, "tracking=off"]) == 2


# --------------------------------------------------------------------------------------------------------------- other


def test_other_rows_under_the_same_name_are_another_optuna_study(
    copy: Lab, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (copy.folder / "sweeps/ablation/tiny.yaml").write_text(TINY.replace("    r = 8: {se.reduction: 8}\n", ""))
    done = inside(copy, monkeypatch, capsys, *WORDS)
    assert (done.code, done.err) == (0, "")
    assert "nothing to train" in done.out
    assert len(optuna_trials(copy)) == TRIALS + 4


def test_the_commit_is_that_of_this_code_and_of_no_other_repository() -> None:
    git = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, cwd=Path(__file__).parent)
    assert git_commit()["commit"] == (git.stdout.strip() if git.returncode == 0 else "")
