"""Runs a search: plan, trainings, confirmation, and what it leaves."""

from __future__ import annotations

import dataclasses
import statistics
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from rich.console import Console

from senet_lab.config import RunError
from senet_lab.labels import Composed
from senet_lab.studies import confirming, driver, findings, study
from senet_lab.studies.clock import Expectation, expect
from senet_lab.studies.executors import ready
from senet_lab.studies.plan import Cell, Plan, carried_out, check_room, say, show_total
from senet_lab.studies.pool import Ready
from senet_lab.studies.progress import Progress
from senet_lab.studies.search import Search, check_same, prepare
from senet_lab.studies.search_mirror import SearchMirror
from senet_lab.studies.search_plan import show
from senet_lab.studies.space import Design
from senet_lab.studies.store import DONE, Record, Store
from senet_lab.studies.tracking import Tracker
from senet_lab.training.spec import STEP

RECENT = 200  # records whose times are looked at


def run(composed: Composed, console: Console) -> int:
    """Search, and write the front; the exit code.

    Raises:
        UserError: for what is wrong with the configuration, before anything is trained.
        RunError: for what stopped the search; what has ended is recorded.
    """
    config = composed.config
    missing = study.absence(config)
    if missing and not config.plan:
        raise missing
    if not config.plan:
        study.check_writable(Path(config.results))
    store = Store(config.storage, create=not config.plan)
    search = prepare(composed, store)
    check_same(search)
    with ready(config, search.device) as executor:
        fixed = reference_plan(search)
        seconds, rough = typical(search, fixed, executor.room)
        asked = search.asker.trials * search.seeds
        expectation = Expectation(dict.fromkeys((cell.trial_id for cell in fixed.todo), seconds), rough)
        show(search, fixed, seconds, rough, executor.room, console)
        spec = search.trainings(search.priced.plain_row)[0].spec  # all are trained alike
        if carried_out(spec):
            say(console, carried_out(spec))
        if config.plan:
            if missing:
                console.print(f"before it can train: {missing}", style="yellow", soft_wrap=True)
            return 0
        check_room([spec], executor.sharing(executor.room * config.training.devices))
        progress = Progress(fixed, expectation, executor.room, console, [seconds] * asked)
        train(search, fixed, progress, executor)
    return 0


def reference_plan(search: Search) -> Plan:
    """The references outside the space, as a plan."""
    cells = [cell for row in search.references for cell in search.trainings(row)]
    search.forget_failed(cells) if not search.config.plan else None
    recorded = search.store.read(cell.trial_id for cell in cells)
    return Plan(
        search.config,
        search.priced.facts,
        search.references,
        search.device,
        cells,
        recorded,
        [],
    )


def typical(search: Search, fixed: Plan, workers: int) -> tuple[float, bool]:
    """Seconds of one training where so many workers train, from recorded ones like it or from a calibration; whether
    that is rough."""
    cells = search.trainings(search.priced.row(search.priced.space.extreme("macs", dearest=True)))[:1]
    mine = cells[0].spec.config()
    same = {**dict.fromkeys(("backbone", "identity", "device", "precision", "data", "recipe")), **STEP}
    mine = {key: as_stored(mine[key]) for key in same}
    seconds = [
        record["seconds"]
        for record in search.store.latest(RECENT)
        if not (record["resumed"] or "imported" in record)
        and {key: record["config"].get(key, plain) for key, plain in same.items()} == mine
    ]
    if seconds:
        return statistics.median(seconds), False
    expectation = expect(dataclasses.replace(fixed, cells=cells, recorded={}), search.store, workers)
    return expectation.seconds[cells[0].trial_id], expectation.rough


def as_stored(value: Any) -> Any:
    """A value of a configuration as it comes back from a record."""
    return [as_stored(each) for each in value] if isinstance(value, (list, tuple)) else value


def train(search: Search, fixed: Plan, progress: Progress, executor: Ready) -> None:
    """Train what the search asks for, report it, and write what came of it."""
    config, composed = search.config, search.composed
    assert config.search is not None
    results = Path(config.results)
    mirror = SearchMirror(search.priced.space, config.search.objectives, composed.folder, search.store)
    owners: dict[str, Design] = {}
    search.records |= fixed.recorded

    def more() -> list[Cell]:
        cells = search.more(progress)
        if cells:
            owners.update((cell.trial_id, search.halving.jobs[-1].design) for cell in cells)
        return cells

    with ExitStack() as stack:
        tracker = stack.enter_context(Tracker(config.tracking, results / "wandb", composed.folder))

        def ended(cell: Cell, record: Record) -> None:
            search.records[cell.trial_id] = record
            tracker.trial(cell, record)
            design = owners.get(cell.trial_id)
            if design is not None:
                search.heard(design)
                mirror.update(*search.so_far())

        pool = executor.pool(executor.room)
        with progress:
            driver.train(
                fixed,
                search.store,
                pool,
                progress,
                results / "checkpoints",
                tracker.epoch,
                ended,
                more,
                until=lambda cell: search.until(owners.get(cell.trial_id)),
                on_stop=lambda cell, value: search.stopped(owners[cell.trial_id], cell, value["epochs"]),
                known=search.records,
            )
        for cells in search.cells.values():  # by a run that was cut off before its tracking
            for cell in cells:
                if cell.trial_id in search.records:
                    tracker.trial(cell, search.records[cell.trial_id])
        mirror.update(*search.so_far(), patience=30)
        if not any(record["state"] == DONE for record in search.records.values()):
            raise RunError(f"every trial failed: {next(iter(search.records.values()))['reason']}")
        if config.search.confirm:
            confirm(search, fixed, progress, tracker, executor)
    folder = findings.write(search, progress.console)
    tracker.table(folder / "front.csv", folder / "front.png")


def confirm(search: Search, fixed: Plan, progress: Progress, tracker: Tracker, executor: Ready) -> None:
    """Train the designs on and near the front with fresh seeds."""
    again = confirming.plan(search, fixed)
    seconds, rough = typical(search, fixed, progress.workers)
    expectation = Expectation({cell.trial_id: seconds for cell in again.todo}, rough)
    number, seeds = len(again.rows), search.config.search.confirm if search.config.search else 0
    say(progress.console, f"{number} designs on or near the front, with {seeds} fresh seed{'s' * (seeds > 1)}:")
    show_total(again, expectation, progress.workers, progress.console)
    shown = Progress(again, expectation, progress.workers, progress.console)
    pool = executor.pool(progress.workers)
    folder = Path(search.config.results) / "checkpoints"
    with shown:
        search.records |= driver.train(
            again, search.store, pool, shown, folder, tracker.epoch, tracker.trial, known=search.records
        )
    search.confirmed = again.cells
    for trial_id, record in again.recorded.items():
        tracker.trial(again.trials[trial_id], record)
