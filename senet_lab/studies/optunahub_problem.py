"""A table of designs of squeeze-and-excitation networks as a benchmark of OptunaHub: nothing trains.

The lab copies this file, as `__init__.py`, beside a `data.json`; it stands alone, and is not imported by the lab.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import optuna
import optunahub


class Problem(optunahub.benchmarks.BaseProblem):
    """The designs and what they came to, as means over the seeds.

    Args:
        objectives: what is to be small: "val_error" (percent), "val_loss" (nats), "params", "macs"; those of the search
            that made the table, if it is None.

    Raises:
        ValueError: for what is no objective.
    """

    def __init__(self, objectives: Sequence[str] | None = None) -> None:
        data = json.loads(Path(__file__).with_name("data.json").read_text())
        self.objectives = tuple(data["default"] if objectives is None else objectives)
        for name in self.objectives:
            if name not in data["objectives"]:
                raise ValueError(f"there is no objective {name!r}; there are {', '.join(data['objectives'])}")
        self.levels: dict[str, list[Any]] = data["levels"]
        values = zip(*(data["objectives"][name] for name in self.objectives), strict=True)
        self._values = dict(zip(itertools.product(*self.levels.values()), values, strict=True))

    @property
    def search_space(self) -> dict[str, optuna.distributions.BaseDistribution]:
        """One categorical distribution a parameter: reductions stage by stage, and words."""
        return {key: optuna.distributions.CategoricalDistribution(levels) for key, levels in self.levels.items()}

    @property
    def directions(self) -> list[optuna.study.StudyDirection]:
        """All objectives are minimised."""
        return [optuna.study.StudyDirection.MINIMIZE] * len(self.objectives)

    def evaluate(self, params: dict[str, Any]) -> float | tuple[float, ...]:
        """The objectives of a point."""
        values = self._values[tuple(params[key] for key in self.levels)]
        return values[0] if len(values) == 1 else values
