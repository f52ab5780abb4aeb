"""A study from its configuration to its table: plan → train → record → table, figure and tracking."""

from __future__ import annotations

import tempfile
from pathlib import Path

from rich.console import Console

from senet_lab.compose import Composed
from senet_lab.config import RunError, UserError
from senet_lab.reports import tables
from senet_lab.studies import driver, outcome, plan
from senet_lab.studies.executors import Workers, default_workers
from senet_lab.studies.mirror import Mirror
from senet_lab.studies.progress import Progress
from senet_lab.studies.store import Store
from senet_lab.studies.tracking import Tracker
from senet_lab.training import data as images


def run(composed: Composed) -> int:
    """Train what the study lacks and write its table; the exit code.

    Raises:
        UserError: for what is wrong with the configuration, before anything is written.
        RunError: for what stopped the study; what has ended is recorded.
    """
    config = composed.config
    console = Console(soft_wrap=False)
    study = plan.make(composed)
    missing = absence(study)
    if missing and not config.plan:
        raise missing
    results = Path(config.results)
    if not config.plan:
        check_writable(results)
    store = Store(config.storage, create=not config.plan)
    study = plan.look_up(study, store)
    if config.retry and not config.plan:
        store.forget(trial_id for trial_id, record in study.recorded.items() if record["state"] == "failed")
        study = plan.look_up(study, store)
    workers = min(config.executor.workers or default_workers(study.device), max(1, len(study.todo)))
    expectation = plan.expect(study, store)
    plan.show(study, expectation, workers, console)
    if config.plan:
        if missing:
            console.print(f"[yellow]before it can train:[/] {missing}", soft_wrap=True)
        return 0
    return finish(composed, study, store, console, expectation, workers)


def finish(
    composed: Composed,
    study: plan.Plan,
    store: Store,
    console: Console,
    expectation: plan.Expectation,
    workers: int,
) -> int:
    """Train and report."""
    results = Path(composed.config.results)
    folder = results / composed.folder
    mirror = Mirror(study, composed.folder, store)
    tracker = Tracker(composed.config.tracking, results / "wandb", composed.folder)
    records = dict(study.recorded)

    def ended(cell: plan.Cell, record: driver.Record) -> None:
        records[cell.trial_id] = record
        mirror.update(records)
        tracker.trial(cell, record)

    mirror.update(records)
    for cell in study.trials.values():  # a run that was cut off between its record and its tracking
        if cell.trial_id in records:
            tracker.trial(cell, records[cell.trial_id])
    with (
        Workers(workers, composed.config.executor.threads) as pool,
        Progress(study, expectation, workers, console) as progress,
        tracker,
    ):
        records = driver.train(study, store, pool, progress, results / "checkpoints", tracker.epoch, ended)
    trials = outcome.trials(study, records)
    if not (trials["status"] == "done").any():
        reasons = trials["reason"].value_counts()
        raise RunError(f"every trial failed: {reasons.index[0]}")
    try:
        written = tables.write(folder, trials, outcome.runs(study, records))
    except OSError as error:
        raise RunError(f"the table cannot be written to {folder}: {error}") from error
    table = tables.summarise(trials)
    console.print()
    tables.terminal(table, console)
    console.print(f"\nwritten: {folder}/ ({', '.join(path.name for path in written)})", soft_wrap=True)
    tracker.table(folder / "table.csv", folder / "figure.png")
    return 0


def absence(study: plan.Plan) -> UserError | None:
    """Why the data set cannot be read, if it cannot."""
    try:
        images.check_files(study.config.data)
    except UserError as error:
        return error
    return None


def check_writable(folder: Path) -> None:
    """A UserError if nothing can be written to the results folder."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as probe:
            probe.write(b"x")
            probe.flush()
    except OSError as error:
        raise UserError(f"results={folder} cannot be written: {error.strerror or error}") from error
