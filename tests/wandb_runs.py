"""Reads offline W&B runs back, with the client's own reader; and ends what uses W&B, whatever W&B does.

A process that hangs is a failure that says what hung: no wait here is without a limit, neither for a process nor for
its pipes, which W&B's service inherits and may hold open.
"""

from __future__ import annotations

import functools
import json
import os
import select
import signal
import subprocess
import sys
from contextlib import suppress
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

WANDB = Path(sys.executable).with_name("wandb")
CORE = distribution("wandb").locate_file("wandb/bin/wandb-core")  # what `wandb leet` starts, half a second later
SECONDS = 60  # more than the reader ever takes, or a process to say its first line
END_SECONDS = 480  # more than any command here takes, on a machine that is busy


@functools.cache
def inspect(run: Path) -> dict[str, Any]:
    """A run as the client's own reader tells it; the keys of what is logged as media are dotted."""
    (file,) = run.glob("run-*.wandb")
    words = [str(CORE), "leet", "inspect", "--no-observability", "--json", "--run-file", file, run.parent]
    lines = subprocess.run(words, capture_output=True, text=True, check=True, timeout=SECONDS)
    records = [json.loads(line) for line in lines.stdout.splitlines()]
    summary: dict[str, Any] = {}
    for record in records:
        if record["type"] == "summary":
            summary.update(record["summary"]["update"])
    (about,) = (record["run"] for record in records if record["type"] == "run")
    config = dict(about["config"]["update"])
    for record in records:
        if record["type"] == "config":
            config.update(record["config"]["update"])
    history = [record["history"]["item"] for record in records if record["type"] == "history"]
    return {"about": about, "config": config, "summary": summary, "history": history, "last": records[-1]}


def services(driver: int) -> list[str]:
    """Processes of the W&B service that belong to a driver."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().decode(errors="replace").split("\0")
        except OSError:
            continue
        if words[0].endswith("wandb-core") and str(driver) in words:
            found.append(path.parent.name)
    return found


def finish(process: subprocess.Popen[str], text: str | None = None, seconds: float = END_SECONDS) -> tuple[str, str]:
    """Wait for a process: what it printed, on both streams; an AssertionError that tells of it if it does not end."""
    with suppress(subprocess.TimeoutExpired):
        return process.communicate(text, timeout=seconds)
    state = "had not ended" if process.poll() is None else "had ended, and its pipes were open"
    held_up = services(process.pid)
    for pid in (process.pid, *map(int, held_up)):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    seen = process.communicate(timeout=SECONDS)
    raise AssertionError(f"after {seconds} s {process.args} {state}; W&B services of it: {held_up}; it printed {seen}")


def first_line(process: subprocess.Popen[str]) -> str:
    """The first line that a process prints; it is ended if it prints none."""
    assert process.stdout is not None
    if not select.select([process.stdout], [], [], SECONDS)[0]:
        finish(process, seconds=0)
    return process.stdout.readline()
