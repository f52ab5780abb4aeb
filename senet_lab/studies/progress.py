"""What the user sees while a study trains: trials done, time left, and each running trial's epoch and accuracy.

On a terminal and in a notebook a display that renews itself; elsewhere (a log, CI) one line a trial.
"""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table

from senet_lab.counting import BAR, duration
from senet_lab.studies.forecast import Expectation, Remaining, RunningTrial
from senet_lab.studies.notebook_display import NotebookDisplay
from senet_lab.studies.plan import Cell, Plan

FACTS = 38  # columns of the terminal beside a bar; the label has the rest


class Progress:
    """The display of one study.

    Args:
        plan: the study.
        expectation: of the trials still to run; corrected by what is measured.
        workers: how many train side by side.
        console: where to.
    """

    def __init__(self, plan: Plan, expectation: Expectation, workers: int, console: Console) -> None:
        self.remaining = Remaining(plan, expectation)
        self.total = len(plan.trials) + len(self.remaining.unasked)
        self.done = len(plan.trials) - len(plan.todo)
        self.rows = {cell.row.label: expectation.seconds.get(cell.trial_id, 0.0) for cell in reversed(plan.todo)}
        self.workers = workers
        self.console = console
        self.elsewhere = 0
        self.live: Live | NotebookDisplay | None = None
        if console.is_jupyter:
            self.live = NotebookDisplay(console.width)
        elif console.is_terminal:
            self.live = Live(console=console, auto_refresh=False, transient=True)

    def __enter__(self) -> Progress:
        if self.live:
            self.live.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        if self.live:
            self.remaining.running.clear()  # a notebook keeps the display: nothing is being trained any longer
            self.live.update(self.display())
            self.live.stop()

    # -------------------------------------------------------------------------------------------------------- events

    def learn(self, cells: list[Cell], recorded: int) -> None:
        """A search has asked for these cells, and for so many more that are recorded."""
        unasked = self.remaining.unasked
        for cell in cells:
            self.remaining.ask(cell, unasked.pop() if unasked else 0.0)
        del unasked[len(unasked) - recorded :]
        self.done += recorded

    def grow(self, cells: list[Cell]) -> None:
        """Rows whose verdicts are open have asked for these cells: each takes what others of its row take."""
        for cell in cells:
            self.remaining.ask(cell, self.rows.setdefault(cell.row.label, 0.0))
        self.total += len(cells)

    def start(self, cell: Cell) -> None:
        self.remaining.running[cell.trial_id] = RunningTrial(cell)

    def epoch(self, cell: Cell, entry: dict[str, float], elapsed: float) -> None:
        """An epoch has ended, so many seconds after the trial began."""
        if self.remaining.epoch(cell, entry, elapsed):
            self.say(f"about {duration(self.left())} left, by the first epochs")

    def end(self, cell: Cell, record: dict[str, Any]) -> None:
        if record["state"] == "done":
            outcome = f"test error {record['metrics']['test_error']:.2f}%, in {duration(record['seconds'])}"
        else:
            outcome = f"failed: {record['reason']}"
        self.ended(trial_name(cell), cell, record, outcome)

    def ended(self, name: str, cell: Cell, record: dict[str, Any], outcome: str) -> None:
        """A trial of this name has ended, with this outcome."""
        self.done += 1
        self.remaining.leave(cell, record["seconds"] if record["state"] == "done" and not record["resumed"] else None)
        self.remaining.stop_probing()
        left = f", about {duration(self.left())} left" if self.done < self.total else ""
        self.say(f"[{self.done}/{self.total}] {name}: {outcome}{left}")

    def stop(self, cell: Cell, epochs: list[dict[str, float]]) -> None:
        """A search has stopped a training at a rung."""
        self.done += 1
        self.remaining.leave(cell)
        error = epochs[-1]["val_error"]
        outcome = f"stopped after {len(epochs)} of {cell.spec.recipe.epochs} epochs, validation error {error:.2f}%"
        self.say(f"[{self.done}/{self.total}] {trial_name(cell)}: {outcome}")

    def go_on(self, trainings: int) -> None:
        """A search has promoted so many trainings that were stopped."""
        self.done -= trainings

    def say(self, text: str) -> None:
        """A line that stays, above the display."""
        if self.live:
            self.live.update(self.display())
        self.console.print(text, soft_wrap=True)

    def left(self) -> float:
        """Seconds to the end, as far as is known."""
        return self.remaining.total(self.workers)

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
        table.add_column(no_wrap=True, overflow="ellipsis", max_width=max(8, self.console.width - BAR - FACTS))
        table.add_column()
        table.add_column(no_wrap=True)
        left = f"about {duration(self.left())} left" if self.done < self.total else ""
        table.add_row(f"{self.done} of {self.total} trials", bar(self.done, self.total), left)
        for trial in self.remaining.running.values():
            cell, last = trial.cell, trial.last
            label, epochs = trial_name(cell), cell.spec.recipe.epochs
            if last:
                split = "val" if "val_error" in last else "train"
                accuracy = f"{split} accuracy {100 - last[f'{split}_error']:.1f}%"
                table.add_row(label, bar(last["epoch"], epochs), f"epoch {last['epoch']}/{epochs}, {accuracy}")
            else:
                table.add_row(label, "", "starting")
        return table


def trial_name(cell: Cell) -> str:
    """A trial, as the user is told of it."""
    return f"{cell.row.label}, seed {cell.seed}"


def bar(done: float, total: float) -> ProgressBar:
    return ProgressBar(total=total, completed=done, width=BAR)
