"""What a search is after: its objectives, and what a design may cost. Knows no torch."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from senet_lab.config import Budget, Search, UserError
from senet_lab.studies.asking import CHOICES

Metrics = Mapping[str, float]  # val_error, val_loss, params, macs, latency


@dataclass(frozen=True)
class Objective:
    """One thing that a search makes small.

    Attributes:
        title: what it is, with its unit.
        value: of a design, from its metrics; the smaller, the better.
        trained: whether it takes a training to know it.
    """

    title: str
    value: Callable[[Metrics], float]
    trained: bool


def pick(name: str) -> Callable[[Metrics], float]:
    return lambda metrics: metrics[name]


OBJECTIVES: dict[str, Objective] = {
    "val_error": Objective("validation error (%)", pick("val_error"), True),
    "val_accuracy": Objective("validation error (%)", pick("val_error"), True),  # the same order, turned round
    "val_loss": Objective("validation loss", pick("val_loss"), True),
    "params": Objective("params", pick("params"), False),
    "macs": Objective("multiply-adds", pick("macs"), False),
    "latency": Objective("latency (ms)", pick("latency"), False),
}
COSTS = ("params", "macs", "latency")
MOST = {"gp": 3}  # objectives that a sampler can serve: expected hypervolumes take too long beyond


def check(search: Search, epochs: int) -> None:
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
    found = {}
    for metric in COSTS:
        value = getattr(budget, metric)
        if value is None:
            continue
        number, relative = re.fullmatch(r"(.*?)(x?)", str(value), re.DOTALL).groups()  # type: ignore[union-attr]
        try:
            limit = math.nan if isinstance(value, bool) else float(number)
        except ValueError:
            limit = math.nan
        if not 0 < limit < math.inf:
            raise UserError(f"budget.{metric}={value} is neither a number above 0 nor one such as 1.05x")
        found[metric] = limit * plain[metric] if relative else limit
    return found


def latency_matters(search: Search, budget: Budget) -> bool:
    """Whether networks must be timed."""
    return "latency" in search.objectives or budget.latency is not None
