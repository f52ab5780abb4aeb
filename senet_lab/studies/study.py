"""A study from its configuration to its table: plan → train → record → table, figure and tracking."""

from __future__ import annotations

import shlex
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from senet_lab.compose import compose
from senet_lab.config import Config, RunError, UserError, fault_of
from senet_lab.labels import Composed
from senet_lab.reports import aside
from senet_lab.studies import clock, driver, outcome, plan, settling
from senet_lab.studies.executors import ready
from senet_lab.studies.mirror import Mirror
from senet_lab.studies.pool import Ready
from senet_lab.studies.progress import Progress
from senet_lab.studies.store import DONE, FAILED, Record, Store
from senet_lab.studies.tracking import Tracker
from senet_lab.training import data as images

if TYPE_CHECKING:
    from senet_lab.reports.rows import Table


def run(studies: list[Composed], words: Sequence[str] = ()) -> int:
    """Train what the studies lack, as one plan, and write their tables; the exit code.

    Args:
        studies: composed.
        words: that asked for them, for the command that would settle open verdicts; without them none is named.

    Raises:
        UserError: for what is wrong with the configuration, before anything is written.
        RunError: for what stopped the studies; what has ended is recorded.
    """
    config = studies[0].config
    console = Console(markup=False, highlight=False, emoji=False)  # labels and paths are shown as they are
    if config.search:
        from senet_lab.studies import search_run  # takes from this module what every study does

        return search_run.run(studies[0], console)
    plans, folders = [plan.make(study) for study in studies], [folder_of(study) for study in studies]
    missing = absence(config)
    if missing and not config.plan:
        raise missing
    if not config.plan:
        check_writable(Path(config.results))
    store = Store(config.storage, create=not config.plan)
    if config.retry and not config.plan:
        recorded = [settling.look_at(each, store).recorded for each in settling.placed(plans, folders, store)]
        store.forget(trial_id for records in recorded for trial_id in records if records[trial_id]["state"] == FAILED)
    plans = [settling.look_at(each, store) for each in settling.placed(plans, folders, store)]
    whole = plan.together(plans)
    with ready(config, whole.device, idle=not whole.todo) as executor:
        workers = min(executor.room, max(1, len(whole.todo)))
        expectation = clock.expect(whole, store, workers)
        for each in plans:
            plan.show(each, console)
        for folder, each in zip(folders, plans, strict=True):
            said = aside.announced(folder, each.trials)
            console.print(said, style="yellow", soft_wrap=True) if said else None
        settling.show(plans, expectation, workers, console)
        plan.show_total(whole, expectation, workers, console)
        plan.show_alarms(plans, console)
        if config.plan:
            if missing:
                console.print(f"before it can train: {missing}", style="yellow", soft_wrap=True)
            return 0
        if settling.write_down(plans, folders, store):
            raise RunError("another driver has begun the same plan at the same moment: start this one again")
        processes = workers * config.training.devices
        plan.check_room([cell.spec for cell in whole.todo], executor.sharing(processes))
        tables = train(studies, plans, whole, store, Progress(whole, expectation, workers, console), executor)
        if words:
            said = settling.advice(words, plans, folders, tables, store, executor.room)
            console.print(said, soft_wrap=True) if said else None
    return 0


def train(
    studies: list[Composed],
    plans: list[plan.Plan],
    whole: plan.Plan,
    store: Store,
    progress: Progress,
    executor: Ready,
) -> list[Table]:
    """Train what is not recorded, and report it to each study that it belongs to; their tables."""
    config = studies[0].config
    results = Path(config.results)
    mirrors = [Mirror(each, study.folder, store) for study, each in zip(studies, plans, strict=True)]
    trackers = [Tracker(config.tracking, results / "wandb", study.folder) for study in studies]
    records = dict(whole.recorded)
    growing = settling.Growing(plans, records)
    plans = growing.plans

    def cells(trial_id: str) -> Iterator[tuple[int, plan.Cell]]:
        """Number of a study and its cell, for each study that the trial belongs to."""
        for number, each in enumerate(plans):
            if trial_id in each.trials:
                yield number, each.trials[trial_id]

    def epoch(cell: plan.Cell, entry: Record) -> None:
        number, own = next(cells(cell.trial_id))
        trackers[number].epoch(own, entry)

    def more() -> list[plan.Cell]:
        cells = growing.more()
        for mirror, each in zip(mirrors, plans, strict=True):
            mirror.grow(each)
        progress.grow(cells)
        return cells

    def ended(cell: plan.Cell, record: Record) -> None:
        records[cell.trial_id] = record
        for number, own in cells(cell.trial_id):
            mirrors[number].update(records)
            trackers[number].trial(own, record)
        for news in growing.news():
            progress.say(news)

    with ExitStack() as stack:
        stack.push(lambda kind, error, trace: leave_parts(studies, plans, records) if error else None)
        for tracker in trackers:
            stack.enter_context(tracker)
        for trial_id, record in whole.recorded.items():  # by a run that was cut off before its tracking
            for number, own in cells(trial_id):
                trackers[number].trial(own, record)
        pool = executor.pool(progress.workers)
        with progress:
            driver.train(whole, store, pool, progress, results / "checkpoints", epoch, ended, more)
        for mirror in mirrors:
            mirror.update(records, patience=30)
    plans = [settling.finished(each, records) for each in plans]
    tables = []
    for study, each, tracker in zip(studies, plans, trackers, strict=True):
        folder = folder_of(study)
        tables.append(write(study, each, records, store, progress.console))
        tracker.table(folder / "table.csv", folder / "figure.png")
    plan.show_alarms(plans, progress.console)
    if config.training.keep == "last":
        say_weights(plan.together(plans), records, results / "checkpoints", store, progress.console)
    return tables


