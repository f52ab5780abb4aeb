"""Shows a search's designs as an Optuna study, in the same database, for its dashboard, importances and plots.

One trial a design, with what varies as its parameters and the means over its seeds as its values. Nothing is read back
but which designs are there already; the search itself is played from the records (`proposals`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import optuna
from optuna.distributions import CategoricalDistribution
from optuna.trial import TrialState, create_trial

from senet_lab.objectives import OBJECTIVES
from senet_lab.studies.mirror import one_writer, opened, short_hash
from senet_lab.studies.space import Design, Space, label
from senet_lab.studies.store import Store

Values = Sequence[float] | None


class SearchMirror:
    """A search's designs as Optuna shows them.

    Args:
        space: the search's.
        objectives: keys of `OBJECTIVES`.
        name: what the Optuna study is called.
        store: whose database holds both.
    """

    def __init__(self, space: Space, objectives: Sequence[str], name: str, store: Store) -> None:
        self.space = space
        self.titles = [OBJECTIVES[each].title for each in objectives]
        self.store = store
        self.distributions = {key: CategoricalDistribution(levels) for key, levels in space.varied.items()}
        # Optuna fixes levels for good: other ones under the same name are another study.
        self.name = f"{name} ({short_hash(repr((sorted(space.varied.items()), self.titles)))})"
        self.study: optuna.Study | None = None

    def update(
        self, values: Mapping[Design, Values], trial_ids: Mapping[Design, list[str]], patience: float = 0
    ) -> None:
        """Add the designs that the Optuna study lacks, one driver at a time.

        Args:
            values: design → its objectives (None if a training failed), of the designs that have ended.
            trial_ids: design → ids of its trainings.
            patience: seconds to wait for another driver that is adding; then it is left for the next time.
        """
        with one_writer(self.store, patience) as ours:
            if ours:
                self.store.patiently(lambda: self.add(values, trial_ids))

    def add(self, values: Mapping[Design, Values], trial_ids: Mapping[Design, list[str]]) -> None:
        """Add what is lacking; what a try that was cut off has added is there at the next one."""
        self.study = self.study or opened(self.store, self.name, self.titles)
        trials = self.study.get_trials(deepcopy=False)
        here = {(tuple(trial.user_attrs["trial"]["ids"]), trial.state) for trial in trials}
        for design, found in values.items():
            state = TrialState.FAIL if found is None else TrialState.COMPLETE
            if (tuple(trial_ids[design]), state) not in here:
                self.study.add_trial(self.frozen(design, found, trial_ids[design]))

    def frozen(self, design: Design, values: Values, trial_ids: list[str]) -> optuna.trial.FrozenTrial:
        """A design's trial; one user attribute holds all that a dashboard shows of it, since each costs a query."""
        params = self.space.params(design)
        return create_trial(
            state=TrialState.FAIL if values is None else TrialState.COMPLETE,
            params={key: params[key] for key in self.distributions},
            distributions=dict(self.distributions),
            values=values,
            user_attrs={"trial": {"design": label(self.space, design), "ids": trial_ids}},
        )
