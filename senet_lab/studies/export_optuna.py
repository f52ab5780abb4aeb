"""Writes a study's records as an Optuna study, in the same database, for Optuna's dashboard, importances and plots.

The store stays the truth: what is missing here is added the next time, and nothing is read back but which trials are
here already. Trials that an older version of the lab added stay as they are: Optuna changes none that has ended.
"""

from __future__ import annotations

import statistics
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, IntDistribution
from optuna.trial import TrialState, create_trial
from sqlalchemy.exc import SQLAlchemyError

from senet_lab.config import RunError
from senet_lab.objectives import OBJECTIVES
from senet_lab.studies.database import PARTING_SECONDS, PATIENCE_SECONDS, said_by
from senet_lab.studies.export_facts import Exported, Point, Run
from senet_lab.studies.store import DONE, HEARTBEAT_SECONDS, Record, Store

TEST_ERROR = "test error (%)"
LOCK = "mirror"  # claimed like a trial by whoever writes to Optuna's tables
Key = tuple[str, tuple[str, ...], TrialState]


class OptunaExport:
    """The Optuna study of a study.

    Attributes:
        lacking: what it is not known to have.
        written: how many trials were added.
    """

    def __init__(self, facts: Exported, store: Store) -> None:
        self.facts = facts
        self.store = store
        self.lacking = list(facts.points)
        self.seeds = 0
        self.written = 0
        self.study: optuna.Study | None = None
        # Of a study of thousands of trials, what is here is too much to read at each pass.
        self.here: set[Key] = set()
        self.read = 0  # trials of the Optuna study that are in `here`

    def grow(self, runs: Sequence[Run], points: Sequence[Point]) -> None:
        self.lacking += points

    def todo(self) -> list[Point]:
        """The trials whose trainings have ended, as far as they are not known to be there."""
        ended = self.store.known(trial_id for point in self.lacking for trial_id in point.trial_ids)
        return [point for point in self.lacking if ended >= set(point.trial_ids)]

    def write(self, heard: Callable[[int], None], patience: float = 0.0) -> None:
        """Add what is recorded and lacking, one exporter at a time.

        Args:
            heard: called after each trial with the number of those that are left.
            patience: seconds to wait for another exporter; then it is left for the next time.

        Raises:
            RunError: the tables cannot be written.
        """
        todo = self.todo()
        if todo:
            records = self.store.read(trial_id for point in todo for trial_id in point.trial_ids)
            with one_writer(self.store, patience) as ours:
                if ours:
                    self.store.patiently(lambda: self.add(todo, records, heard))

    def add(self, ended: Sequence[Point], records: Mapping[str, Record], heard: Callable[[int], None]) -> None:
        """Add what is lacking; what a try that was cut off has added is there at the next one."""
        self.study = self.study or self.open()
        trials = self.study.get_trials(deepcopy=False)  # in order of their numbers, and never fewer than before
        self.here.update(map(self.key_of, trials[self.read :]))
        self.read = len(trials)
        self.seeds = max(self.seeds, *(point.params.get("seed", 0) for point in self.lacking))
        beat = time.monotonic()
        for number, point in enumerate(ended, start=1):
            trial = self.frozen(point, [records[trial_id] for trial_id in point.trial_ids])
            if self.key_of(trial) not in self.here:
                self.study.add_trial(trial)
                self.written += 1
            if time.monotonic() > beat + HEARTBEAT_SECONDS:
                self.store.beat()
                beat = time.monotonic()
            heard(len(ended) - number)
        done = {id(point) for point in ended}
        self.lacking = [point for point in self.lacking if id(point) not in done]

    def open(self) -> optuna.Study:
        """The Optuna study, made if there is none."""
        study = opened(self.store, self.facts.optuna, [OBJECTIVES[name].title for name in self.facts.objectives])
        for name in self.facts.about.keys() - study.user_attrs.keys():
            study.set_user_attr(name, self.facts.about[name])
        return study

    def frozen(self, point: Point, records: Sequence[Record]) -> optuna.trial.FrozenTrial:
        """A point's trial. What a dashboard sorts by is a user attribute of its own; one more, `trial`, holds the rest,
        since each costs a query."""
        done = all(record["state"] == DONE for record in records)
        shown, values = dict(point.shown), None
        if done:
            values = [self.value(name, point, records) for name in self.facts.objectives]
        if not self.facts.by_design:
            (record,) = records
            if done:
                shown[TEST_ERROR] = record["metrics"]["test_error"]
            outcome = record["metrics"] if done else {"reason": record["reason"]}
            shown["trial"] = {"id": point.trial_ids[0], **outcome}
        trial = create_trial(
            state=TrialState.COMPLETE if done else TrialState.FAIL,
            params=point.params,
            distributions={name: self.distribution(name) for name in point.params},
            values=values,
            user_attrs=shown,
        )
        times = [
            (record["started"], record["seconds"]) for record in records if {"started", "seconds"} <= record.keys()
        ]
        if len(times) == len(records):  # else it would say when it was added
            trial.datetime_start = datetime.fromtimestamp(min(started for started, _ in times))
            trial.datetime_complete = datetime.fromtimestamp(max(started + seconds for started, seconds in times))
        return trial

    def value(self, objective: str, point: Point, records: Sequence[Record]) -> float:
        """What a point comes to, its mean over the trainings where it takes them to know it."""
        each = OBJECTIVES[objective]
        if not each.trained:
            return float(point.costs[objective])
        return statistics.fmean(record["metrics"][each.column] for record in records)

    def distribution(self, name: str) -> BaseDistribution:
        """Of a parameter. A dashboard's axes are as wide as these, and Optuna lets the range of the seeds grow."""
        levels = self.facts.levels.get(name)
        return IntDistribution(0, self.seeds) if levels is None else CategoricalDistribution(levels)

    def key_of(self, trial: optuna.trial.FrozenTrial) -> Key:
        """What tells a trial that is here: row, trainings and state. One that had failed and was trained again is here
        twice, as Optuna deletes none."""
        about: dict[str, Any] = trial.user_attrs.get("trial", {})
        return str(trial.params.get("row")), tuple(about.get("ids", [about.get("id")])), trial.state


