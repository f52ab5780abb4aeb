"""An executor that trains in this process, which spares a worker's imports: for tests of what is trained. What workers
do is tested with real ones."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import pytest

from senet_lab.studies.executors import EXECUTORS
from senet_lab.studies.pool import BEGUN, Capacity, Event, train_trial
from senet_lab.training.spec import Spec


class ThisProcess:
    """A pool of this process alone (`pool.Pool`)."""

    def __init__(self) -> None:
        self.jobs: list[tuple[Spec, Path, int | None]] = []

    @property
    def free(self) -> int:
        return 1 - len(self.jobs)

    def submit(self, spec: Spec, checkpoint: Path, until: int | None = None) -> None:
        self.jobs.append((spec, checkpoint, until))

    def events(self, timeout: float) -> list[Event]:
        told: list[tuple[str, Any]] = []
        for spec, checkpoint, until in self.jobs:
            told.append(train_trial(spec, checkpoint, until, lambda value: told.append(("epoch", value))))
        events = [Event(kind, self.jobs[0][0].trial_id, value) for kind, value in told if BEGUN not in value]
        self.jobs.clear()
        return events

    def rest(self) -> None:
        pass

    stop = rest


@contextmanager
def trained_here() -> Iterator[None]:
    """Have the local executor train in this process, for the body."""
    capacity = Capacity(1, lambda count: ThisProcess(), lambda count: count)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(EXECUTORS, "local", lambda *_, **__: nullcontext(capacity))
        yield
