"""Runs a study of any design, from its words to its outputs: rows → plan → trainings → records → table and figures."""

from __future__ import annotations

import shlex
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from senet_lab import files
from senet_lab.compose import compose
from senet_lab.config import Config, RunError, UserError, path_fault
from senet_lab.naming import Composed
from senet_lab.reports import kept_tables
from senet_lab.studies import driver, exporter, plan, plan_text, record_tables, settling
from senet_lab.studies.designs import Design, ListedDesign, folder_of
from senet_lab.studies.executors import open_executor
from senet_lab.studies.pool import Capacity
from senet_lab.studies.progress import Progress
from senet_lab.studies.store import DONE, Record, Store
from senet_lab.training import data as images

if TYPE_CHECKING:
    import pandas as pd

    from senet_lab.reports.table import Table


def run_studies(studies: list[Composed], words: Sequence[str] = ()) -> int:
    """Train the missing trials of the studies as one plan, and write their tables; returns the exit code.

    Args:
        studies: composed.
        words: that asked for them, for the command that would settle open verdicts; without them none is named.

    Raises:
        UserError: for what is wrong with the configuration, before anything is written.
        RunError: for what stopped the studies; what has ended is recorded.
    """
    config = studies[0].config
    console = Console(markup=False, highlight=False, emoji=False)  # labels and paths are shown as they are
    design = design_of(studies)
    missing = missing_data(config)
    if not config.plan:
        if missing:
            raise missing
        check_writable(Path(config.results))
    store = Store(config.storage, create=not config.plan)
    design.look_up(store)
    device = design.plans[0].device
    with open_executor(config, device, idle=not design.most) as executor:
        workers = min(executor.room, max(1, design.most))
        forecast = design.forecast(workers)
        design.show(forecast, workers, console)
        if config.plan:
            if missing:
                console.print(f"before it can train: {missing}", style="yellow", soft_wrap=True)
            return 0
        design.begin()
        plan_text.check_memory(design.specs(), executor.sharing(workers * config.training.devices))
        progress = Progress(plan.merge_plans(design.plans), forecast, workers, console)
        tables = train_missing(studies, design, store, progress, executor, words)
        if isinstance(design, ListedDesign) and words:
            advice = settling.settle_advice(words, design.plans, design.folders, tables, store, executor.room)
            console.print(advice, soft_wrap=True) if advice else None
    return 0


def design_of(studies: Sequence[Composed]) -> Design:
    """The design of these studies; a UserError for whatever is wrong with one of them."""
    if studies[0].config.search:
        from senet_lab.studies.search import SearchDesign  # Lightning and Optuna come with it

        return SearchDesign(studies[0])
    return listed_design(studies)


def listed_design(studies: Sequence[Composed]) -> ListedDesign:
    """The design of studies whose rows are listed; a UserError for whatever is wrong with one of them."""
    return ListedDesign([plan.make_plan(study) for study in studies], [folder_of(study) for study in studies])


def train_missing(
    studies: Sequence[Composed],
    design: Design,
    store: Store,
    progress: Progress,
    executor: Capacity,
    words: Sequence[str],
) -> list[Table]:
    """Train the missing trials and write the outputs; returns the tables."""
    config = studies[0].config
    results = Path(config.results)

    def ended(cell: plan.Cell, record: Record) -> None:
        for text in design.ended(cell, record):
            progress.say(text)

    def due() -> list[plan.Cell]:
        return design.due(progress)

    def more() -> list[plan.Cell]:
        cells = design.more(progress)
        exports.grow(studies, design)
        return cells

    with ExitStack() as stack:
        stack.push(lambda kind, error, trace: leave_parts(studies, design) if error else None)
        exports = stack.enter_context(exporter.exporting(studies, design))
        with progress:
            driver.Driver(
                plan.merge_plans(design.plans),
                store,
                executor.pool(progress.workers),
                progress,
                results / "checkpoints",
                on_end=ended,
                due=due,
                more=more,
                until=design.until,
                on_stop=lambda cell, value: design.stopped(cell, value["epochs"]),
                search_records=design.records,
            ).train()
        design.finish()
        pairs = zip(studies, design.plans, strict=True)
        tables = [write_outputs(study, each, design, store, progress.console, words) for study, each in pairs]
        exporter.conclude(exports, studies, design, words, progress.console)
    plan_text.show_alarms(design.plans, progress.console)
    if config.training.keep == "last":
        say_weights(plan.merge_plans(design.plans), design.records, results / "checkpoints", store, progress.console)
    return tables


def say_weights(whole: plan.Plan, records: dict[str, Record], folder: Path, store: Store, console: Console) -> None:
    """Print which trials have weights in the folder. Trials that were recorded without weights are not trained again;
    the command that does so is printed."""
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


