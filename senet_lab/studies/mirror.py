"""Shows a study's finished trials as an Optuna study, in the same database.

Optuna's dashboard, importances and plots then serve ablations, too. The store stays the truth: what is missing here is
added the next time, and nothing is read back but which trials are here already.
"""

from __future__ import annotations

import hashlib
import warnings
from typing import Any

import optuna
import sqlalchemy.exc
from optuna.distributions import CategoricalDistribution, IntDistribution
from optuna.trial import TrialState, create_trial

from senet_lab.config import RunError
from senet_lab.studies.plan import Cell, Plan
from senet_lab.studies.store import DONE, Store, first_line

OBJECTIVES = ("validation error (%)", "params", "multiply-adds")


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
        # Rows are Optuna's categories, which it fixes for good: other rows under the same name are another study.
        self.name = f"{name} ({short_hash(repr(self.labels))})"
        self.study: optuna.Study | None = None

    def update(self, records: dict[str, dict[str, Any]]) -> None:
        """Add the trials that the Optuna study lacks. A driver that finds another one doing so leaves it to that one.

        Args:
            records: trial id → record, of the trials that have ended.
        """
        lock = f"mirror {short_hash(self.name)}"
        if not self.store.claim(lock):
            return
        try:
            self.study = self.study or self.open()
            here = {(trial.params["row"], trial.params["seed"]) for trial in self.study.get_trials(deepcopy=False)}
            for cell in self.plan.cells:
                if cell.trial_id in records and (cell.row.label, cell.seed) not in here:
                    self.study.add_trial(self.frozen(cell, records[cell.trial_id]))
        except sqlalchemy.exc.DatabaseError as error:
            raise RunError(f"the store {self.store.url} failed: {first_line(error)}") from error
        finally:
            self.store.release(lock)

    def open(self) -> optuna.Study:
        """The Optuna study, made if there is none."""
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)  # of metric names
            storage = optuna.storages.RDBStorage(self.store.url, engine_kwargs={"connect_args": self.store.patience})
            study = optuna.create_study(
                study_name=self.name, storage=storage, directions=["minimize"] * len(OBJECTIVES), load_if_exists=True
            )
            if study.metric_names is None:
                study.set_metric_names(list(OBJECTIVES))
        return study

    def frozen(self, cell: Cell, record: dict[str, Any]) -> optuna.trial.FrozenTrial:
        """A cell's trial; one user attribute holds all that a dashboard shows of it, since each costs a query."""
        done = record["state"] == DONE
        outcome = record["metrics"] if done else {"reason": record["reason"]}
        return create_trial(
            state=TrialState.COMPLETE if done else TrialState.FAIL,
            params={"row": cell.row.label, "seed": cell.seed},
            distributions={"row": CategoricalDistribution(self.labels), "seed": IntDistribution(0, 2**31 - 1)},
            values=[record["metrics"]["val_error"], cell.row.cost.params, cell.row.cost.macs] if done else None,
            user_attrs={"trial": {"id": cell.trial_id, **outcome}},
        )


def short_hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:8]
