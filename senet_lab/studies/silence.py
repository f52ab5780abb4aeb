"""A limit to how long W&B's service may be silent.

W&B's client waits for its service process, wandb-core, without a limit in two places: when a run begins, and when the
interpreter ends, where about one in eight services never ended after a server had not answered. That would hold up a
study for good. It is a child of ours that keeps
nothing which cannot be written again: after the limit it is killed, and whoever waits for it gets an error.
"""

from __future__ import annotations

import atexit
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from senet_lab.config import RunError

LEAVE_SECONDS = 10  # patience at the end, when every run is finished or said to be missing


@contextmanager
def limit(seconds: float) -> Iterator[None]:
    """End the service if the body takes longer than this.

    Raises:
        RunError: it did.
    """
    over = threading.Event()
    timer = after(seconds, over)
    try:
        yield
    except Exception as error:
        if over.is_set():
            raise RunError(f"W&B's service did not answer for {seconds:g} seconds") from error
        raise
    finally:
        timer.cancel()


def limit_at_exit() -> None:
    """The same for the end of the interpreter. To be called once the service has been started: what is registered last
    is called first, and W&B's own wait is registered by then."""
    atexit.unregister(leave)
    atexit.register(leave)


def leave() -> None:
    """What W&B's client does at the end, without a word of a service that is gone."""
    import wandb

    signal.signal(signal.SIGALRM, lambda *_: kill())  # a signal, because no thread can be started any more
    signal.alarm(LEAVE_SECONDS)
    with suppress(Exception):
        wandb.teardown()
    signal.alarm(0)  # Python would have no handler for it any more


def after(seconds: float, over: threading.Event | None = None) -> threading.Timer:
    timer = threading.Timer(seconds, kill, [over])
    timer.daemon = True
    timer.start()
    return timer


def kill(over: threading.Event | None = None) -> None:
    """Kill the W&B services that are children of this process; where there is no /proc, none is found."""
    if over:
        over.set()
    for children in Path("/proc/self/task").glob("*/children"):
        with suppress(OSError):
            for pid in map(int, children.read_text().split()):
                if Path(f"/proc/{pid}/cmdline").read_bytes().partition(b"\0")[0].endswith(b"wandb-core"):
                    os.kill(pid, signal.SIGKILL)
