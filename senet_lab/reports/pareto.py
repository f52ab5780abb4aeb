"""Statistics of fronts, as plain functions: points are rows of an array, every column is to be small.

A point dominates another one if it is nowhere larger and somewhere smaller; the front is what nothing dominates. The
hypervolume is what the points dominate of the box below a reference point (Zitzler and Thiele 1998): in one number, how
good a set of compromises is. Optuna has one, but not in public.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]


def on_front(points: ArrayLike) -> Mask:
    """Which of the points nothing dominates. Equal points are on the front together.

    Args:
        points: (n, objectives).
    """
    values = np.asarray(points, dtype=float)
    kept = np.ones(len(values), dtype=bool)
    for at, point in enumerate(values):
        others = (values <= point).all(axis=1) & (values < point).any(axis=1)
        kept[at] = not others.any()
    return kept


def hypervolume(points: ArrayLike, reference: ArrayLike) -> float:
    """Volume that the points dominate within the box below `reference`; points outside the box add nothing.

    Two objectives in one sweep; each further one by slices (Zitzler 2001), which is quick for the few dozens of points
    that a front has.

    Args:
        points: (n, objectives).
        reference: (objectives,).
    """
    limit = np.asarray(reference, dtype=float)
    values = np.asarray(points, dtype=float).reshape(-1, len(limit))
    values = values[(values < limit).all(axis=1)]
    return _volume(np.unique(values, axis=0), limit) if len(values) else 0.0


def _volume(values: Array, limit: Array) -> float:
    """`hypervolume` of distinct points inside the box."""
    if len(limit) == 1:
        return float(limit[0] - values.min())
    values = values[np.argsort(values[:, -1], kind="stable")]
    if len(limit) == 2:
        lowest = np.minimum.accumulate(values[:, 0])
        heights = np.diff(np.append(values[:, 1], limit[1]))
        return float(((limit[0] - lowest) * heights).sum())
    heights = np.diff(np.append(values[:, -1], limit[-1]))
    total = 0.0
    for count, height in enumerate(heights, start=1):
        if height > 0:  # between two levels of the last objective, the points below dominate the same slice
            slice_ = values[:count, :-1]
            total += height * _volume(slice_[on_front(slice_)], limit[:-1])
    return total


def history(points: ArrayLike, reference: ArrayLike) -> Array:
    """Hypervolume after each of the points, in their order."""
    values = np.asarray(points, dtype=float)
    volumes = np.empty(len(values))
    best = values[:0]
    for at in range(len(values)):
        best = np.vstack([best, values[at : at + 1]])
        best = best[on_front(best)]
        volumes[at] = hypervolume(best, reference)
    return volumes


def corner(points: ArrayLike, margin: float = 0.1) -> Array:
    """A reference point for a set of points: the worst that their front has of each objective, and a tenth of the
    front's range beyond, so that its ends count, too (Ishibuchi et al. 2018).

    Beyond the worst of all points, whatever the front's cheapest point dominates would be nearly everything. Where the
    front has no range in an objective, that of all points stands in.
    """
    values = np.asarray(points, dtype=float)
    front = values[on_front(values)]
    worst = front.max(axis=0)
    spread = worst - front.min(axis=0)
    whole = values.max(axis=0) - values.min(axis=0)
    spread = np.where(spread > 0, spread, np.where(whole > 0, whole, np.maximum(np.abs(worst), 1.0)))
    return np.asarray(worst + margin * spread)


def chances(errors: ArrayLike, costs: ArrayLike, draws: int = 10_000) -> Array:
    """How likely each design is to be on the front by its true error, which is known only as far as its seeds tell it.

    True errors are drawn from what the seeds leave possible, and the share of the draws in which a design is on the
    front is its chance. Around their means the errors follow the multivariate t distribution with n − 1 degrees of
    freedom and the designs' shared covariance. But of designs that differ by no more than their seeds do, the best owes
    its place to luck: so the means are drawn towards a line over the costs (their ranks), the more, the less of their
    spread around it is more than chance. That share is uncertain itself, and is drawn from what the F distribution of
    the two mean squares leaves possible. Without it (a plain bootstrap of the seeds, say) chances come out too certain:
    `python -m benchmarks.calibration`.

    Args:
        errors: (designs, seeds), at least two seeds; the designs share them.
        costs: (designs, objectives other than the error); none make it the chance of being the best.
    """
    values, fixed = np.asarray(errors, dtype=float), np.asarray(costs, dtype=float)
    designs = len(values)
    fixed = fixed.reshape(designs, -1)
    means = possible(values, fixed, draws)
    on_fronts = np.ones((draws, designs), dtype=bool)
    for at in range(designs):
        for other in range(designs):
            if (fixed[other] <= fixed[at]).all():
                cheaper = bool((fixed[other] < fixed[at]).any())
                better = means[:, other] <= means[:, at] if cheaper else means[:, other] < means[:, at]
                on_fronts[:, at] &= ~better
    return np.asarray(on_fronts.mean(axis=0))


def possible(errors: Array, costs: Array, draws: int) -> Array:
    """True errors that the designs may have, given those of their seeds: (draws, designs); see `chances`."""
    from scipy.stats import rankdata  # imported here because it takes as long as all else of a table

    rng = np.random.default_rng(0)
    designs, seeds = errors.shape
    means = errors.mean(axis=1)
    apart = errors - means[:, None]
    spread = np.sqrt(rng.chisquare(seeds - 1, (draws, 1)) / (seeds - 1))
    noise = rng.normal(size=(draws, seeds)) @ apart.T / math.sqrt(seeds * (seeds - 1)) / spread
    lines = np.column_stack([np.ones(designs), *(rankdata(cost) for cost in costs.T)])
    onto = lines @ np.linalg.pinv(lines)  # the projection onto them
    free, within = designs - int(np.linalg.matrix_rank(lines)), (designs - 1) * (seeds - 1)
    chance = float(((apart - apart.mean(axis=0)) ** 2).sum()) / within if within else 0.0
    if free < 1 or chance == 0:
        return np.asarray(means + noise)
    around = means - onto @ means
    ratio = seeds * float((around**2).sum()) / free / chance
    # Of the ratios that are possible, those of a variance above 0: by the quantiles of F below the ratio that is seen.
    quantile = rng.uniform(size=(draws, 1)) * special.fdtr(free, within, ratio)
    share = np.clip(1 - special.fdtri(free, within, quantile) / ratio, 0, 1) if ratio > 0 else np.zeros((draws, 1))
    of_noise = noise @ onto.T
    return np.asarray(onto @ means + of_noise + share * around + np.sqrt(share) * (noise - of_noise))
