"""What the user sees while a study trains: trials done, time left, and each running trial's epoch and accuracy.

On a terminal a display that renews itself; elsewhere (a log, CI) one line a trial.
"""

from __future__ import annotations

import statistics
from collections import deque
from dataclasses import dataclass, field
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table

from senet_lab.counting import BAR, duration
from senet_lab.studies.clock import Expectation, pace_key
from senet_lab.studies.plan import Cell, Plan

FACTS = 38  # columns of the terminal beside a bar; the label has the rest
# Share of its epochs, and seconds, after which each of the first trials says how long all will take: a machine that is
# shared with others changes its speed by a third from one second to the next.
PROBED, PROBED_SECONDS = 0.05, 3.0
RECENT = 50  # trials by whose first epochs the set-up of the next is told


@dataclass
class Running:
    """A trial that trains here. Times are seconds since it began, by its worker's clock: the start of a worker is no
    pace, nor is the time that a busy driver takes to hear of an epoch.

    Attributes:
        cell: it.
        last: what was said of its last epoch; empty before the first.
        ended: when that was.
        first: its last epoch that says nothing of its pace: the first trained here, which the set-up is before, or the
            last before all that begin side by side trained, since alone it has the whole machine.
        begun: when that was.
    """

    cell: Cell
    last: dict[str, float] = field(default_factory=dict)
    ended: float = 0.0
    first: float = 0.0
    begun: float = 0.0

    @property
    def done(self) -> float:
        """Share of its epochs that are behind it."""
        return self.last.get("epoch", 0.0) / self.cell.spec.recipe.epochs

    @property
    def timed(self) -> float:
        """Share of its epochs whose time is known."""
        return (self.last.get("epoch", 0.0) - self.first) / self.cell.spec.recipe.epochs

    @property
    def probed(self) -> bool:
        """Whether enough of it is timed to tell how long the rest will take."""
        return self.timed >= PROBED and self.ended - self.begun >= PROBED_SECONDS

    def time_anew(self) -> None:
        """Forget the time of the epochs so far."""
        self.first, self.begun = self.last.get("epoch", 0.0), self.ended


