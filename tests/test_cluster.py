"""Several drivers on one store, as schedulers start, end and start them again. Real signals; Slurm's part is played."""

from __future__ import annotations

import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
from launching import ROOT, TRIALS, WORDS, Lab, ended, wait_for

ONE = (*WORDS[:-1], "executor.workers=1")
TERMINATED = "ended by SIGTERM: what has ended is recorded; the same command goes on from there"


@pytest.mark.slow
def test_drivers_that_are_ended_and_started_again_train_each_trial_once(finished: Lab, tmp_path: Path) -> None:
    """Three drivers, of which one after another is sent SIGTERM at some moment and queued again."""
    chance, lab = random.Random(0), Lab(tmp_path)
    drivers = [lab.start(*ONE) for _ in range(3)]
    for number in (0, 1, 0):
        time.sleep(chance.uniform(0.5, 8))
        driver = drivers[number]
        driver.send_signal(signal.SIGTERM)
        done = ended(driver)
        if done.code == -signal.SIGTERM:  # Python itself was starting
            assert (done.out, done.err) == ("", "")
        else:
            assert (done.code, done.err.strip()) in ((0, TERMINATED), (0, ""))
        drivers[number] = lab.start(*ONE)
    results = [ended(driver) for driver in drivers]
    assert [(done.code, done.err) for done in results] == [(0, "")] * 3, results
    assert Counter(record["state"] for record in lab.records()) == {"done": TRIALS}
    assert [record["attempts"] for record in lab.records()] == [1] * TRIALS
    assert lab.bytes() == finished.bytes()
    assert lab.left() == []


def batch_script(lab: Lab) -> str:
    """The script of docs/cluster.md, with the tiny study in the place of the one there."""
    (script,) = re.findall(r"```bash\n(.*?)```", (ROOT / "docs/cluster.md").read_text(), re.DOTALL)
    study = "+ablation=ratio storage=postgresql+psycopg://user@host/lab results=/nfs/lab"
    assert script.count(study) == 1
    return str(script.replace(study, " ".join([*ONE, "tracking=off"])))


@pytest.mark.slow
def test_the_batch_script_passes_the_signal_on_and_goes_on_when_it_is_queued_again(
    finished: Lab, tmp_path: Path
) -> None:
    lab = Lab(tmp_path)
    (tmp_path / "job.sh").write_text(batch_script(lab))
    name, _, mark = lab.mark.partition("=")
    place = f"{Path(sys.executable).parent}:{os.environ['PATH']}"  # where `python` is
    environment = {**os.environ, "PYTHONPATH": str(ROOT), name: mark, "PATH": place, "SLURM_ARRAY_JOB_ID": "7"}

    def job(number: int) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [shutil.which("bash") or "bash", "job.sh"],
            cwd=tmp_path,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**environment, "SLURM_ARRAY_TASK_ID": str(number)},
            start_new_session=True,
        )

    first = job(1)
    wait_for(lab.training, first)
    first.send_signal(signal.SIGTERM)  # to the batch script alone
    done = ended(first)
    assert (done.code, done.err.strip()) == (0, TERMINATED)
    assert lab.left() == []
    results = [ended(each) for each in (job(1), job(2))]
    assert [(done.code, done.err) for done in results] == [(0, "")] * 2, results
    assert Counter(record["state"] for record in lab.records()) == {"done": TRIALS}
    assert any(record["resumed"] for record in lab.records()), "the last epoch's checkpoint stood"
    assert lab.bytes() == finished.bytes()