def write_outputs(
    composed: Composed, study: plan.Plan, design: Design, store: Store, console: Console, words: Sequence[str] = ()
) -> Table:
    """Write and show the table of a study, or the front of a search, whose trials have all ended; and, where words are
    given, which command trains each row."""
    from senet_lab.reports import tables  # slow to import, and not needed before training

    folder, search = folder_of(composed), composed.config.search
    try:
        trials, packed, made = gather(study, design, store)
        kept = kept_tables.make_room(folder, study.trials)
        left = (
            record_tables.runs_frame(study, design.records),
            record_tables.curves_frame(trials, design.records),
            packed,
        )
        written = tables.write_table(folder, trials, *left, table=made)
        commands = record_tables.commands_file(composed, study, words) if words else {}
        written += files.replace_all(folder, {**design.files(), **commands})
    except (OSError, ValueError) as error:
        raise RunError(f"the {'front' if search else 'table'} cannot be written to {folder}: {error}") from error
    console.print()
    tables.print_table(made, console)
    console.print(f"\nwritten: {folder}/ ({', '.join(path.name for path in written)})", soft_wrap=True)
    if kept:
        what = "front" if search else "table"
        console.print(f"the {what} of other trials that was there is kept: {kept}/", soft_wrap=True)
    return made


def gather(study: plan.Plan, design: Design, store: Store) -> tuple[pd.DataFrame, dict[str, bytes], Table]:
    """The trials of a study as `trials.csv` has them, what each made of the test images, and the table of both.

    Raises:
        RunError: where every trial failed.
        ValueError: where they do not make one table.
    """
    from senet_lab.reports import tables

    packed = store.outputs(study.trials)
    trials = record_tables.trials_frame(study, design.records, packed, design.columns)
    if not (trials["status"] == DONE).any():
        raise RunError(f"every trial failed: {trials['reason'].value_counts().index[0]}")
    return trials, packed, tables.make_table(tables.canonical(trials), tables.unpack_outputs(packed))


def leave_parts(studies: Sequence[Composed], design: Design) -> None:
    """Write `trials.csv` of studies that are stopped, so that the report shows them as partial; a complete table is
    kept. Of a search nothing is written before its end."""
    for study, each in zip(studies, design.plans, strict=True):
        recorded = {trial_id: design.records[trial_id] for trial_id in each.trials if trial_id in design.records}
        if study.config.search:
            continue
        trials = record_tables.trials_frame(plan.partial_plan(each, recorded), recorded)
        if len(trials) and (trials["status"] == DONE).any():
            with suppress(OSError, ValueError):  # the error that ended the study is reported instead
                kept_tables.leave_part(folder_of(study), trials)


def table_from_store(words: list[str], partial: bool = False) -> None:
    """Write and show the table of a study that is complete in the store, without training.

    Args:
        words: that the study was run by.
        partial: whether to take what there is of a study that was stopped; the table says so.

    Raises:
        UserError: for bad words, and for a study with trials that have no record.
    """
    composed = compose(words)
    study, design, store = from_store(composed, words, partial)
    check_writable(Path(composed.config.results))
    write_outputs(composed, study, design, store, Console(markup=False, highlight=False, emoji=False), words)


def from_store(composed: Composed, words: Sequence[str], partial: bool) -> tuple[plan.Plan, Design, Store]:
    """A study with what the store has of it, to be shown without training.

    Raises:
        UserError: where trials have no record, unless what there is will do (`partial`).
    """
    composed.config.retry = False  # nothing is trained here
    design = listed_design([composed])
    store = Store(composed.config.storage, create=False)
    design.look_up(store)
    (study,) = design.plans
    if study.todo and not (partial and study.recorded):
        raise UserError(
            f"{store.name} has {len(study.recorded)} of the {len(study.trials)} trials of {composed.folder}; "
            f"python -m senet_lab.run {' '.join(words)} trains the others"
            + ", table --partial shows what there is"
            * bool(study.recorded)
        )
    return plan.partial_plan(study, study.recorded) if study.todo else study, design, store


def missing_data(config: Config) -> UserError | None:
    """The error of a data set that cannot be read; None if it can. A plan downloads nothing."""
    try:
        images.check_files(replace(config.data, download=config.data.download and not config.plan))
    except UserError as error:
        return error
    return None


def check_writable(folder: Path) -> None:
    """A UserError if the results folder cannot be written. No file is left behind."""
    try:
        missing = [place for place in (folder, *folder.parents) if not place.exists()]
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as probe:
            probe.write(b"x")
            probe.flush()
        for place in missing:
            place.rmdir()
    except OSError as error:
        raise UserError(f"results={folder} cannot be written: {path_fault(folder, error)}") from error
