"""The limits of a trial: its time, and the memory of its process.

The limits are kept from outside of the training, by the driver, so that they hold for one that hangs in the middle of a
step, too: its process is killed. On Ray the driver cannot see a process of another node; there a thread beside the
training looks at its memory, and the driver keeps the time.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from senet_lab.config import Executor, UserError

LOOK_SECONDS = 0.5  # how often a process looks at its own memory


@dataclass(frozen=True)
class Limits:
    """The limits of a trial, as `executor` has them; None is none.

    Attributes:
        minutes: that an attempt may train.
        gibibytes: of memory that its process may have, and each that this one has started.
    """

    minutes: float | None = None
    gibibytes: float | None = None

    def late(self, begun: float | None) -> str:
        """Why a trial that began at that time of the monotonic clock has exceeded its time; empty if it has not."""
        if self.minutes is None or begun is None or time.monotonic() - begun <= 60 * self.minutes:
            return ""
        return f"its training took longer than executor.time_limit={self.minutes:g} (minutes)"

    def large(self, pid: int | None) -> str:
        """Why a trial in this process has exceeded its memory; empty if it has not."""
        if self.gibibytes is None or pid is None:
            return ""
        if max(map(resident, [pid, *children(pid)])) <= self.gibibytes * 2**30:
            return ""
        return f"its process took more memory than executor.memory_limit={self.gibibytes:g} (GiB)"


NONE = Limits()


def limits_of(executor: Executor) -> Limits:
    """The limits that the user has set.

    Raises:
        UserError: memory is limited, and the system does not tell of it.
    """
    if executor.memory_limit is not None and not resident(os.getpid()):
        raise UserError("executor.memory_limit needs /proc, which this system does not have; null is no limit")
    return Limits(executor.time_limit, executor.memory_limit)


@contextmanager
def memory_watch(limits: Limits, tell: Callable[[str], None]) -> Iterator[None]:
    """Watch the memory of this process from a thread while the body trains; call `tell` once if it exceeds the
    limit."""
    stop = threading.Event()

    def look() -> None:
        while not stop.wait(LOOK_SECONDS):
            reason = limits.large(os.getpid())
            if reason:
                tell(reason)
                return

    thread = threading.Thread(target=look, daemon=True)
    if limits.gibibytes is not None:
        thread.start()
    try:
        yield
    finally:
        stop.set()


def children(pid: int) -> list[int]:
    """The processes that a process has started: several devices have one each, and a DataLoader has some."""
    pids = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):  # it has ended
            _, parent, *_ = path.read_text().rpartition(")")[2].split()
            pids += [int(path.parent.name)] * (int(parent) == pid)
    return pids


def resident(pid: int) -> int:
    """Bytes of memory that a process has at the moment (its resident set); 0 if it is gone, or there is no /proc."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, IndexError):
        return 0
