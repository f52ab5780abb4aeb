"""Statistics of a handful of trainings, as plain functions over arrays whose last axis runs over the seeds.

Errors are in percent, lower is better. Two rows of a study share their seeds (the same initial weights and batches), so
they are compared by the differences row − baseline seed by seed: Student's interval and paired t-test, corrected for
the number of rows by Holm's method (Holm 1979). From n = 8 the exact sign-flip permutation test stands beside it: its
smallest two-sided p is 2 / 2^n, so that with five rows or more nothing below n = 8 could pass the correction.

The floor of the variance. Errors are counted in whole images: with N test images every error and every difference is a
multiple of one `step` = 100 / N points. Where all n differences agree, the sample variance is 0 and the t-test would
call any difference certain, although the grid hides what is finer than a step. The smallest variance above 0 that n
values on that grid can have is that of n − 1 equal values and one a step away: step² (1/n)(1 − 1/n) n / (n − 1) =
step² / n. No sample is taken to be more precise than that one: the variance is at least step² / n, the standard error
of the mean at least step / n. By construction this changes only samples whose values are all equal.

Where this holds, by simulation of errors counted on 360 images: with three seeds or more and about 1% of error or more,
intervals cover 94.5 to 98% and at most 5% of the tables have a false alarm; with two seeds, or fewer errors than that,
both err on the safe side, except that the interval of one row's mean covers 92% where that is below one image.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import optimize, special, stats

Array = NDArray[np.float64]

ALPHA = 0.05  # two-sided; for a whole table, after the correction
POWER = 0.80
FLIPS_FROM, FLIPS_TO = 8, 20  # n for which the permutation test is run; beyond, 2^n sums are too many to list
SEEDS_LIMIT = 1000  # "this many or more"
NODES, WEIGHTS = np.polynomial.legendre.leggauss(128)  # on (-1, 1)


@dataclass(frozen=True)
class Sample:
    """Errors of one row over its seeds, in percent.

    Attributes:
        n: seeds.
        mean: their mean.
        sd: standard deviation (n − 1), floored; None for n = 1.
        half_width: half of the 95% t interval of the mean; None for n = 1.
    """

    n: int
    mean: float
    sd: float | None
    half_width: float | None


@dataclass(frozen=True)
class Comparison:
    """Differences row − baseline over the seeds that both have, in percentage points.

    Attributes:
        n: pairs.
        delta: mean difference; negative is better than the baseline.
        sd: standard deviation of the differences, floored; None for n = 1 and after failures, like all that follows.
        low, high: 95% t interval of the mean difference.
        p: two-sided paired t-test, not corrected.
        p_flips: two-sided exact sign-flip permutation test, not corrected; None also outside n = 8 to 20.
        floored: whether all differences were equal, so that `sd` is the test set's resolution.
    """

    n: int
    delta: float
    sd: float | None
    low: float | None
    high: float | None
    p: float | None
    p_flips: float | None
    floored: bool


@dataclass(frozen=True)
class Verdict:
    """What the comparison of one row allows to say, corrected for the rows of its table.

    Attributes:
        word: "better", "worse" or "no difference shown".
        p: of the paired t-test, Holm-corrected.
        p_flips: of the permutation test, Holm-corrected, where it was run.
        could_show: difference in points that this n shows with 80% power if it is the true one, at the strictest level
            of the correction (0.05 / rows).
        fresh_seeds: how many seeds, none of these among them, would show the observed difference with 80% power at that
            level, if it is the true one; 1000 stands for that many or more; None where the verdict is settled already.
    """

    word: str
    p: float
    p_flips: float | None
    could_show: float
    fresh_seeds: int | None


def step_percent(test_images: int) -> float:
    """What one test image weighs, in percentage points."""
    if test_images < 1:
        raise ValueError(f"test_images: {test_images} is not a number of images")
    return 100.0 / test_images


def standard_deviation(values: ArrayLike, step: float = 0.0) -> Any:
    """Sample standard deviation (n − 1) over the last axis, at least step / √n (see the module's text); n ≥ 2."""
    x = np.asarray(values, dtype=float)
    return np.maximum(x.std(axis=-1, ddof=1), step / math.sqrt(x.shape[-1]))


def half_width(values: ArrayLike, step: float = 0.0, confidence: float = 1 - ALPHA) -> Any:
    """Half of the t interval of the mean over the last axis; n ≥ 2."""
    n = np.shape(values)[-1]
    return stats.t.ppf((1 + confidence) / 2, n - 1) * standard_deviation(values, step) / math.sqrt(n)


def paired_t_test(differences: ArrayLike, step: float = 0.0) -> Any:
    """Two-sided p that the mean difference over the last axis is 0; n ≥ 2."""
    d = np.asarray(differences, dtype=float)
    n = d.shape[-1]
    mean, error = np.abs(d.mean(axis=-1)), standard_deviation(d, step) / math.sqrt(n)
    with np.errstate(divide="ignore", invalid="ignore"):
        t = np.where(mean == 0, 0.0, mean / error)  # equal differences without a floor: certain, unless they are all 0
    return 2 * stats.t.sf(t, n - 1)


def sign_flip_test(differences: ArrayLike) -> float:
    """Exact two-sided permutation p of one row: share of the 2^n sign patterns whose |sum| reaches the observed one.

    Raises:
        ValueError: for more than 20 differences, where the patterns are too many to list.
    """
    d = np.asarray(differences, dtype=float)
    if d.size > FLIPS_TO:
        raise ValueError(f"the exact permutation test lists 2^n sign patterns: n = {d.size} is above {FLIPS_TO}")
    sums = np.zeros(1)
    for value in d:
        sums = np.concatenate([sums + value, sums - value])
    slack = 1e-9 * max(1.0, float(np.abs(d).sum()))  # equal sums differ in their last bits, by the order of adding
    return float(np.mean(np.abs(sums) >= abs(d.sum()) - slack))


def holm(p_values: ArrayLike, tests: int = 0) -> Array:
    """Holm's step-down adjusted p over the last axis: compare with 0.05 and errors stay below 5% over all rows.

    The i-th smallest of m is multiplied by m − i + 1, kept monotone and at most 1. NaN are rows without a test: they
    stay NaN. Where there are more `tests` than p values, m counts them, as if the others had a p of 1: rows that were
    left out after a look at them, or that failed, would have been tested, too.
    """
    p = np.asarray(p_values, dtype=float)
    order = np.argsort(p, axis=-1)  # NaN last
    tested = np.maximum(np.sum(~np.isnan(p), axis=-1, keepdims=True), tests)
    factors = np.maximum(tested - np.arange(p.shape[-1]), 1)
    ranked = np.minimum(np.maximum.accumulate(np.take_along_axis(p, order, axis=-1) * factors, axis=-1), 1.0)
    adjusted = np.empty_like(p)
    np.put_along_axis(adjusted, order, ranked, axis=-1)
    return adjusted


def power(effect: float, n: int, alpha: float = ALPHA) -> float:
    """Probability that the two-sided paired t-test of n seeds shows a true difference of `effect` standard deviations.

    With s the sample's standard deviation over the true one, the test shows it if |Z + effect √n| > t · s: integrated
    over s, since scipy's noncentral t answers NaN for the large shifts that two or three seeds need.
    """
    bounds, shift = _bounds(n, alpha), abs(effect) * math.sqrt(n)
    shown = special.ndtr(shift - bounds) + special.ndtr(-shift - bounds)
    return float(np.sum(WEIGHTS / 2 * shown))


@lru_cache(maxsize=4096)
def _bounds(n: int, alpha: float) -> Array:
    """t · s at the quantiles of s."""
    return np.asarray(stats.t.isf(alpha / 2, n - 1) * _spread(n))


@lru_cache(maxsize=1024)
def _spread(n: int) -> Array:
    """s, over the true standard deviation, for n normal values: at the quantiles that Gauss-Legendre asks for."""
    return np.asarray(np.sqrt(stats.chi2.ppf((NODES + 1) / 2, n - 1) / (n - 1)))


@lru_cache(maxsize=4096)
def detectable_effect(n: int, alpha: float = ALPHA) -> float:
    """Smallest true difference, in *sample* standard deviations, that n ≥ 2 seeds show with 80% power.

    Were the true standard deviation known, it would be the effect of that power. A sample's is below the true one more
    often than not, and the effect that it is multiplied by makes up for it: averaged over the samples that n seeds may
    give, the power is 80%. With three seeds it is 1.6 times what it would be otherwise.
    """
    spread = _spread(n)

    def average(effect: float) -> float:
        return float(np.sum(WEIGHTS / 2 * [power(effect * each, n, alpha) for each in spread])) - POWER

    most = 1.0
    while average(most) < 0:
        most *= 2
    return float(optimize.brentq(average, 0, most, rtol=1e-6))


def seeds_to_show(effect: float, alpha: float = ALPHA) -> int:
    """Fewest seeds that show a true difference of `effect` standard deviations with 80% power; 1000 is "or more"."""
    few, enough = 1, SEEDS_LIMIT  # power grows with n: halve the range
    while enough - few > 1:
        middle = (few + enough) // 2
        few, enough = (few, middle) if power(effect, middle, alpha) >= POWER else (middle, enough)
    return enough


def sample(errors: Sequence[float], test_images: int) -> Sample | None:
    """Mean and spread of one row's errors in percent; None without any."""
    if not errors:
        return None
    n, mean, step = len(errors), float(np.mean(errors)), step_percent(test_images)
    if n == 1:
        return Sample(1, mean, None, None)
    return Sample(n, mean, float(standard_deviation(errors, step)), float(half_width(errors, step)))


def compare(
    row: Mapping[int, float], baseline: Mapping[int, float], test_images: int, tested: bool = True
) -> Comparison | None:
    """A row against its baseline, both as seed → error in percent, over the seeds that both have; None without any.

    What is not to be `tested` has a difference only: its seeds are those that a failure has left.
    """
    shared = sorted(row.keys() & baseline.keys())
    if not shared:
        return None
    d = np.array([row[seed] - baseline[seed] for seed in shared])
    n, delta, step = len(shared), float(d.mean()), step_percent(test_images)
    if n == 1 or not tested:
        return Comparison(n, delta, None, None, None, None, None, floored=False)
    half = float(half_width(d, step))
    return Comparison(
        n=n,
        delta=delta,
        sd=float(standard_deviation(d, step)),
        low=delta - half,
        high=delta + half,
        p=float(paired_t_test(d, step)),
        p_flips=sign_flip_test(d) if FLIPS_FROM <= n <= FLIPS_TO else None,
        floored=float(d.std(ddof=1)) < step / math.sqrt(n) * (1 - 1e-6),
    )


def judge(comparisons: Sequence[Comparison | None], tests: int = 0) -> list[Verdict | None]:
    """Verdicts over the rows of one study; None for a row that has no test (no pairs, a single one, or failures).

    Args:
        comparisons: each network once.
        tests: how many the whole study has, where that is more.
    """
    nan = float("nan")
    p = [nan if c is None or c.p is None else c.p for c in comparisons]
    adjusted = holm(p, tests)
    flips = holm([nan if c is None or c.p_flips is None else c.p_flips for c in comparisons], tests)
    level = ALPHA / max(1, tests, int(np.sum(~np.isnan(p))))
    return [
        None if c is None or c.sd is None else _verdict(c, float(p), None if np.isnan(f) else float(f), level)
        for c, p, f in zip(comparisons, adjusted, flips, strict=True)
    ]


def _verdict(comparison: Comparison, p: float, p_flips: float | None, level: float) -> Verdict:
    assert comparison.sd is not None
    settled = p <= ALPHA
    word = ("better" if comparison.delta < 0 else "worse") if settled else "no difference shown"
    return Verdict(
        word=word,
        p=p,
        p_flips=p_flips,
        could_show=detectable_effect(comparison.n, level) * comparison.sd,
        fresh_seeds=None if settled else seeds_to_show(comparison.delta / comparison.sd, level),
    )
