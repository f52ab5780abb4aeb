"""Shows a study's finished trials as an Optuna study, in the same database.

Optuna's dashboard, importances and plots then serve ablations, too. The store stays the truth: what is missing here is
added the next time, and nothing is read back but which trials are here already. Trials that an older version of the lab
added stay as they are: Optuna changes none that has ended.
"""

from __future__ import annotations

import hashlib
import sys
import time
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime

import optuna
from optuna.distributions import CategoricalDistribution, IntDistribution
from optuna.trial import TrialState, create_trial
from sqlalchemy.exc import SQLAlchemyError

from senet_lab.config import RunError, flat
from senet_lab.studies.plan import Cell, Plan
from senet_lab.studies.store import DONE, FAILED, PARTING_SECONDS, PATIENCE_SECONDS, Record, Store, said_by

OBJECTIVES = ("validation error (%)", "params", "multiply-adds")
TEST_ERROR = "test error (%)"
STATES = {DONE: TrialState.COMPLETE, FAILED: TrialState.FAIL}
Key = tuple[str | None, str | None, TrialState]
LOCK = "mirror"  # claimed like a trial by whoever writes to Optuna's tables


class Mirror:
    """A study's trials as Optuna shows them.

    Args:
        plan: the study.
        name: what the Optuna study is called.
        store: whose database holds both.
    """

    def __init__(self, plan: Plan, name: str, store: Store) -> None:
        self.plan = plan
        self.store = store
        self.labels = [row.label for row in plan.rows]
        self.first = 0 if plan.facts.validation else 1  # the objective that it begins with
        # Rows are Optuna's categories, which it fixes for good: other rows under the same name are another study. So
        # are rows that train something else.
        first = min((cell.seed for cell in plan.cells), default=0)
        told = [(cell.row.label, cell.with_seed(0).trial_id) for cell in plan.cells if cell.seed == first]
        self.name = f"{name} ({short_hash(repr(told))})"
        self.study: optuna.Study | None = None
        # Of a study of thousands of trials, what is here and what is not yet is too much to look through at each one.
        self.here: set[Key] = set()
        self.read = 0  # trials of the Optuna study that are in `here`
        self.lacking = plan.cells

    def grow(self, plan: Plan) -> None:
        """The plan has more cells than before, or fewer."""
        there = {cell.trial_id for cell in self.plan.cells}
        self.lacking += [cell for cell in plan.cells if cell.trial_id not in there]
        self.plan = plan

    def update(self, records: dict[str, Record], patience: float = 0.0) -> None:
        """Add the trials that the Optuna study lacks, one driver at a time.

        Args:
            records: trial id → record, of the trials that have ended.
            patience: seconds to wait for another driver that is adding; then it is left for the next time.
        """
        with one_writer(self.store, patience) as ours:
            if ours:
                self.store.patiently(lambda: self.add(records))

    def add(self, records: dict[str, Record]) -> None:
        """Add what is lacking; what a try that was cut off has added is there at the next one."""
        self.study = self.study or self.open()
        trials = self.study.get_trials(deepcopy=False)  # in order of their numbers, and never fewer than before
        self.here.update(map(key_of, trials[self.read :]))
        self.read = len(trials)
        for cell in [cell for cell in self.lacking if cell.trial_id in records]:
            record = records[cell.trial_id]
            if (cell.row.label, cell.trial_id, STATES[record["state"]]) not in self.here:
                self.study.add_trial(self.frozen(cell, record))
        self.lacking = [cell for cell in self.lacking if cell.trial_id not in records]

    def open(self) -> optuna.Study:
        """The Optuna study, made if there is none."""
        study = opened(self.store, self.name, list(OBJECTIVES[self.first :]))
        about = self.about()
        for name in about.keys() - study.user_attrs.keys():
            study.set_user_attr(name, about[name])
        return study

    def about(self) -> dict[str, str]:
        """What the dashboard says of the study."""
        rows, study = self.plan.rows, self.plan.config.study
        told = {
            "title": self.plan.title,
            "data": listed(row.data for row in rows),
            "backbone": listed(row.config.backbone for row in rows),
            "recipe": listed(row.recipe for row in rows),
            "factor": study.factor if study else "",
            "baseline": listed(row.baseline for row in rows) if study else "",
        }
        return {name: text for name, text in told.items() if text}

    def frozen(self, cell: Cell, record: Record) -> optuna.trial.FrozenTrial:
        """A cell's trial. What a dashboard sorts by is a user attribute of its own; one more holds the rest, since each
        costs a query."""
        done = record["state"] == DONE
        outcome = record["metrics"] if done else {"reason": record["reason"]}
        study = self.plan.config.study
        shown = {study.factor: level(cell, study.factor)} if study else {}
        if done:
            shown[TEST_ERROR] = record["metrics"]["test_error"]
        validated = [] if self.first else [outcome.get("val_error", 0)]
        # A dashboard's axes are as wide as the distributions. Optuna lets this range grow with the seeds.
        most = max(cell.seed for cell in self.plan.cells)
        trial = create_trial(
            state=STATES[record["state"]],
            params={"row": cell.row.label, "seed": cell.seed},
            distributions={"row": CategoricalDistribution(self.labels), "seed": IntDistribution(0, most)},
            values=[*map(float, validated), cell.row.cost.params, cell.row.cost.macs] if done else None,
            user_attrs={**shown, "trial": {"id": cell.trial_id, **outcome}},
        )
        if "started" in record and "seconds" in record:  # else it would say when it was added
            trial.datetime_start = datetime.fromtimestamp(record["started"])
            trial.datetime_complete = datetime.fromtimestamp(record["started"] + record["seconds"])
        return trial


def key_of(trial: optuna.trial.FrozenTrial) -> Key:
    """What tells a trial that is here: row, id and state. One that had failed and was trained again is here twice, as
    Optuna deletes none."""
    return trial.params.get("row"), trial.user_attrs.get("trial", {}).get("id"), trial.state


@contextmanager
def one_writer(store: Store, patience: float) -> Iterator[bool]:
    """Whether it is ours to write to Optuna's tables, for the time of the body: one driver at a time does.

    Args:
        store: whose database holds them.
        patience: seconds to wait for another driver.

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


def listed(texts: Iterable[str]) -> str:
    """Each of the texts once."""
    return ", ".join(dict.fromkeys(texts))


def level(cell: Cell, factor: str) -> str:
    """A row's level of the factor, in words; `none` where the row has no SE to have one."""
    config = cell.row.config
    if factor.split(".")[0] == "se" and config.se is None:
        return "none"
    return "SE" if factor == "se" else str(flat(config)[factor])


def short_hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:8]