class Progress:
    """The display of one study.

    How long the rest will take is told by the epochs and the trials that have ended: trials of a network that has been
    trained already take what that took, others what was expected of them, times the pace of the epochs so far, and what
    the first epochs took beyond that pace: the set-up.

    Args:
        plan: the study.
        expectation: of the trials still to run; corrected by what is measured.
        workers: how many train side by side.
        console: where to.
    """

    def __init__(self, plan: Plan, expectation: Expectation, workers: int, console: Console) -> None:
        self.unasked = list(expectation.unasked)
        self.total = len(plan.trials) + len(self.unasked)
        self.done = len(plan.trials) - len(plan.todo)
        self.expected = dict(expectation.seconds)
        self.rows = {cell.row.label: expectation.seconds.get(cell.trial_id, 0.0) for cell in reversed(plan.todo)}
        self.workers = workers
        self.console = console
        self.running: dict[str, Running] = {}
        self.measured = [0.0, 0.0]  # of trials that have ended: seconds expected of their epochs, and taken
        self.begins: deque[tuple[float, float]] = deque(maxlen=RECENT)  # seconds expected of first epochs, and taken
        self.keys = {trial_id: pace_key(cell.spec.config()) for trial_id, cell in plan.trials.items()}
        self.known: dict[str, list[float]] = {}  # what trainings of a network have taken here
        self.probed = not plan.todo  # whether the first epochs have been told of
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

    def learn(self, cells: list[Cell], recorded: int) -> None:
        """A search has asked for these cells, and for so many more that are recorded."""
        for cell in cells:
            self.expected[cell.trial_id] = self.unasked.pop() if self.unasked else 0.0
            self.keys[cell.trial_id] = pace_key(cell.spec.config())
        del self.unasked[len(self.unasked) - recorded :]
        self.done += recorded

    def grow(self, cells: list[Cell]) -> None:
        """Rows whose verdicts are open have asked for these cells: each takes what others of its row take."""
        for cell in cells:
            self.rows.setdefault(cell.row.label, 0.0)
            self.expected[cell.trial_id] = self.rows[cell.row.label]
            self.keys[cell.trial_id] = pace_key(cell.spec.config())
        self.total += len(cells)

    def start(self, cell: Cell) -> None:
        self.running[cell.trial_id] = Running(cell)

    def epoch(self, cell: Cell, entry: dict[str, float], elapsed: float) -> None:
        """An epoch has ended, so many seconds after the trial began."""
        trial = self.running[cell.trial_id]
        starts = not trial.last
        trial.last, trial.ended = entry, elapsed
        if starts:
            if expected := self.expected.get(cell.trial_id):
                self.begins.append((expected / cell.spec.recipe.epochs, elapsed))
            for each in [trial] if self.probed else self.running.values():
                each.time_anew()
        if not self.probed and all(trial.probed for trial in self.running.values()):
            self.probed = True
            self.say(f"about {duration(self.left())} left, by the first epochs")

    def end(self, cell: Cell, record: dict[str, Any]) -> None:
        self.leave(cell)
        if record["state"] == "done":
            if not record["resumed"]:
                self.known.setdefault(self.keys.get(cell.trial_id, ""), []).append(record["seconds"])
            metrics = record["metrics"]
            outcome = f"test error {metrics['test_error']:.2f}%, in {duration(record['seconds'])}"
        else:
            outcome = f"failed: {record['reason']}"
        self.probed = True
        left = f", about {duration(self.left())} left" if self.done < self.total else ""
        self.say(f"[{self.done}/{self.total}] {named(cell)}: {outcome}{left}")

    def stop(self, cell: Cell, epochs: list[dict[str, float]]) -> None:
        """A search has stopped a training at a rung."""
        self.leave(cell)
        error = epochs[-1]["val_error"]
        outcome = f"stopped after {len(epochs)} of {cell.spec.recipe.epochs} epochs, validation error {error:.2f}%"
        self.say(f"[{self.done}/{self.total}] {named(cell)}: {outcome}")

    def leave(self, cell: Cell) -> None:
        """A trial trains no more; its epochs were a measurement."""
        self.done += 1
        expected = self.expected.pop(cell.trial_id, 0.0)
        trial = self.running.pop(cell.trial_id, None)
        if trial and expected:
            self.measured[0] += trial.timed * expected
            self.measured[1] += trial.ended - trial.begun

    def go_on(self, trainings: int) -> None:
        """A search has promoted so many trainings that were stopped."""
        self.done -= trainings

    def say(self, text: str) -> None:
        """A line that stays, above the display."""
        if self.live:
            self.live.update(self.display())
        self.console.print(text, soft_wrap=True)

    # ---------------------------------------------------------------------------------------------------------- time

    def left(self) -> float:
        """Seconds to the end, as far as is known."""
        expected, taken = self.measured
        for trial_id, trial in self.running.items():  # a trial half done is half a measurement
            if self.expected.get(trial_id):
                expected += trial.timed * self.expected[trial_id]
                taken += trial.ended - trial.begun
        pace = taken / expected if expected else 1.0
        beyond = [took - pace * expected for expected, took in self.begins]
        set_up = max(0.0, statistics.median(beyond)) if beyond else 0.0
        rest = {}
        for trial_id in dict.fromkeys([*self.running, *self.expected]):  # those that run have their workers already
            if trial_id in self.expected:
                done = self.running[trial_id].done if trial_id in self.running else 0.0
                known = self.known.get(self.keys[trial_id])
                unknown = pace * self.expected[trial_id] + (0.0 if done else set_up)
                rest[trial_id] = (statistics.median(known) if known else unknown) * (1 - done)
        rest |= {f"unasked {number}": pace * seconds + set_up for number, seconds in enumerate(self.unasked)}
        return Expectation(rest, rough=True).total(self.workers)

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
        table.add_row(
            f"{self.done} of {self.total} trials", bar(self.done, self.total), f"about {duration(self.left())} left"
        )
        for trial in self.running.values():
            cell, last = trial.cell, trial.last
            label, epochs = named(cell), cell.spec.recipe.epochs
            if last:
                split = "val" if "val_error" in last else "train"
                accuracy = f"{split} accuracy {100 - last[f'{split}_error']:.1f}%"
                table.add_row(label, bar(last["epoch"], epochs), f"epoch {last['epoch']}/{epochs}, {accuracy}")
            else:
                table.add_row(label, "", "starting")
        return table


def named(cell: Cell) -> str:
    """A trial, as the user is told of it."""
    return f"{cell.row.label}, seed {cell.seed}"


def bar(done: float, total: float) -> ProgressBar:
    return ProgressBar(total=total, completed=done, width=BAR)
