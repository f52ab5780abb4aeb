"""Trains what a plan lacks: claims trials in the store, hands them to workers, records each once.

Any number of drivers may work on the same store. A driver claims a trial only when a worker is free, so that no trial
waits in the queue of one driver while another has a free worker. If it is interrupted, at most the current epochs are
lost.

`failure_policies` decides about failures: a trial whose worker was killed is started again, one that ran out of memory
is trained once more with no other trial running, and a study whose trials all fail is stopped.
"""

from __future__ import annotations

import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from senet_lab.config import RunError
from senet_lab.studies.failure_policies import ATTEMPTS, Attempts, Failures, MemoryQueue
from senet_lab.studies.plan import Cell, Plan
from senet_lab.studies.pool import ELAPSED, Event, Pool
from senet_lab.studies.progress import Progress, trial_name
from senet_lab.studies.store import DONE, FAILED, HEARTBEAT_SECONDS, Record, Store
from senet_lab.training.faults import with_advice

POLL_SECONDS = 0.5
FEW = 100  # up to so many waiting trials are looked up whenever a worker is free; more of them every:
LOOK_SECONDS = 2.0


def ignore(cell: Cell, value: Record) -> None:
    """The default of `on_end` and `on_stop`: nothing is done."""


@dataclass
class Driver:
    """Trains until every trial of a plan has ended, here or in another driver.

    Attributes:
        plan: the study.
        store: where trials are claimed and recorded.
        workers: that train.
        progress: what the user sees.
        checkpoints: folder of the checkpoints of trials that have not ended.
        on_end: called with every record once it is in the store, also with the records of other drivers, which may
            have been killed before they processed them.
        due: returns further cells that go before those that wait; called while a worker is free.
        more: returns further cells; called while a worker is free and none waits. If it returns none and no trial is
            running, the study is complete.
        until: the epoch that a training is to be stopped after; None is its end.
        on_stop: called with the epochs of a training that was stopped at `until`. Its claim is released and it has no
            record: it continues from its checkpoint when it is submitted again.
        known: all records of a search, which `more` and `on_end` add to: these tell whether it can work.
        records: trial id → record, of the trials of the plan, and of those that `more` gave, that have ended.
        waiting: trials that this driver has not claimed; another one may be training them.
        running: trials that it has claimed.
    """

    plan: Plan
    store: Store
    workers: Pool
    progress: Progress
    checkpoints: Path
    on_end: Callable[[Cell, Record], None] = ignore
    due: Callable[[], list[Cell]] = list
    more: Callable[[], list[Cell]] = list
    until: Callable[[Cell], int | None] = lambda cell: None
    on_stop: Callable[[Cell, Record], None] = ignore
    search_records: Mapping[str, Record] | None = None
    records: dict[str, Record] = field(init=False)
    waiting: dict[str, Cell] = field(init=False)
    running: dict[str, Cell] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        self.records = dict(self.plan.recorded)
        self.waiting = {cell.trial_id: cell for cell in self.plan.todo}
        self.attempts = Attempts()
        self.alone = MemoryQueue()
        self.failures = Failures(
            self.plan.config.max_failures, self.records if self.search_records is None else self.search_records
        )
        self.paused = False  # whether no trial is started because all have failed so far
        self.looked = 0.0  # when it was last looked up what other drivers have recorded
        self.commit = git_commit()

    def train(self) -> dict[str, Record]:
        """Train; all records.

        Raises:
            RunError: the study cannot continue, or `max_failures` trials have failed and none has succeeded. What has
                ended is recorded; the rest continues at the next start.
        """
        self.store.report_to(self.progress.say)
        try:
            with heartbeats(self.store):
                self.hand_out()
                while self.waiting or self.running:
                    idle = self.workers.free and not (self.paused or self.alone.reserved(self.running))
                    self.progress.refresh(elsewhere=len(self.waiting) if idle else 0)
                    for event in self.workers.events(POLL_SECONDS):
                        self.handle(event)
                    self.hand_out()
        finally:
            self.workers.stop()  # before its claims are released and other drivers may take these trials
            with suppress(RunError):  # if the store has failed: other drivers take over the claims of an ended process
                self.store.release_all()
        return self.records

    # ----------------------------------------------------------------------------------------------------- handing out

    def hand_out(self) -> None:
        """Submit waiting trials that no other driver has claimed or recorded, while workers are free."""
        if not self.workers.free:
            return
        self.look_up()
        if trial_id := self.alone.next(self.running):
            self.workers.rest()
            self.submit(self.running[trial_id])
        self.waiting = {cell.trial_id: cell for cell in self.due()} | self.waiting
        offered = list(self.waiting.values())
        while self.workers.free and not self.alone.reserved(self.running):
            offered = offered or self.further()
            if not offered or self.is_hopeless():
                return
            cell = offered.pop(0)
            if self.store.claim(cell.trial_id):
                self.running[cell.trial_id] = self.waiting.pop(cell.trial_id)
                self.attempts.first(cell.trial_id)
                self.alone.forget(cell.trial_id)
                self.submit(cell)

    def look_up(self) -> None:
        """Accept what other drivers have recorded. If many trials wait, look only every `LOOK_SECONDS`: the claim of a
        recorded trial is refused in any case."""
        if len(self.waiting) <= FEW or time.monotonic() - self.looked > LOOK_SECONDS:
            for trial_id, record in self.store.read(self.waiting).items():
                self.accept(self.waiting.pop(trial_id), record)
            self.looked = time.monotonic()

    def further(self) -> list[Cell]:
        """Further cells from `more`, which also wait from now on."""
        cells = self.more()
        self.waiting.update((cell.trial_id, cell) for cell in cells)
        return cells[:]

    def submit(self, cell: Cell) -> None:
        self.workers.submit(cell.spec, self.checkpoints / f"{cell.trial_id}.ckpt", self.until(cell))
        self.progress.start(cell)

    def is_hopeless(self) -> bool:
        """Whether to start no more trials because all have failed so far. One that is still running may succeed.

        Raises:
            RunError: none is running.
        """
        reason = self.failures.reason()
        if reason and not self.running:
            raise RunError(f"{reason}, the first: {self.failures.first()}; retry=true trains them again")
        if reason and not self.paused:
            self.progress.say(f"{reason}; no more are started unless one of those in training ends well")
        self.paused = bool(reason)
        return self.paused

    # ----------------------------------------------------------------------------------------------------------- events

    def handle(self, event: Event) -> None:
        """Process an event of a worker."""
        cell, value = self.running[event.trial_id], event.value
        match event.kind:
            case "epoch" if "notice" in value:
                self.progress.say(value["notice"])
            case "epoch":
                elapsed = value.pop(ELAPSED)
                self.progress.epoch(cell, value, elapsed)
            case "stopped":
                del self.running[cell.trial_id]
                self.on_stop(cell, value)
                self.store.release(cell.trial_id)
                self.progress.stop(cell, value["epochs"])
            case "done":
                self.end(cell, DONE, value)
            case "failed":
                self.end(cell, FAILED, value)
            case "memory" if self.alone.had_turn(cell.trial_id):
                self.end(cell, FAILED, {"reason": f"out of memory, also alone: {value['reason']}"})
            case "memory":
                self.attempts.again(cell.trial_id)
                self.alone.ask(cell.trial_id)
                why = f"out of memory ({value['reason']})"
                self.progress.say(f"{trial_name(cell)}: {why}; once more alone, when nothing else trains")
            case "lost" if self.attempts.left(cell.trial_id):
                self.attempts.again(cell.trial_id)
                self.progress.say(f"{trial_name(cell)}: {value['reason']}; it goes on from its last epoch")
                self.submit(cell)
            case "lost":
                raise RunError(f"{trial_name(cell)}: {with_advice(value['reason'])} ({ATTEMPTS} times)")
            case "halt":
                raise RunError(f"{trial_name(cell)}: {value['reason']}")

    def end(self, cell: Cell, state: str, value: dict[str, Any]) -> None:
        """Record how a trial has ended."""
        del self.running[cell.trial_id]
        packed = value.pop("outputs", None)
        record = {
            "config": cell.spec.config(),
            **value,
            "label": cell.row.label,
            "seed": cell.seed,
            "params": cell.row.cost.params,
            "macs": cell.row.cost.macs,
            "attempts": self.attempts.made[cell.trial_id],
            **self.commit,
        }
        kept = packed if self.plan.config.training.outputs == "on" else None
        if not self.store.finish(cell.trial_id, state, record, kept):
            self.waiting[cell.trial_id] = cell  # another driver has taken the claim over: its record counts
            return
        if state == DONE:
            self.failures.note_success()
            self.hand_out()  # at once, so that the free worker does not wait for the bookkeeping below
        if state == FAILED or self.plan.config.training.keep == "none":
            with suppress(OSError):  # a checkpoint that cannot be deleted does no harm
                for left in self.checkpoints.glob(f"{cell.trial_id}.*"):  # with the temporary files of a killed worker
                    left.unlink(missing_ok=True)
        self.accept(cell, self.store.read([cell.trial_id])[cell.trial_id])

    def accept(self, cell: Cell, record: Record) -> None:
        """Add a record, of this driver or of another one."""
        self.records[cell.trial_id] = record
        self.progress.end(cell, record)
        self.on_end(cell, record)


@contextmanager
def heartbeats(store: Store) -> Iterator[None]:
    """Renew the heartbeat of this process's claims while the body runs."""
    stop = threading.Event()

    def beat() -> None:
        while not stop.wait(HEARTBEAT_SECONDS):
            with suppress(RunError):  # the main thread uses the same store and reports the fault
                store.beat()

    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def git_commit() -> dict[str, Any]:
    """The commit of this code, and whether it was changed since; empty where it is in no git repository."""
    folder = Path(__file__).parents[1]

    def git(*words: str) -> str:
        done = subprocess.run(["git", *words], cwd=folder, capture_output=True, text=True, check=True, timeout=10)
        return done.stdout.strip()

    try:
        git("ls-files", "--error-unmatch", "--", "__init__.py")  # fails where the repository is not the lab's
        return {"commit": git("rev-parse", "HEAD"), "dirty": bool(git("status", "--porcelain", "--", "."))}
    except (OSError, subprocess.SubprocessError):
        return {"commit": "", "dirty": False}
