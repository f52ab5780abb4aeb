"""Predicts how long trials take, from records of the same network or from a few training steps (`calibration`), and
corrects the prediction while they train."""

from __future__ import annotations

import heapq
import statistics
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from senet_lab.config import Config
from senet_lab.studies.calibration import PASSES_TRAINING, Decoding, calibrated_rates, decodings, reading_key
from senet_lab.studies.plan import Cell, Plan
from senet_lab.studies.store import Store
from senet_lab.studies.workers import default_workers
from senet_lab.training.data import DataFacts
from senet_lab.training.spec import STEP
from senet_lab.training.transforms import views_of

EPOCH_SECONDS, STEP_SECONDS = 0.03, 0.002  # of overhead, measured with a ResNet-8 on the digits, on a CPU of 2026
# What decides how long an image takes to be read → what it was before there was a choice.
READING: dict[str, Any] = {
    "test_size": 0,
    "test_share": 0.0,
    "augment": "none",
    "resize": 0,
    "crops": 1,
    "scales": [],
    "workers": 0,
}
RECENT = 200  # records whose times are looked at; a store may hold many thousands
# Share of its epochs, and seconds, after which each of the first trials says how long all will take: a machine that is
# shared with others changes its speed by a third from one second to the next.
PROBED, PROBED_SECONDS = 0.05, 3.0
BEGINS = 50  # trials by whose first epochs the set-up of the next is told


@dataclass(frozen=True)
class Expectation:
    """Predicted seconds by trial id. `rough` is true if no record of the same network was found; `once` are seconds
    that each worker spends before its first trial to decode images into memory; `unasked` are the seconds of each trial
    that a search will add later."""

    seconds: dict[str, float]
    rough: bool
    once: float = 0.0
    unasked: tuple[float, ...] = ()

    def total(self, workers: int) -> float:
        """Seconds for all of them on so many workers, each taking the next when it is free."""
        return spread(self.seconds.values(), workers, self.once)


def spread(trials: Iterable[float], workers: int, once: float = 0.0) -> float:
    """Seconds that so many workers need for trials of these seconds, each worker taking the next when it is free, and
    `once` before its first."""
    free = [once] * workers
    for seconds in trials:
        heapq.heapreplace(free, free[0] + seconds)
    return max(free)


def expect(plan: Plan, store: Store, workers: int, alike: str = "network") -> Expectation:
    """Predict the time of the trials that are left on so many workers: from records of the same network, data and
    recipe on the same kind of device, or else from multiply-adds, the rate of a few steps measured here
    (`calibrated_rates`) and the decoding of images (`decodings`). If several devices train a trial, the steps are
    measured on one, and the others are assumed to be as fast and never to wait. With `alike="backbone"` records of the
    same network with any gates count."""
    known: dict[str, list[float]] = {}
    for record in [*plan.recorded.values(), *store.latest(RECENT)]:
        if record["state"] == "done" and not record["resumed"] and "imported" not in record:
            known.setdefault(pace_key(record["config"], alike), []).append(record["seconds"])
    keys: dict[int, str] = {}  # by row, because its seeds take equally long and may be thousands
    unknown: dict[str, Cell] = {}
    for cell in plan.todo:
        if id(cell.row) not in keys:
            key = keys[id(cell.row)] = pace_key(cell.spec.config(), alike)
            if key not in known:
                unknown.setdefault(key, cell)
    rates = calibrated_rates(plan, unknown)
    mean = statistics.harmonic_mean([*rates.values()]) if rates else 0.0
    cores = cores_of(plan.config, workers)
    decoded = decodings(plan, [*unknown.values()], cores)
    seconds: dict[str, float] = {}
    for cell in plan.todo:
        key = keys[id(cell.row)]
        if key in known:
            seconds[cell.trial_id] = statistics.median(known[key])
        else:
            rate = rates.get(key, mean) * cell.spec.devices
            decoding = decoded.get(reading_key(cell), Decoding())
            seconds[cell.trial_id] = trial_seconds(cell, plan.facts_of(cell.row), rate, decoding, cores)
    return Expectation(seconds, rough=bool(rates), once=sum(each.once for each in decoded.values()))


def pace_key(config: dict[str, Any], alike: str = "network") -> str:
    """Key of a training without its seed: trainings with equal keys take equally long. A record that lacks a field (of
    an earlier version, or damaged) matches no key."""
    recipe, data = config.get("recipe") or {}, config.get("data") or {}
    matters = [config.get(key) for key in (alike, "device", "precision", "identity")]
    matters += [config.get(key, plain) for key, plain in STEP.items()]
    matters += [recipe.get(key) for key in ("epochs", "batch_size")]
    matters += [data.get(key, "lacking") for key in ("size", "validation", "subset", "test_subset")]
    matters += [data.get(key, plain) for key, plain in READING.items()]
    return repr(matters)


def trial_seconds(cell: Cell, facts: DataFacts, rate: float, decoding: Decoding, cores: float) -> float:
    """Seconds of a whole training, its validations and its test.

    Args:
        cell: of the trial.
        facts: of its data set.
        rate: multiply-adds a second of all its devices together.
        decoding: of its images; a device's process decodes its part of them.
        cores: of each of these processes. Its loaders (`data.workers`) decode while it computes, as far as they reach;
            without any it does one after the other.
    """
    data, epochs, loaders = cell.spec.data, cell.spec.recipe.epochs, cell.spec.data.workers
    total, area = 0.0, (data.tested.size / data.size) ** 2  # multiply-adds go with it
    for images, passes, each in (
        (facts.train * epochs, PASSES_TRAINING, decoding.train),
        (facts.validation * epochs, area, decoding.validation),
        (facts.test, area * (views_of(data) or 1), decoding.test),
    ):
        computing = cell.row.cost.macs * passes * images / rate
        reading = images * each / cell.spec.devices
        both = computing + reading
        total += max(computing, reading / loaders, both / cores) if loaders else both
    return total + overhead(cell, facts)