@contextmanager
def one_writer(store: Store, patience: float) -> Iterator[bool]:
    """Whether it is ours to write to Optuna's tables, for the time of the body: one exporter at a time does.

    Args:
        store: whose database holds them.
        patience: seconds to wait for another exporter.

    Raises:
        RunError: the tables cannot be written.
    """
    until = time.monotonic() + patience
    while not store.claim(LOCK):
        if time.monotonic() > until:
            yield False
            return
        time.sleep(0.1)
    try:
        yield True
    except (SQLAlchemyError, optuna.exceptions.StorageInternalError, RuntimeError) as error:
        # RuntimeError: tables of an Optuna that this one cannot read
        raise RunError(f"the Optuna study in {store.name} cannot be written: {said_by(error)}") from error
    finally:
        if sys.exc_info()[0] is None:
            store.release(LOCK, PATIENCE_SECONDS)
        else:
            with suppress(RunError):  # what ends the study is another fault, or the user, who waits
                store.release(LOCK, PARTING_SECONDS)


def opened(store: Store, name: str, metrics: list[str]) -> optuna.Study:
    """The Optuna study of that name, which minimises the metrics; made if there is none."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)  # of metric names
        options = {"connect_args": store.waits, "pool_pre_ping": True}
        storage = optuna.storages.RDBStorage(store.url, engine_kwargs=options)
        study = optuna.create_study(
            study_name=name, storage=storage, directions=["minimize"] * len(metrics), load_if_exists=True
        )
        if study.metric_names is None:
            study.set_metric_names(metrics)
    return study
