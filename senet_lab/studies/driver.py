"""Trains what a plan lacks: claims trials in the store, hands them to workers, records each once.

Any number of drivers may work on the same store. A driver claims a trial when a worker is free, so that nothing is
queued ahead of others; interrupted at any moment, it loses at most the current epochs.

A trial that was out of memory is trained once more with nothing beside it from this driver: nothing is handed out until
it has been. A study of which nothing ends well is stopped (`max_failures`).
"""

from __future__ import annotations

import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from senet_lab.config import RunError
from senet_lab.studies.plan import Cell, Plan
from senet_lab.studies.pool import ELAPSED, Event, Pool
from senet_lab.studies.progress import Progress
from senet_lab.studies.store import DONE, FAILED, HEARTBEAT_SECONDS, Record, Store
from senet_lab.training.faults import advised

ATTEMPTS = 3  # a trial whose worker was killed so often stops the study
POLL_SECONDS = 0.5
FEW = 100  # trials that are looked up each time that a worker is free; more of them, at most so often:
LOOK_SECONDS = 2.0

Heard = Callable[[Cell, Record], None]


def train(
    plan: Plan,
    store: Store,
    workers: Pool,
    progress: Progress,
    checkpoints: Path,
    on_end: Heard,
    more: Callable[[], list[Cell]] | None = None,
    until: Callable[[Cell], int | None] = lambda cell: None,
    on_stop: Heard = lambda cell, value: None,
    known: dict[str, Record] | None = None,
) -> dict[str, Record]:
    """Train until every trial of the plan has ended, here or in another driver.

    Args:
        plan: the study.
        store: where trials are claimed and recorded.
        workers: who trains.
        progress: what the user sees.
        checkpoints: folder of the checkpoints of trials that have not ended.
        on_end: called with every record, once it is in the store; also with those of another driver, which may have
            been killed before it could do more with them.
        more: asked for further cells while a worker is free, in a search; where it has none although nothing is
            training, the search is over.
        until: the epoch that a training is to be stopped after; None is its end.
        on_stop: called with the epochs of a training that was stopped. Its claim is given back, and it has no record:
            it goes on from its checkpoint when it is asked for again.
        known: all records of a search, which `more` and `on_end` add to: these tell whether it can work.

    Returns:
        trial id → record, for all trials of the plan and those that `more` gave.

    Raises:
        RunError: the study cannot go on, or so many trials have failed and none has ended well that it is not to; what
            has ended is recorded, what has not goes on next time.
    """
    records = dict(plan.recorded)
    waiting = {cell.trial_id: cell for cell in plan.todo}
    running: dict[str, Cell] = {}
    attempts: dict[str, int] = {}
    crowded: list[str] = []  # of those that run, the ones that wait to be trained alone
    alone: set[str] = set()  # the ones that are, or have been
    works = False  # whether a trial has ended well here
    paused = False  # whether nothing is handed out because nothing ends well
    commit = git_commit()
    looked = 0.0  # when it was last looked up what other drivers have recorded

    def hand_out() -> None:
        """Give free workers what no other driver has, or has had."""
        nonlocal looked
        if not workers.free:
            return
        if len(waiting) <= FEW or time.monotonic() - looked > LOOK_SECONDS:  # a claim is refused in any case
            for trial_id, record in store.read(waiting).items():
                accept(waiting.pop(trial_id), record)
            looked = time.monotonic()
        if crowded and len(crowded) == len(running):
            alone.add(crowded[0])
            workers.rest()
            submit(running[crowded.pop(0)])
        offered = list(waiting.values())
        while workers.free and not making_room() and (offered or (offered := further())) and may_work():
            cell = offered.pop(0)
            if store.claim(cell.trial_id):
                del waiting[cell.trial_id]
                running[cell.trial_id] = cell
                attempts[cell.trial_id] = 1
                alone.discard(cell.trial_id)
                submit(cell)

    def submit(cell: Cell) -> None:
        workers.submit(cell.spec, checkpoints / f"{cell.trial_id}.ckpt", until(cell))
        progress.start(cell)

    def making_room() -> bool:
        """Whether a trial is trained alone, or waits for it."""
        return bool(crowded or alone & running.keys())

    def may_work() -> bool:
        """Whether more may be handed out, as far as the records tell. If not, what is training may tell otherwise yet;
        when nothing is, the study is over."""
        nonlocal paused
        ended, most = records if known is None else known, plan.config.max_failures
        enough = most is not None and len(ended) >= most
        hopeless = enough and not works and all(record["state"] == FAILED for record in ended.values())
        said = f"{len(ended)} trial{'s' * (len(ended) > 1)} failed and none ended well (max_failures={most})"
        if hopeless and not running:
            reason = next(iter(ended.values()))["reason"]
            raise RunError(f"{said}, the first: {reason}; retry=true trains them again")
        if hopeless and not paused:
            progress.say(f"{said}; no more are started unless one of those in training ends well")
        paused = hopeless
        return not hopeless

    def further() -> list[Cell]:
        """What a search wants next."""
        cells = more() if more else []
        waiting.update((cell.trial_id, cell) for cell in cells)
        return cells[:]

    def end(cell: Cell, state: str, value: dict[str, Any]) -> None:
        nonlocal works
        del running[cell.trial_id]
        packed = value.pop("outputs", None)
        record = {
            "config": cell.spec.config(),
            **value,
            "label": cell.row.label,
            "seed": cell.seed,
            "params": cell.row.cost.params,
            "macs": cell.row.cost.macs,
            "attempts": attempts[cell.trial_id],
            **commit,
        }
        if not store.finish(cell.trial_id, state, record, packed if plan.config.training.outputs == "on" else None):
            waiting[cell.trial_id] = cell  # taken over while we were silent; the other driver's record will do
            return
        if state == DONE:
            works = True
            hand_out()  # the worker that has just become free need not wait for what follows
        if state == FAILED or plan.config.training.keep == "none":
            with suppress(OSError):  # left there, it does no harm
                (checkpoints / f"{cell.trial_id}.ckpt").unlink(missing_ok=True)
                for left in checkpoints.glob(f"{cell.trial_id}.*.tmp"):  # by a worker that was killed as it wrote
                    left.unlink(missing_ok=True)
        accept(cell, store.read([cell.trial_id])[cell.trial_id])

    def accept(cell: Cell, record: Record) -> None:
        records[cell.trial_id] = record
        progress.end(cell, record)
        on_end(cell, record)

    def handle(event: Event) -> None:
        cell = running[event.trial_id]
        if event.kind == "epoch" and "notice" in event.value:
            progress.say(event.value["notice"])
        elif event.kind == "epoch":
            elapsed = event.value.pop(ELAPSED)
            progress.epoch(cell, event.value, elapsed)
        elif event.kind == "stopped":
            del running[event.trial_id]
            on_stop(cell, event.value)
            store.release(event.trial_id)
            progress.stop(cell, event.value["epochs"])
        elif event.kind == "done":
            end(cell, DONE, event.value)
        elif event.kind == "failed":
            end(cell, FAILED, event.value)
        elif event.kind == "memory" and event.trial_id in alone:
            end(cell, FAILED, {"reason": f"out of memory, also alone: {event.value['reason']}"})
        elif event.kind == "memory":
            attempts[event.trial_id] += 1
            crowded.append(event.trial_id)
            why = f"out of memory ({event.value['reason']})"
            progress.say(f"{cell.row.label}, seed {cell.seed}: {why}; once more alone, when nothing else trains")
        elif event.kind == "halt":
            raise RunError(f"{cell.row.label}, seed {cell.seed}: {event.value['reason']}")
        elif attempts[event.trial_id] < ATTEMPTS:
            attempts[event.trial_id] += 1
            progress.say(f"{cell.row.label}, seed {cell.seed}: {event.value['reason']}; it goes on from its last epoch")
            submit(cell)
        else:
            raise RunError(f"{cell.row.label}, seed {cell.seed}: {advised(event.value['reason'])} ({ATTEMPTS} times)")

    store.say = progress.say
    try:
        with beating(store):
            hand_out()
            while waiting or running:
                progress.refresh(elsewhere=len(waiting) if workers.free and not (paused or making_room()) else 0)
                for event in workers.events(POLL_SECONDS):
                    handle(event)
                hand_out()
    finally:
        workers.stop()  # before anyone else may train what they were training
        with suppress(RunError):  # a store that has failed; claims of a process that is gone are taken over
            store.release_all()
    return records


@contextmanager
def beating(store: Store) -> Iterator[None]:
    """Renew the heartbeat of this process's claims while the body runs."""
    stop = threading.Event()

    def beat() -> None:
        while not stop.wait(HEARTBEAT_SECONDS):
            with suppress(RunError):  # the main thread meets the same fault and reports it
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
        git("ls-files", "--error-unmatch", "--", "__init__.py")  # an environment inside of someone else's repository
        return {"commit": git("rev-parse", "HEAD"), "dirty": bool(git("status", "--porcelain", "--", "."))}
    except (OSError, subprocess.SubprocessError):
        return {"commit": "", "dirty": False}
