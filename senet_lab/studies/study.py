"""A study from its configuration to its table: plan → train → record → table, figure and tracking."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from senet_lab.compose import Composed, compose
from senet_lab.config import Config, RunError, UserError
from senet_lab.reports import tables
from senet_lab.studies import driver, outcome, plan
from senet_lab.studies.executors import Workers, default_workers
from senet_lab.studies.mirror import Mirror
from senet_lab.studies.progress import Progress
from senet_lab.studies.store import DONE, FAILED, Record, Store
from senet_lab.studies.tracking import Tracker
from senet_lab.training import data as images


def run(composed: Composed) -> int:
    """Train what the study lacks and write its table; the exit code.

    Raises:
        UserError: for what is wrong with the configuration, before anything is written.
        RunError: for what stopped the study; what has ended is recorded.
    """
    config = composed.config
    console = Console(markup=False, highlight=False, emoji=False)  # labels and paths are shown as they are
    study = plan.make(composed)
    missing = absence(config)
    if missing and not config.plan:
        raise missing
    if not config.plan:
        check_writable(Path(config.results))
    store = Store(config.storage, create=not config.plan)
    study = plan.look_up(study, store)
    if config.retry and not config.plan:
        store.forget(trial_id for trial_id, record in study.recorded.items() if record["state"] == FAILED)
        study = plan.look_up(study, store)
    workers = min(config.executor.workers or default_workers(study.device), max(1, len(study.todo)))
    expectation = plan.expect(study, store)
    plan.show(study, expectation, workers, console)
    if config.plan:
        if missing:
            console.print(f"before it can train: {missing}", style="yellow", soft_wrap=True)
        return 0
    train(composed, study, store, Progress(study, expectation, workers, console))
    return 0


def train(composed: Composed, study: plan.Plan, store: Store, progress: Progress) -> None:
    """Train what is not recorded, and report."""
    config = composed.config
    results = Path(config.results)
    mirror = Mirror(study, composed.folder, store)
    tracker = Tracker(config.tracking, results / "wandb", composed.folder)
    records = dict(study.recorded)

    def ended(cell: plan.Cell, record: Record) -> None:
        records[cell.trial_id] = record
        mirror.update(records)
        tracker.trial(cell, record)

    with tracker:
        for trial_id, record in study.recorded.items():  # by a run that was cut off before its tracking
            tracker.trial(study.trials[trial_id], record)
        pool = Workers(progress.workers, config.executor.threads)
        with progress:
            records = driver.train(study, store, pool, progress, results / "checkpoints", tracker.epoch, ended)
        mirror.update(records, patience=30)
    folder = write(composed, study, records, progress.console)
    tracker.table(folder / "table.csv", folder / "figure.png")


def write(composed: Composed, study: plan.Plan, records: dict[str, Record], console: Console) -> Path:
    """Write and show the table of a study whose trials have all ended; its folder."""
    folder = Path(composed.config.results) / composed.folder
    trials = outcome.trials(study, records)
    if not (trials["status"] == DONE).any():
        reasons = trials["reason"].value_counts()
        raise RunError(f"every trial failed: {reasons.index[0]}")
    try:
        written = tables.write(folder, trials, outcome.runs(study, records))
    except (OSError, ValueError) as error:
        raise RunError(f"the table cannot be written to {folder}: {error}") from error
    console.print()
    tables.terminal(tables.summarise(trials), console)
    console.print(f"\nwritten: {folder}/ ({', '.join(path.name for path in written)})", soft_wrap=True)
    return folder


def table_from_store(words: list[str]) -> None:
    """Write and show the table of a study that is complete in the store, without training.

    Raises:
        UserError: for bad words, and for a study with trials that have no record.
    """
    composed = compose(words)
    store = Store(composed.config.storage, create=False)
    study = plan.look_up(plan.make(composed), store)
    if study.todo:
        raise UserError(
            f"{store.name} has {len(study.recorded)} of the {len(study.trials)} trials of {composed.folder}; "
            f"python -m senet_lab.run {' '.join(words)} trains the others"
        )
    check_writable(Path(composed.config.results))
    write(composed, study, study.recorded, Console(markup=False, highlight=False, emoji=False))


def absence(config: Config) -> UserError | None:
    """Why the data set cannot be read, if it cannot. A plan downloads nothing."""
    try:
        images.check_files(replace(config.data, download=config.data.download and not config.plan))
    except UserError as error:
        return error
    return None


def check_writable(folder: Path) -> None:
    """A UserError if nothing can be written to the results folder; leaves nothing behind."""
    made = [place for place in (folder, *folder.parents) if not place.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as probe:
            probe.write(b"x")
            probe.flush()
        for place in made:
            place.rmdir()
    except OSError as error:
        raise UserError(f"results={folder} cannot be written: {error.strerror or error}") from error
