"""Starts the lab as a user does, in processes of its own, and looks at what they leave behind."""

from __future__ import annotations

import csv
import json
import os
import resource
import signal
import sqlite3
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]

# Two designs and the plain network, so small that a trial takes a second.
TINY = """\
# @package _global_
study:
  name: tiny
  title: A small study
  factor: se.reduction
  baseline: r = 2
  rows:
    r = 2: {se.reduction: 2}
    r = 8: {se.reduction: 8}
    no SE: {se: null}
"""
# 18 points, 17 networks.
SEARCH = """\
# @package _global_
search:
  name: small
  title: A small search
  trials: 6
  space:
    se.reduction: {3: [off, 2, 8], 4: [off, 2, 8]}
    se.squeeze: [avg, max]
"""
WORDS = ("+ablation=tiny", "seeds=2", "recipe.epochs=8", "data.subset=200", "executor.workers=2")
TRIALS = 6
# What a user, an agent of a W&B sweep, or W&B Launch may have set for the one run that it has in mind.
USERS = {"PROJECT": "my-project", "ENTITY": "someone", "MODE": "dryrun", "DIR": "elsewhere", "SWEEP_ID": "sweep"}
USERS |= {"SWEEP_PARAM_PATH": "gone/config.yaml", "RUN_ID": "one-for-all", "PROGRAM": "train.py", "LAUNCH": "true"}
USERS |= {"LAUNCH_CONFIG_PATH": "gone.json", "RESUME": "must", "RUN_GROUP": "group", "NAME": "name", "ARGS": "[]"}
USERS |= {"JOB_TYPE": "job", "TAGS": "a,b", "NOTES": "notes", "SERVICE": "3-1-unix-/gone"}
USERS = {f"WANDB_{name}": value for name, value in USERS.items()}
FOLDER = "results/local/digits-subset=200/resnet8-quick-epochs=8/tiny"
SAME_BYTES = ("trials.csv", "table.md", "table.csv", "table.tex", "figure.svg", "curves.svg")


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    code: int
    out: str
    err: str


class Lab:
    """A working directory with the tiny study in it, and commands started there.

    Every process that a command starts carries a mark in its environment, by which `left` finds those that outlive it.
    """

    def __init__(self, folder: Path, study: str = TINY) -> None:
        self.folder = folder
        self.mark = f"LAB_TEST={uuid.uuid4().hex}"
        (folder / "sweeps" / "ablation").mkdir(parents=True)
        (folder / "sweeps" / "ablation" / "tiny.yaml").write_text(study)

    @property
    def table(self) -> Path:
        return self.folder / FOLDER

    def start(
        self,
        *words: str,
        tracking: str = "off",
        python: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
        **popen: Any,
    ) -> subprocess.Popen[str]:
        name, _, value = self.mark.partition("=")
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        return subprocess.Popen(
            [sys.executable, *python, "-m", "senet_lab.run", *words, f"tracking={tracking}"],
            cwd=self.folder,
            text=True,
            env={**os.environ, "PYTHONPATH": str(ROOT), name: value, **(environment or {})},
            start_new_session=True,  # a process group of its own, as a terminal gives it
            **{**pipes, **popen},
        )

    def run(self, *words: str, **how: Any) -> Ended:
        return ended(self.start(*words, **how))

    def left(self) -> list[int]:
        """Ids of the processes that are still there."""
        return [int(place.parent.name) for place in Path("/proc").glob("[0-9]*/environ") if self.mark in text_of(place)]

    def workers(self) -> list[int]:
        """Ids of the worker processes."""
        return [pid for pid in self.spawned() if priority_of(pid) == 0]

    def exporters(self) -> list[int]:
        """Ids of the processes that export: these let others go first."""
        return [pid for pid in self.spawned() if priority_of(pid) > 0]

    def spawned(self) -> list[int]:
        """Ids of the processes that were started by a driver."""
        return [pid for pid in self.left() if "spawn_main" in text_of(Path(f"/proc/{pid}/cmdline"))]

    def training(self) -> bool:
        """Whether a trial is in the middle: it has saved a checkpoint and has not ended."""
        return any((self.folder / "results/local/checkpoints").glob("*.ckpt"))

    def records(self) -> list[dict[str, Any]]:
        """Everything in the store, read without the lab's own code."""
        with sqlite3.connect(self.folder / "results/local/lab.db") as connection:
            rows = connection.execute("SELECT trial_id, state, record FROM records ORDER BY trial_id").fetchall()
        connection.close()
        return [{"trial_id": name, "state": state, **json.loads(text or "{}")} for name, state, text in rows]

    def bytes(self) -> dict[str, bytes]:
        """What must be the same however the study came about."""
        return {name: (self.table / name).read_bytes() for name in SAME_BYTES}

    def trials(self) -> list[dict[str, str]]:
        with (self.table / "trials.csv").open(newline="") as file:
            return list(csv.DictReader(file))


def priority_of(pid: int) -> int:
    """How far a process stands back for others; -1 if it is gone."""
    try:
        return os.getpriority(os.PRIO_PROCESS, pid)
    except ProcessLookupError:
        return -1


def text_of(path: Path) -> str:
    """A file of /proc as text; empty if its process is gone."""
    try:
        return path.read_bytes().replace(b"\0", b"\n").decode(errors="replace")
    except OSError:
        return ""


def ended(process: subprocess.Popen[str], timeout: float = 180) -> Ended:
    """Wait for a command."""
    try:
        out, err = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        raise
    return Ended(process.returncode, out or "", err or "")


def wait_for(
    condition: Callable[[], object], process: subprocess.Popen[str] | None = None, seconds: float = 90
) -> None:
    """Wait until something is so; an AssertionError if it never is, or if the process ends before."""
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "it never came to be"
        assert process is None or process.poll() is None, f"ended too early: {process.communicate(timeout=60)}"
        time.sleep(0.02)


@contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """As on a full disk: a file cannot grow further."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def one_line(text: str, *words: str) -> bool:
    """Whether a text is one line, no traceback, and has all of these words."""
    lines: Sequence[str] = text.strip().splitlines()
    return len(lines) == 1 and "Traceback" not in text and all(word in text for word in words)


def tell_place(pipe: Connection) -> None:
    """Of a process: the script that it has run, where it looks for modules, and its folder."""
    pipe.send((getattr(sys.modules["__main__"], "__file__", None), sys.path, Path.cwd()))
