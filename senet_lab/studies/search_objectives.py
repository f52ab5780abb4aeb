"""What a design of a search is worth: its objectives, its costs, and how far these are over the budget."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import TYPE_CHECKING

from senet_lab.config import Budget, Search, UserError
from senet_lab.objectives import OBJECTIVES
from senet_lab.studies.proposals import CHOICES
from senet_lab.studies.space import Candidate

if TYPE_CHECKING:
    from senet_lab.models.cost import Cost
    from senet_lab.studies.pricing import PricedSpace
    from senet_lab.studies.stopwatch import Stopwatch

MOST = {"gp": 3}  # objectives that a sampler can serve: expected hypervolumes take too long beyond


def check_search(search: Search, epochs: int) -> None:
    """A UserError for objectives that are none, or contradict each other, for a sampler that cannot serve them, and for
    rungs that a training of so many epochs does not have."""
    names = search.objectives
    for name in names:
        if name not in OBJECTIVES:
            raise UserError(f"search.objectives: there is no objective '{name}'; there are {', '.join(OBJECTIVES)}")
        if names.count(name) > 1:
            raise UserError(f"search.objectives: {name} is there twice")
    if "val_error" in names and "val_accuracy" in names:
        raise UserError("search.objectives: val_error and val_accuracy are one objective; leave one of them out")
    if not any(OBJECTIVES[name].trained for name in names):
        raise UserError(
            f"search.objectives: {', '.join(names) or 'nothing'} is known without training; add val_error, "
            "val_accuracy or val_loss"
        )
    if search.sampler not in CHOICES:
        raise UserError(f"search.sampler: there is no sampler '{search.sampler}'; there are {', '.join(CHOICES)}")
    most = MOST.get(search.sampler)
    if most is not None and len(names) > most:
        able = ", ".join(name for name in CHOICES if name not in MOST)
        raise UserError(
            f"search.sampler: {search.sampler} serves {most} objectives at most, and {', '.join(names)} are "
            f"{len(names)}; there are {able}"
        )
    for key, value in {"trials": search.trials, "pending": search.pending}.items():
        if not 1 <= value <= 1_000_000:
            raise UserError(f"search.{key}={value} is not between 1 and 1000000")
    if not 0 <= search.confirm <= 1000:
        raise UserError(f"search.confirm={search.confirm} is not between 0 and 1000")
    rungs = search.rungs
    if any(not 1 <= rung < epochs for rung in rungs) or rungs != sorted(set(rungs)):
        raise UserError(
            f"search.rungs={rungs}: these are not numbers of epochs, each more than the one before, below "
            f"recipe.epochs={epochs}"
        )
    if not 0 < search.keep < 1:
        raise UserError(f"search.keep={search.keep} is not a share between 0 and 1")
    if not 1 <= search.strata <= 100:
        raise UserError(f"search.strata={search.strata} is not between 1 and 100")
    if not 0 <= search.seed < 2**31:
        raise UserError(f"search.seed={search.seed} is not between 0 and 2147483647")


def limits(budget: Budget, plain: Mapping[str, float]) -> dict[str, float]:
    """Metric → the most that a design may cost, for each that is limited.

    Args:
        budget: as the user has it.
        plain: cost of the plain network; needs `latency` only where that is limited.

    Raises:
        UserError: for a limit that is no number above 0, with or without an x behind it.
    """
    most = {}
    for metric, value in vars(budget).items():
        if value is None:
            continue
        number, relative = re.fullmatch(r"(.*?)(x?)", str(value), re.DOTALL).groups()  # type: ignore[union-attr]
        try:
            limit = math.nan if isinstance(value, bool) else float(number)
        except ValueError:
            limit = math.nan
        if not 0 < limit < math.inf:
            raise UserError(f"budget.{metric}={value} is neither a number above 0 nor one such as 1.05x")
        most[metric] = limit * plain[metric] if relative else limit
    return most


def latency_matters(search: Search, budget: Budget) -> bool:
    """Whether networks must be timed."""
    return "latency" in search.objectives or budget.latency is not None


class SearchObjectives:
    """Costs and objectives of the designs of one search.

    Args:
        asked: the search.
        budget: its limits, as the user has them.
        priced: its space.
        stopwatch: where latency matters.

    Attributes:
        limits: metric → the most that a design may cost.

    Raises:
        UserError: for a limit that is no number.
    """

    def __init__(self, asked: Search, budget: Budget, priced: PricedSpace, stopwatch: Stopwatch | None) -> None:
        self.asked = asked
        self.priced = priced
        self.stopwatch = stopwatch
        latency = {} if stopwatch is None else {"latency": stopwatch.plain}
        self.limits = limits(budget, {**costs_of(priced.plain.row.cost), **latency})

    def cost(self, design: Candidate) -> dict[str, float]:
        """What a design costs, by metric; the latency only where it matters."""
        cost = self.priced.space.cost(design)
        if self.stopwatch is not None:
            cost["latency"] = self.stopwatch.milliseconds(self.priced.row(design))
        return cost

    def excess(self, design: Candidate) -> dict[str, float]:
        """By how much of each limit a design is over it; 0 or less is within."""
        cost = self.cost(design) if self.limits else {}
        return {f"budget.{metric}": cost[metric] / limit - 1 for metric, limit in self.limits.items()}

    def values(self, design: Candidate, metrics: Sequence[Mapping[str, float]]) -> list[float]:
        """The objectives of a design, of what its trainings came to, one mapping a seed: means over the seeds, and
        costs."""
        cost = self.cost(design)
        return [
            fmean(each[OBJECTIVES[name].column] for each in metrics) if OBJECTIVES[name].trained else cost[name]
            for name in self.asked.objectives
        ]

    def error(self, metrics: Sequence[Mapping[str, float]]) -> float:
        """What designs are ranked by at a rung: the first objective that is trained, mean over the seeds."""
        first = next(name for name in self.asked.objectives if OBJECTIVES[name].trained)
        return fmean(each[OBJECTIVES[first].column] for each in metrics)

    def columns(self, cost: Cost) -> dict[str, float]:
        """What `trials.csv` has of a network's cost beside the columns of every study, by column."""
        asked = {name: value for name, value in costs_of(cost).items() if name in self.asked.objectives}
        return {OBJECTIVES[name].column: value for name, value in asked.items() if name not in ("params", "macs")}


def costs_of(cost: Cost) -> dict[str, float]:
    """Cost of a network, or of a stage, by objective."""
    return {name: each.cost(cost) for name, each in OBJECTIVES.items() if each.cost}