def overhead(cell: Cell, facts: DataFacts) -> float:
    """Seconds of a whole training that Lightning, batches, metrics and checkpoints take; they matter for tiny networks
    and images."""
    steps = -(-facts.train // cell.spec.recipe.batch_size)
    return cell.spec.recipe.epochs * (EPOCH_SECONDS + steps * STEP_SECONDS)


def cores_of(config: Config, workers: int) -> float:
    """Cores for each training process, on this machine or a node of the cluster, if so many workers train."""
    if config.executor.name == "ray":
        return max(1.0, config.executor.cpus_per_trial / config.training.devices)
    return max(1.0, default_workers("cpu") / (workers * config.training.devices))


@dataclass
class RunningTrial:
    """A running trial. Times are seconds since it began, by the clock of its worker, so that neither the worker's start
    nor a busy driver counts as training time.

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
        """The share of its epochs that are complete."""
        return self.last.get("epoch", 0.0) / self.cell.spec.recipe.epochs

    @property
    def timed(self) -> float:
        """Share of its epochs whose time is known."""
        return (self.last.get("epoch", 0.0) - self.first) / self.cell.spec.recipe.epochs

    @property
    def probed(self) -> bool:
        """Whether enough epochs are timed to predict the rest."""
        return self.timed >= PROBED and self.ended - self.begun >= PROBED_SECONDS

    def time_anew(self) -> None:
        """Forget the time of the epochs so far."""
        self.first, self.begun = self.last.get("epoch", 0.0), self.ended


class Remaining:
    """The trials of a study that have not ended, with predictions corrected by the epochs and trials that have.

    Trials of a network that has been trained already take what that took, others what was expected of them, times the
    pace of the epochs so far, and what the first epochs took beyond that pace: the set-up.

    Attributes:
        expected: trial id → seconds of those that have not ended.
        unasked: seconds of each trial that a search will ask for beside them.
        running: trials that train here.
        probed: whether the first trials have told their pace.
    """

    def __init__(self, plan: Plan, expectation: Expectation) -> None:
        self.expected = dict(expectation.seconds)
        self.unasked = list(expectation.unasked)
        self.running: dict[str, RunningTrial] = {}
        self.probed = not plan.todo
        self.keys = {trial_id: pace_key(cell.spec.config()) for trial_id, cell in plan.trials.items()}
        self.known: dict[str, list[float]] = {}  # what trainings of a network have taken here
        self.measured = [0.0, 0.0]  # of trials that have ended: seconds expected of their epochs, and taken
        self.begins: deque[tuple[float, float]] = deque(maxlen=BEGINS)  # seconds expected of first epochs, and taken

    def ask(self, cell: Cell, seconds: float) -> None:
        """Add a trial that is expected to take so many seconds."""
        self.expected[cell.trial_id] = seconds
        self.keys[cell.trial_id] = pace_key(cell.spec.config())

    def epoch(self, cell: Cell, entry: dict[str, float], elapsed: float) -> bool:
        """Note an epoch, `elapsed` seconds after the trial began; returns whether the pace has just become known."""
        trial = self.running[cell.trial_id]
        starts = not trial.last
        trial.last, trial.ended = entry, elapsed
        if starts:
            if expected := self.expected.get(cell.trial_id):
                self.begins.append((expected / cell.spec.recipe.epochs, elapsed))
            for each in [trial] if self.probed else self.running.values():
                each.time_anew()
        if self.probed or not all(trial.probed for trial in self.running.values()):
            return False
        self.probed = True
        return True

    def leave(self, cell: Cell, seconds: float | None = None) -> None:
        """Remove a trial from those that run. `seconds` is its whole time if it trained without interruption, and is
        used for others of its network."""
        expected = self.expected.pop(cell.trial_id, 0.0)
        trial = self.running.pop(cell.trial_id, None)
        if trial and expected:
            self.measured[0] += trial.timed * expected
            self.measured[1] += trial.ended - trial.begun
        if seconds is not None:
            self.known.setdefault(self.keys.get(cell.trial_id, ""), []).append(seconds)

    def stop_probing(self) -> None:
        """Mark the pace as known, because a whole trial has ended."""
        self.probed = True

    def total(self, workers: int) -> float:
        """Seconds to the end on so many workers, as far as is known."""
        expected, taken = self.measured
        for trial_id, trial in self.running.items():  # weighted by the share that is complete
            if self.expected.get(trial_id):
                expected += trial.timed * self.expected[trial_id]
                taken += trial.ended - trial.begun
        pace = taken / expected if expected else 1.0
        beyond = [took - pace * expected for expected, took in self.begins]
        set_up = max(0.0, statistics.median(beyond)) if beyond else 0.0
        rest = []
        for trial_id in dict.fromkeys([*self.running, *self.expected]):  # running trials have a worker already
            if trial_id in self.expected:
                done = self.running[trial_id].done if trial_id in self.running else 0.0
                known = self.known.get(self.keys[trial_id])
                unknown = pace * self.expected[trial_id] + (0.0 if done else set_up)
                rest.append((statistics.median(known) if known else unknown) * (1 - done))
        return spread([*rest, *(pace * seconds + set_up for seconds in self.unasked)], workers)
