"""What a search can make small, each declared here: a further one is a further entry.

Knows no torch: fronts are made from `trials.csv` by the same entries.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Objective:
    """One thing that a search makes small.

    Attributes:
        title: what it is, with its unit, on axes and dashboards.
        heading: the same over a table's column.
        column: its name in `trials.csv` and among a trial's metrics.
        trained: whether it takes a training to know it.
        cost: of a network's cost (`models.cost.Cost`), what adds up over its stages; None of what is measured.
    """

    title: str
    heading: str
    column: str
    trained: bool = False
    cost: Callable[[Any], float] | None = None


OBJECTIVES: dict[str, Objective] = {
    "val_error": Objective("validation error (%)", "validation error %", "val_error", trained=True),
    # The same order, turned round.
    "val_accuracy": Objective("validation error (%)", "validation error %", "val_error", trained=True),
    "val_loss": Objective("validation loss", "validation loss", "val_loss", trained=True),
    "params": Objective("params", "params", "params", cost=lambda cost: cost.params),
    "macs": Objective("multiply-adds", "multiply-adds", "macs", cost=lambda cost: cost.macs),
    "latency": Objective("latency (ms)", "latency ms", "latency_ms"),
}
COSTS = tuple(name for name, each in OBJECTIVES.items() if not each.trained)
