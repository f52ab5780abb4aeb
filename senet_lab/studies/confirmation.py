"""Which designs of a search are trained again, with seeds that chose nothing.

The best of many designs owes its place to luck, too: its validation error is smaller than it would be again. So those
that are on the front, or would be if their error were one standard error smaller, are trained with fresh seeds. Their
test errors, one reading a training, are what is published.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from senet_lab.reports.pareto import on_front
from senet_lab.studies.space import Candidate

MOST = 12  # designs; the front itself is always confirmed


def designs_to_confirm(
    values: Mapping[Candidate, Sequence[float]], errors: Sequence[int], images: int
) -> list[Candidate]:
    """The designs on the front, then those near it, the most accurate first.

    Args:
        values: design → its objectives.
        errors: place of the validation error among the objectives, if it is one of them.
        images: that an error is counted on.
    """
    if not values:
        return []
    designs, points = list(values), np.array(list(values.values()))
    best = on_front(points)
    near = []
    for at, design in enumerate(designs):
        for column in [] if best[at] else errors:
            lucky = points.copy()
            lucky[at, column] -= standard_error(points[at, column], images)
            if on_front(lucky)[at]:
                near.append((float(points[at, column]), repr(design), design))
    front = [design for design, wins in zip(designs, best, strict=True) if wins]
    return front + [design for _, _, design in sorted(near)][: max(MOST - len(front), 0)]


def standard_error(error: float, images: int) -> float:
    """Of an error in percent that was counted on so many images."""
    share = min(max(error / 100, 1 / images), 1 - 1 / images)
    return 100 * math.sqrt(share * (1 - share) / images)