def say_weights(whole: plan.Plan, records: dict[str, Record], folder: Path, store: Store, console: Console) -> None:
    """Print which trials have weights in the folder. A trial that was recorded without them is not trained again for
    them unasked: print how to ask."""
    without = []
    for trial_id, cell in whole.trials.items():
        if (folder / f"{trial_id}.ckpt").is_file():
            console.print(
                f"weights kept: {folder}/{trial_id}.ckpt ({cell.row.label}, seed {cell.seed})", soft_wrap=True
            )
        elif records[trial_id]["state"] == DONE:
            without.append(trial_id)
    if without:
        console.print(
            f"recorded without weights: {len(without)} trial{'s' * (len(without) > 1)}; to train again and keep them: "
            f"python -m senet_lab store forget {' '.join(without)} --storage {shlex.quote(store.name)}, and this again",
            soft_wrap=True,
        )


def write(composed: Composed, study: plan.Plan, records: dict[str, Record], store: Store, console: Console) -> Table:
    """Write and show the table of a study whose trials have all ended."""
    from senet_lab.reports import tables  # what draws and tests takes long to import: training begins before it

    folder = folder_of(composed)
    packed = store.outputs(study.trials)
    trials = outcome.trials(study, records, packed)
    if not (trials["status"] == DONE).any():
        reasons = trials["reason"].value_counts()
        raise RunError(f"every trial failed: {reasons.index[0]}")
    try:
        kept = aside.make_room(folder, study.trials)
        left = (outcome.runs(study, records), outcome.curves(trials, records), packed)
        written = tables.write(folder, trials, *left)
    except (OSError, ValueError) as error:
        raise RunError(f"the table cannot be written to {folder}: {error}") from error
    console.print()
    made = tables.summarise(trials, tables.unpacked(packed))
    tables.terminal(made, console)
    console.print(f"\nwritten: {folder}/ ({', '.join(path.name for path in written)})", soft_wrap=True)
    if kept:
        console.print(f"the table of other trials that was there is kept: {kept}/", soft_wrap=True)
    return made


def folder_of(composed: Composed) -> Path:
    return Path(composed.config.results) / composed.folder


def leave_parts(studies: list[Composed], plans: list[plan.Plan], records: dict[str, Record]) -> None:
    """Of studies that are stopped, write `trials.csv` with what there is, so that the report shows them as partial; a
    whole table that is there stays."""
    for study, each in zip(studies, plans, strict=True):
        part = plan.part(each, {trial_id: records[trial_id] for trial_id in each.trials if trial_id in records})
        trials = outcome.trials(part, records)
        if len(trials) and (trials["status"] == DONE).any():
            with suppress(OSError, ValueError):  # another fault ends the study, and is told
                aside.leave_part(folder_of(study), trials)


def table_from_store(words: list[str], partial: bool = False) -> None:
    """Write and show the table of a study that is complete in the store, without training.

    Args:
        words: that the study was run by.
        partial: whether to take what there is of a study that was stopped; the table says so.

    Raises:
        UserError: for bad words, and for a study with trials that have no record.
    """
    composed = compose(words)
    store = Store(composed.config.storage, create=False)
    study = settling.recorded(composed, store)
    if study.todo and not (partial and study.recorded):
        raise UserError(
            f"{store.name} has {len(study.recorded)} of the {len(study.trials)} trials of {composed.folder}; "
            f"python -m senet_lab.run {' '.join(words)} trains the others"
            + ", table --partial shows what there is"
            * bool(study.recorded)
        )
    if study.todo:
        study = plan.part(study, study.recorded)
    check_writable(Path(composed.config.results))
    write(composed, study, study.recorded, store, Console(markup=False, highlight=False, emoji=False))


def absence(config: Config) -> UserError | None:
    """Why the data set cannot be read, if it cannot. A plan downloads nothing."""
    try:
        images.check_files(replace(config.data, download=config.data.download and not config.plan))
    except UserError as error:
        return error
    return None


def check_writable(folder: Path) -> None:
    """A UserError if nothing can be written to the results folder; leaves nothing behind."""
    try:
        made = [place for place in (folder, *folder.parents) if not place.exists()]
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as probe:
            probe.write(b"x")
            probe.flush()
        for place in made:
            place.rmdir()
    except OSError as error:
        raise UserError(f"results={folder} cannot be written: {fault_of(folder, error)}") from error
