"""Trains the designs on and near a search's front again, with seeds that chose nothing.

The best of many designs owes its place to luck, too: its validation error is smaller than it would be again. So those
that are on the front, or would be if their error were one standard error smaller, and the two that everyone knows (no
SE, the paper's default) are trained with fresh seeds. Their test errors, one reading a training, are what is published.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from senet_lab.reports.front import on_front
from senet_lab.studies.plan import Cell, Plan

if TYPE_CHECKING:
    from senet_lab.studies.search import Search
    from senet_lab.studies.space import Design

MOST = 12  # designs; the front itself is always confirmed


def chosen(search: Search) -> list[Design]:
    """The designs on the front, then those near it, the most accurate first."""
    assert search.config.search is not None
    values = {
        design: found
        for design in search.asker.asked
        if search.complete(design) and (found := search.values(design)) is not None
    }
    designs, points = list(values), np.array(list(values.values()))
    if not designs:
        return []
    best = on_front(points)
    front = [design for design, wins in zip(designs, best, strict=True) if wins]
    errors = [at for at, name in enumerate(search.config.search.objectives) if name in ("val_error", "val_accuracy")]
    near = []
    for at, design in enumerate(designs):
        if best[at] or not errors:
            continue
        lucky = points.copy()
        error = points[at, errors[0]]
        lucky[at, errors[0]] -= standard_error(error, search.priced.facts.validation * search.seeds)
        if on_front(lucky)[at]:
            near.append((float(error), design))
    near.sort(key=lambda pair: (pair[0], repr(pair[1])))
    return front + [design for _, design in near][: max(MOST - len(front), 0)]


def standard_error(error: float, images: int) -> float:
    """Of an error in percent that was counted on so many images."""
    share = min(max(error / 100, 1 / images), 1 - 1 / images)
    return 100 * math.sqrt(share * (1 - share) / images)


def plan(search: Search, fixed: Plan) -> Plan:
    """What confirms a search that has ended.

    Args:
        search: it.
        fixed: the references outside its space.
    """
    assert search.config.search is not None
    known = [row for row in search.rows.values() if row.network in search.known.values()]
    rows = [search.rows[design] for design in chosen(search)]
    rows += [row for row in [*known, *fixed.rows] if row not in rows]
    cells = []
    for seed in range(search.seeds, search.seeds + search.config.search.confirm):
        for row in rows:
            spec = row.spec(search.priced.facts, seed, search.device)
            cells.append(Cell(row, seed, spec, spec.trial_id))
    search.forget_failed(cells)
    return replace(fixed, rows=rows, cells=cells, recorded=search.store.read(cell.trial_id for cell in cells))
