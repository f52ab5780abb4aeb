"""What a study is to find out, as it stands in its `trials.csv`: decided before its first training."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import pandas as pd

from senet_lab.reports.trials import present

UNITS = {"error": "points", "loss": "nats"}
DIGITS = {"error": 2, "loss": 4}  # behind the point, where people read them


@dataclass(frozen=True)
class Aim:
    """What verdicts are about, and when a row has enough seeds.

    Attributes:
        metric: `error` (of the test images, percent) or `loss` (−log p of the right class, nats, their mean).
        margin: smallest difference that matters, in the metric's unit; None where nobody said.
        least, most: seeds of a row at its first look and at its last (`seeds=settle`); 0 where their number is fixed.
        first: the first seed; those before it had been seen when the study was planned.
        earlier: names of earlier plans on these rows, in a line; empty if there are none.
        plan: what the store has the plan under.
    """

    metric: str = "error"
    margin: float | None = None
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
        """What a training that only guesses comes to."""
        return 100 * (1 - 1 / classes) if self.metric == "error" else math.log(classes)

    def columns(self) -> dict[str, Any]:
        """As the columns of `trials.csv`."""
        own = (self.least, self.most, self.first, self.earlier, self.plan)
        settling = own if self.settles else (None, None, None, "", "")
        names = ("settle_min", "settle_max", "first_seed", "earlier_plans", "plan")
        return {"metric": self.metric, "margin": self.margin, **dict(zip(names, settling, strict=True))}


def of(trials: pd.DataFrame) -> Aim:
    """The aim of a study's trials; that of an earlier lab where they do not say."""

    def one(name: str, otherwise: Any) -> Any:
        return next(iter(present(trials.get(name, ()))), otherwise)

    return Aim(
        metric=one("metric", "error"),
        margin=one("margin", None),
        least=int(one("settle_min", 0)),
        most=int(one("settle_max", 0)),
        first=int(one("first_seed", 0)),
        earlier=one("earlier_plans", ""),
        plan=one("plan", ""),
    )
