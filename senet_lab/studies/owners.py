"""Who holds a claim: a process, named so that another one of its machine can tell whether it is gone."""

from __future__ import annotations

import os
import platform
from pathlib import Path


def this_machine() -> str:
    """This machine, and in it the container: process ids mean something within one namespace only."""
    try:
        return f"{platform.node()} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return platform.node()


def this_process() -> str:
    """This process as an owner: machine, process id and start time (ids are used again)."""
    pid = os.getpid()
    return f"{this_machine()}/{pid}/{start_ticks(pid)}"


def start_ticks(pid: int) -> str:
    """When a process started, in the kernel's ticks; empty if it is gone, or where there is no /proc."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return ""
    state, *rest = stat.rpartition(")")[2].split()
    return "" if state in "ZX" else rest[18]


def is_dead(owner: str) -> bool:
    """Whether the owner is known to be gone: a process of this machine that has ended."""
    machine, _, process = owner.partition("/")
    pid, _, ticks = process.partition("/")
    return machine == this_machine() and pid.isdecimal() and ticks != "" and start_ticks(int(pid)) != ticks
