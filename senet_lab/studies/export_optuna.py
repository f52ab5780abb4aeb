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
from optuna.trial import FrozenTrial, TrialState, create_trial
from sqlalchemy.exc import SQLAlchemyError

from senet_lab.config import RunError
from senet_lab.objectives import OBJECTIVES
from senet_lab.studies.database import PARTING_SECONDS, PATIENCE_SECONDS, database_message
from senet_lab.studies.export_facts import ExportedStudy, OptunaPoint
from senet_lab.studies.store import DONE, HEARTBEAT_SECONDS, Record, Store

TEST_ERROR = "test error (%)"
Key = tuple[str, tuple[str, ...]]
LOCK = "mirror"  # claimed like a trial by whoever writes to Optuna's tables


def write_optuna(
    studies: Sequence[ExportedStudy], store: Store, report: Callable[[int], None], patience: float = 0.0
) -> None:
    """Add to the Optuna studies the trials that are recorded and lacking, one process at a time.

    Args:
        studies: what is known of them.
        store: whose database holds all.
        report: called with the number of trials that are left, before the first and after each.
        patience: seconds to wait for another process that is writing.

    Raises:
        RunError: the tables cannot be written, or another process has not ended writing.
    """
    with one_writer(store, patience):
        store.retry(lambda: add_trials(studies, store, report))  # what a try that was cut off has added is there then


def add_trials(studies: Sequence[ExportedStudy], store: Store, report: Callable[[int], None]) -> None:
    todo = [each for study in studies for each in missing_trials(study, store)]
    report(len(todo))
    beat = time.monotonic()
    for number, (study, trial) in enumerate(todo, start=1):
        study.add_trial(trial)
        if time.monotonic() > beat + HEARTBEAT_SECONDS:
            store.beat()
            beat = time.monotonic()
        report(len(todo) - number)


def missing_trials(facts: ExportedStudy, store: Store) -> list[tuple[optuna.Study, FrozenTrial]]:
    """The trials that an Optuna study lacks; the study is made if there is none."""
    ended = store.finished(trial_id for point in facts.points for trial_id in point.trial_ids)
    points = [point for point in facts.points if ended >= set(point.trial_ids)]
    if not points:
        return []
    study = open_study(store, facts.optuna, [OBJECTIVES[name].title for name in facts.objectives])
    for name in facts.about.keys() - study.user_attrs.keys():
        study.set_user_attr(name, facts.about[name])
    here = {(*trial_key(trial), trial.state) for trial in study.get_trials(deepcopy=False)}
    points = [point for point in points if (*point_key(point), TrialState.COMPLETE) not in here]
    records = store.read(trial_id for point in points for trial_id in point.trial_ids)
    seeds = IntDistribution(0, max(point.params.get("seed", 0) for point in facts.points))
    # A dashboard's axes are as wide as these, and Optuna lets the range of the seeds grow.
    kinds = {name: CategoricalDistribution(levels) for name, levels in facts.levels.items()} | {"seed": seeds}
    trials = [frozen(facts, point, [records[each] for each in point.trial_ids], kinds) for point in points]
    # One that had failed and was trained again is here twice, as Optuna deletes none.
    return [(study, trial) for trial in trials if (*trial_key(trial), trial.state) not in here]


def frozen(
    facts: ExportedStudy, point: OptunaPoint, records: Sequence[Record], kinds: Mapping[str, BaseDistribution]
) -> FrozenTrial:
    """A point's trial. What a dashboard sorts by is a user attribute of its own; one more, `trial`, holds the rest,
    since each costs a query."""
    done = all(record["state"] == DONE for record in records)
    shown = dict(point.shown)
    if "trial" not in shown:
        (record,) = records
        if done:
            shown[TEST_ERROR] = record["metrics"]["test_error"]
        shown["trial"] = {"id": point.trial_ids[0]} | (record["metrics"] if done else {"reason": record["reason"]})
    trial = create_trial(
        state=TrialState.COMPLETE if done else TrialState.FAIL,
        params=point.params,
        distributions={name: kinds[name] for name in point.params},
        values=[objective_value(name, point, records) for name in facts.objectives] if done else None,
        user_attrs=shown,
    )
    times = [(record["started"], record["seconds"]) for record in records if {"started", "seconds"} <= record.keys()]
    if len(times) == len(records):  # else it would say when it was added
        trial.datetime_start = datetime.fromtimestamp(min(started for started, _ in times))
        trial.datetime_complete = datetime.fromtimestamp(max(started + seconds for started, seconds in times))
    return trial


def objective_value(objective: str, point: OptunaPoint, records: Sequence[Record]) -> float:
    """What a point comes to: its mean over the trainings, where it takes them to know it."""
    each = OBJECTIVES[objective]
    if not each.trained:
        return float(point.costs[objective])
    return statistics.fmean(record["metrics"][each.column] for record in records)


def point_key(point: OptunaPoint) -> Key:
    """The identity of a point, apart from its outcome: row and trainings."""
    return str(point.params.get("row")), point.trial_ids


def trial_key(trial: FrozenTrial) -> Key:
    """The identity of an Optuna trial."""
    about: dict[str, Any] = trial.user_attrs.get("trial", {})
    return str(trial.params.get("row")), tuple(about.get("ids", [about.get("id")]))


@contextmanager
def one_writer(store: Store, patience: float) -> Iterator[None]:
    """Be the only process that writes to Optuna's tables during the body.

    Args:
        store: whose database holds them.
        patience: seconds to wait for another process.

    Raises:
        RunError: the tables cannot be written, or another process has not ended writing.
    """
    until = time.monotonic() + patience
    while not store.claim(LOCK):
        if time.monotonic() > until:
            raise RunError(f"another process is writing to the Optuna studies in {store.name}")
        time.sleep(0.1)
    try:
        yield
    except (SQLAlchemyError, optuna.exceptions.StorageInternalError, RuntimeError) as error:
        # RuntimeError: tables of an Optuna that this one cannot read
        raise RunError(f"the Optuna study in {store.name} cannot be written: {database_message(error)}") from error
    finally:
        if sys.exc_info()[0] is None:
            store.release(LOCK, PATIENCE_SECONDS)
        else:
            with suppress(RunError):  # what ends the study is another fault, or the user, who waits
                store.release(LOCK, PARTING_SECONDS)


def open_study(store: Store, name: str, metrics: list[str]) -> optuna.Study:
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
