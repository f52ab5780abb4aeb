"""The aim of a study, fixed before its first training and kept in its `trials.csv`."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pandas as pd

from senet_lab.reports.cells import present

if TYPE_CHECKING:
    from senet_lab.config import Config

UNITS = {"error": "points", "loss": "nats"}
DIGITS = {"error": 2, "loss": 4}  # behind the point, where people read them
COLUMNS = {  # attribute → column of `trials.csv`
    "metric": "metric",
    "margin": "margin",
    "failures": "failures",
    "least": "settle_min",
    "most": "settle_max",
    "first": "first_seed",
    "earlier": "earlier_plans",
    "plan": "plan",
}


@dataclass(frozen=True)
class Aim:
    """The metric, the margin and the number of seeds of a study's verdicts.

    Attributes:
        metric: `error` (of the test images, percent) or `loss` (−log p of the right class, nats, their mean).
        margin: smallest difference that matters, in the metric's unit; None where nobody said.
        failures: what a failed training is: `untested`, like its row, or `chance`, as wrong as guessing.
        least, most: seeds of a row at its first look and at its last (`seeds=settle`); 0 where their number is fixed.
        first: the first seed; those before it had been seen when the study was planned.
        earlier: names of earlier plans on these rows, in a line; empty if there are none.
        plan: what the store has the plan under.
    """

    metric: str = "error"
    margin: float | None = None
    failures: str = "untested"
    least: int = 0
    most: int = 0
    first: int = 0
    earlier: str = ""
    plan: str = ""

    @property
    def settles(self) -> bool:
        """Whether each row has as many seeds as its verdict needs."""
        return self.most > 0

    @property
    def unit(self) -> str:
        """Of the metric's differences."""
        return UNITS[self.metric]

    def guessing(self, classes: int) -> float:
        """The error (or loss) of guessing among so many classes."""
        return 100 * (1 - 1 / classes) if self.metric == "error" else math.log(classes)

    def columns(self) -> dict[str, Any]:
        """As the columns of `trials.csv`; those of seeds that settle are empty where their number is fixed."""
        always = ("metric", "margin", "failures")
        return {
            column: getattr(self, name) if self.settles or name in always else None for name, column in COLUMNS.items()
        }


def aim_of(trials: pd.DataFrame) -> Aim:
    """The aim that a study's trials name; the defaults of earlier versions where they name none."""
    values = {name: value for name, column in COLUMNS.items() for value in present(trials.get(column, ()))[:1]}
    return Aim(**values | {name: int(values[name]) for name in ("least", "most", "first") if name in values})


def aim_from_config(config: Config, settles: bool) -> Aim:
    """The aim of a study by the words for it, whose seeds may settle."""
    seeds = (config.settle.min, config.settle.max) if settles else (0, 0)
    return Aim(config.metric, config.margin, config.failures, *seeds)
