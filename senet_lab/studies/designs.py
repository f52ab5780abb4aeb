"""The design of a study: which trials there are at first, and which follow from the records.

Two designs have this form: rows that a file lists, with fixed seeds or as many as their verdicts need (`Listed`), and
the designs that a sampler proposes (`search.SearchDesign`). `studies.study` runs both in the same way.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

from rich.console import Console

from senet_lab.config import RunError
from senet_lab.naming import Composed
from senet_lab.reports import kept_tables
from senet_lab.studies import plan, plan_text, settle_plan, settling
from senet_lab.studies.forecast import Expectation, expect
from senet_lab.studies.plan import Cell, Plan
from senet_lab.studies.progress import Progress
from senet_lab.studies.store import FAILED, Record, Store
from senet_lab.training.spec import Spec


class Design(Protocol):
    """What decides on the trials of one or more studies that are run by one command."""

    records: dict[str, Record]  # trial id → record, of the trials that have ended

    @property
    def plans(self) -> list[Plan]:
        """One a study: its rows and cells as far as they are asked for."""

    @property
    def most(self) -> int:
        """The most trainings that may be needed, as far as is known before the first."""

    def look_up(self, store: Store) -> None:
        """Read the records of the store; a UserError if the study cannot continue with them. Nothing is written."""

    def specs(self) -> list[Spec]:
        """Trainings that need as much memory as any other."""

    def forecast(self, workers: int) -> Expectation:
        """The time of the missing trials on so many workers."""

    def show(self, forecast: Expectation, workers: int, console: Console) -> None:
        """Print rows, costs, and what there is to train."""

    def begin(self) -> None:
        """Note in the store, before the first training, what must not change once results are known."""

    def due(self, progress: Progress) -> list[Cell]:
        """Cells that go before all that wait. It is called while a worker is free."""

    def more(self, progress: Progress) -> list[Cell]:
        """Further cells to train, where none waits. It is called while a worker is free; the study is complete if it
        returns none and no trial is running."""

    def until(self, cell: Cell) -> int | None:
        """The epoch that a training is to be stopped after; None is its end."""

    def stopped(self, cell: Cell, epochs: list[dict[str, float]]) -> None:
        """A training has been stopped there."""

    def ended(self, cell: Cell, record: Record) -> list[str]:
        """Take the record of a trial; returns lines to print beside its result."""

    def finish(self) -> None:
        """Keep in `plans` the trials that count, after all have ended."""

    def columns(self, cell: Cell) -> dict[str, Any]:
        """Columns of `trials.csv` that this design adds for a cell."""

    def files(self) -> dict[str, bytes]:
        """Further files by name."""


def folder_of(composed: Composed) -> Path:
    """Where the outputs of a study are written."""
    return Path(composed.config.results) / composed.folder


class ListedDesign:
    """Studies whose rows are listed, trained together: rows that they share are trained once.

    Args:
        plans: one a study, as it was made.
        folders: where the outputs of each are, or will be.

    Attributes:
        plans: with all cells that were asked for so far.
        records: trial id → record, of the trials that have ended.
    """

    def __init__(self, plans: Sequence[Plan], folders: Sequence[Path]) -> None:
        self.folders = folders
        self.config = plans[0].config
        self.take_over(plans)

    def take_over(self, plans: Sequence[Plan]) -> None:
        """Start from these plans and their records."""
        self.plans = list(plans)
        self.records: dict[str, Record] = dict(plan.merge_plans(self.plans).recorded)
        self.asked = {trial_id for each in plans for trial_id in each.trials}  # that the driver has been given
        self.reported: set[tuple[int, str]] = set()  # rows whose verdicts are in, by number of the study and label
        self.new_verdicts()

    @property
    def most(self) -> int:
        return len(plan.merge_plans(self.plans).todo)

    def look_up(self, store: Store) -> None:
        self.store = store
        plans = settling.with_records(self.plans, self.folders, store)
        if self.config.retry and not self.config.plan:
            ended = plan.merge_plans(plans).recorded
            store.forget(trial_id for trial_id, record in ended.items() if record["state"] == FAILED)
            plans = settling.with_records(self.plans, self.folders, store)
        self.take_over(plans)

    def specs(self) -> list[Spec]:
        return [cell.spec for cell in plan.merge_plans(self.plans).todo]

    def forecast(self, workers: int) -> Expectation:
        return expect(plan.merge_plans(self.plans), self.store, workers)

    def show(self, forecast: Expectation, workers: int, console: Console) -> None:
        for each in self.plans:
            plan_text.show_rows(each, console)
        for folder, each in zip(self.folders, self.plans, strict=True):
            notice = kept_tables.replacement_notice(folder, each.trials)
            console.print(notice, style="yellow", soft_wrap=True) if notice else None
        settling.show_settling(self.plans, forecast, workers, console)
        plan_text.show_total(plan.merge_plans(self.plans), forecast, workers, console)
        plan_text.show_alarms(self.plans, console)

    def begin(self) -> None:
        if settle_plan.write_down(self.plans, self.folders, self.store):
            raise RunError("another driver has begun the same plan at the same moment: start this one again")

    def due(self, progress: Progress) -> list[Cell]:
        """The cells of the next look at each row that settles."""
        return self.further(progress, 0)

    def more(self, progress: Progress) -> list[Cell]:
        """The same or, if all of these are being trained, those of one seed more."""
        return self.further(progress, 0) or self.further(progress, 1)

    def further(self, progress: Progress, ahead: int) -> list[Cell]:
        """The cells of the look at each row that settles that is so many seeds ahead; study by study."""
        fresh: dict[str, Cell] = {}
        for number, each in enumerate(self.plans):
            while each.aim.settles and (cells := settling.further(each, self.records, ahead)):
                each = self.plans[number] = replace(each, cells=[*each.cells, *cells])
                for cell in cells:
                    if cell.trial_id not in self.asked:
                        fresh.setdefault(cell.trial_id, cell)
        self.asked |= fresh.keys()
        progress.grow(list(fresh.values())) if fresh else None
        return list(fresh.values())

    def until(self, cell: Cell) -> int | None:
        return None

    def stopped(self, cell: Cell, epochs: list[dict[str, float]]) -> None:
        raise AssertionError("no training of listed rows is stopped before its end")

    def ended(self, cell: Cell, record: Record) -> list[str]:
        self.records[cell.trial_id] = record
        return self.new_verdicts()

    def new_verdicts(self) -> list[str]:
        """Verdicts over seeds that are new since the last call, as lines: "tanh: worse, after 5 seeds". Verdicts over
        images stand in the table only."""
        lines = []
        for number, each in enumerate(self.plans):
            for label, need in settling.needs(each, self.records).items() if each.aim.settles else ():
                if need.word and (number, label) not in self.reported:
                    self.reported.add((number, label))
                    lines.append(f"{label}: {need.word}, after {need.seeds} seeds")
        return lines

    def finish(self) -> None:
        self.plans = [settling.without_unused_seeds(each, self.records) for each in self.plans]

    def columns(self, cell: Cell) -> dict[str, Any]:
        return {}

    def files(self) -> dict[str, bytes]:
        return {}
