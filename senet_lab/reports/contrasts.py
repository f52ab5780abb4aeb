"""What a study compares: rows with their baselines, or the effects of a grid's factors. Each is a contrast, a weighted
sum of rows that is 0 where there is no difference; it is taken seed by seed, and image by image.

In a grid the cells are the combinations of the levels of two or more factors, a₀, b₀ … being the baseline's. Of the
error e(a, b, …), in means over the levels of all factors that are not named:

    main effect of a           e(a) − e(a₀)
    interaction of a and b     e(a, b) − e(a₀, b) − e(a, b₀) + e(a₀, b₀)
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Hashable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Contrast:
    """One compared difference.

    Attributes:
        weights: row → weight; empty where rows that it needs are not there.
        key: contrasts with equal ones are one test under several names; None where there is nothing to test.
        baseline: what it is a difference from.
        order: of an effect, how many factors it is of; 0 in a study without a grid.
    """

    weights: dict[str, float]
    key: Hashable
    baseline: str
    order: int = 0


def of_rows(trained: Mapping[str, Hashable], baselines: Mapping[str, str]) -> dict[str, Contrast]:
    """Row → its contrast with its baseline. Rows of equal trainings are one test; one of its baseline's is none.

    Args:
        trained: row → what tells its trainings from those of others.
        baselines: row → baseline, empty for a baseline itself.
    """
    return {
        label: Contrast({label: 1.0, base: -1.0}, (trained[label], trained[base]) if differs else None, base)
        for label, base in baselines.items()
        if base
        for differs in (trained[label] != trained[base],)
    }


def effects(cells: Mapping[str, tuple[str, ...]], factors: tuple[str, ...], base: str) -> dict[str, Contrast]:
    """`reduction=4`, `reduction=4 × position=pre` → effect: of each level that is not the baseline's, and of each pair.

    Args:
        cells: row → its levels, in the order of the factors.
        base: the baseline's row.
    """
    rows = {levels: label for label, levels in cells.items()}
    ends = [factor.rpartition(".")[2] for factor in factors]
    names = [end if ends.count(end) == 1 else factor for end, factor in zip(ends, factors, strict=True)]
    levels = [list(dict.fromkeys(each[at] for each in cells.values())) for at in range(len(factors))]
    contrasts = {}
    for order in (1, 2):
        for named in itertools.combinations(range(len(factors)), order):
            others = [[level for level in levels[at] if level != cells[base][at]] for at in named]
            for chosen in itertools.product(*others):
                name = " × ".join(f"{names[at]}={level}" for at, level in zip(named, chosen, strict=True))
                plain = ", ".join(f"{names[at]}={cells[base][at]}" for at in named)
                weights = _weights(rows, levels, dict(zip(named, chosen, strict=True)), cells[base])
                contrasts[name] = Contrast(weights, name, plain, order)
    return contrasts


def _weights(
    rows: Mapping[tuple[str, ...], str], levels: list[list[str]], chosen: dict[int, str], base: tuple[str, ...]
) -> dict[str, float]:
    """The weights of the effect of the chosen levels, place of a factor → level; empty where a cell is missing."""
    sides = [[chosen[at], base[at]] if at in chosen else of for at, of in enumerate(levels)]
    number = math.prod(len(of) for at, of in enumerate(levels) if at not in chosen)
    weights = {}
    for cell in itertools.product(*sides):
        if cell not in rows:
            return {}
        sign = (-1) ** sum(cell[at] != level for at, level in chosen.items())
        weights[rows[cell]] = sign / number
    return weights
