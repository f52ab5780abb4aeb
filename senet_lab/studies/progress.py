"""What the user sees while a study trains: trials done, time left, and each running trial's epoch and accuracy.

On a terminal a display that renews itself; elsewhere (a log, CI) one line a trial.
"""

from __future__ import annotations

import time
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table

from senet_lab.studies.plan import Cell, Expectation, Plan, duration


class Progress:
    """The display of one study.

    Args:
        plan: the study.
        expectation: of the trials still to run; corrected by what is measured.
        workers: how many train side by side.
        console: where to.
    """

    def __init__(self, plan: Plan, expectation: Expectation, workers: int, console: Console) -> None:
        self.total = len(plan.trials)
        self.done = self.total - len(plan.todo)
        self.epochs = plan.config.recipe.epochs
        self.expected = dict(expectation.seconds)
        self.workers = workers
        self.console = console
        self.running: dict[str, tuple[Cell, float, dict[str, float]]] = {}  # cell, start, last epoch
        self.measured = [0.0, 0.0]  # seconds expected, seconds taken
        self.elsewhere = 0
        self.live = Live(console=console, auto_refresh=False, transient=True) if console.is_terminal else None

    def __enter__(self) -> Progress:
        if self.live:
            self.live.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        if self.live:
            self.live.stop()

    # -------------------------------------------------------------------------------------------------------- events

    def start(self, cell: Cell) -> None:
        self.running[cell.trial_id] = (cell, time.monotonic(), {})

    def epoch(self, cell: Cell, entry: dict[str, float]) -> None:
        _, since, last = self.running[cell.trial_id]
        # A trial that goes on from a checkpoint has not trained its first epochs here.
        self.running[cell.trial_id] = (cell, since, {"first": last.get("first", entry["epoch"]), **entry})

    def end(self, cell: Cell, record: dict[str, Any]) -> None:
        self.done += 1
        expected = self.expected.pop(cell.trial_id, 0.0)
        self.running.pop(cell.trial_id, None)
        if record["state"] == "done":
            if not record["resumed"]:
                self.measured[0] += expected
                self.measured[1] += record["seconds"]
            metrics = record["metrics"]
            outcome = f"test error {metrics['test_error']:.2f}%, in {duration(record['seconds'])}"
        else:
            outcome = f"failed: {record['reason']}"
        left = f", about {duration(self.left())} left" if self.done < self.total else ""
        self.console.print(
            f"[{self.done}/{self.total}] {cell.row.label}, seed {cell.seed}: {outcome}{left}",
            markup=False,
            highlight=False,
        )

    def say(self, text: str) -> None:
        """A line that stays."""
        self.console.print(text, markup=False, highlight=False, soft_wrap=True)

    # ---------------------------------------------------------------------------------------------------------- time

    def left(self) -> float:
        """Seconds to the end, as far as is known."""
        expected, taken = self.measured
        for cell, since, last in self.running.values():
            if last:  # a trial half done is half a measurement
                share = (last["epoch"] - last["first"] + 1) / self.epochs
                expected += share * self.expected.get(cell.trial_id, 0.0)
                taken += time.monotonic() - since
        pace = taken / expected if expected else 1.0
        trained = sum(
            self.expected.get(cell.trial_id, 0.0) * last.get("epoch", 0) / self.epochs
            for cell, _, last in self.running.values()
        )
        return pace * (sum(self.expected.values()) - trained) / self.workers

    # ------------------------------------------------------------------------------------------------------- display

    def refresh(self, elsewhere: int = 0) -> None:
        """Draw the display anew; `elsewhere` trials are being trained by another driver."""
        if elsewhere and not self.elsewhere:
            self.say(f"waiting for {elsewhere} trial{'s' * (elsewhere > 1)} that another driver is training")
        self.elsewhere = elsewhere
        if self.live:
            self.live.update(self.display(), refresh=True)

    def display(self) -> Table:
        table = Table.grid(padding=(0, 2))
        table.add_row(
            f"{self.done} of {self.total} trials",
            ProgressBar(total=self.total, completed=self.done, width=24),
            f"about {duration(self.left())} left",
        )
        for cell, _, last in self.running.values():
            if last:
                accuracy = f"val accuracy {100 - last['val_error']:.1f}%"
                bar = ProgressBar(total=self.epochs, completed=last["epoch"], width=24)
                table.add_row(
                    f"{cell.row.label}, seed {cell.seed}", bar, f"epoch {last['epoch']}/{self.epochs}, {accuracy}"
                )
            else:
                table.add_row(f"{cell.row.label}, seed {cell.seed}", "", "starting")
        return table
