"""What is counted: seconds and cores, and how far a long operation is."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable

BAR = 20  # columns of a bar on a terminal


def cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1


def duration(seconds: float) -> str:
    """Seconds as people read them."""
    if seconds < 90:
        return f"{max(seconds, 1):.0f} s"
    if seconds < 9.5 * 60:
        return f"{seconds / 60:.1f} min"  # a whole number would be up to a quarter off
    if seconds < 90 * 60:
        return f"{seconds / 60:.0f} min"
    if seconds < 48 * 3600:
        return f"{seconds / 3600:.1f} h"
    return f"{seconds / 86400:.1f} days"


def counting(total: int, what: str, patience: float = 2.0) -> Callable[[int], None]:
    """Report progress on standard error once `patience` seconds have passed: on a terminal as a bar that is removed at
    the end, elsewhere as a line every 10 s."""
    terminal = sys.stderr.isatty()
    pause = 0.2 if terminal else 10.0
    started = time.monotonic()
    shown = -1.0  # when it was last shown; below 0 if never

    def report(done: int) -> None:
        nonlocal shown
        now = time.monotonic()
        if done >= total:
            if terminal and shown >= 0:
                print("\r\033[K", end="", file=sys.stderr, flush=True)
            return
        if not done or now - started < patience or (shown >= 0 and now - shown < pause):
            return
        shown = now
        left = duration((now - started) * (total - done) / done)
        text = f"{done:,} of {total:,} {what}, about {left} left"
        if terminal:
            full = BAR * done // total
            print(f"\r\033[K{'━' * full}{' ' * (BAR - full)} {text}", end="", file=sys.stderr, flush=True)
        else:
            print(text, file=sys.stderr, flush=True)

    return report
