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

The variance of rounding. Where errors deviate by one or two images, few values of t are possible, and the paired t-test
of a fixed number of seeds would have up to 6.2% of false alarms instead of 5%. What is known to a whole image is
uncertain by a variance of step² / 12, a difference of two such counts by step² / 6. Added to the variance of the
differences, this brings false alarms and false equivalences to 5%, and changes next to nothing where they deviate by
more than a few images. A correction for continuity, of half a step in the sum of the seeds, does not do so for five
seeds. Looks after each further seed (`sequential`) keep 5% without either.

`python -m benchmarks.verdicts` tells by simulation how often all of this holds. With two seeds, or fewer errors than
about 1%, intervals and tests err on the safe side, except that the interval of one row's mean covers 92% where that is
about one image.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special

from senet_lab.reports.crossed import Components, crossed_components

Array = NDArray[np.float64]

ALPHA = 0.05  # two-sided; for a whole table, after the correction
FLIPS_FROM, FLIPS_TO = 8, 20  # n for which the permutation test is run; beyond, 2^n sums are too many to list
NOTHING: Mapping[int, ArrayLike] = MappingProxyType({})


@dataclass(frozen=True)
class Sample:
    """Errors of one row over its seeds, in percent, or its losses in nats.

    Attributes:
        n: seeds.
        mean: their mean.
        sd: standard deviation (n − 1), floored; None for n = 1.
        half_width: half of the 95% t interval of the mean over seeds, with these test images; None for n = 1.
        half_crossed: likewise over seeds and test images (`crossed`); None also where nothing is known of each image.
    """

    n: int
    mean: float
    sd: float | None = None
    half_width: float | None = None
    half_crossed: float | None = None


@dataclass(frozen=True)
class Comparison:
    """Differences row − baseline over the seeds that both have, in percentage points, or nats of a loss.

    Attributes:
        differences: in the order of the seeds.
        delta: mean difference; negative is better than the baseline.
        sd: standard deviation of the differences (`deviation_of_differences`; in a study that settles
            `standard_deviation`); None for n = 1 and after failures, like all that follows.
        low, high: 95% t interval of the mean difference over seeds; in a study that settles, the repeated one.
        p: two-sided paired t-test, not corrected; None in a study that settles.
        p_flips: two-sided exact sign-flip permutation test, not corrected; None also outside n = 8 to 20.
        floored: whether all differences were equal, so that `sd` is the test set's resolution.
        crossed: variance components of the differences over seeds and test images; None where nothing is known of each
            image.
        half_crossed: half of the interval of the mean difference over seeds and test images.
        p_crossed: two-sided test of the mean difference over seeds and test images, not corrected.
    """

    differences: tuple[float, ...]
    delta: float
    sd: float | None = None
    low: float | None = None
    high: float | None = None
    p: float | None = None
    p_flips: float | None = None
    floored: bool = False
    crossed: Components | None = None
    half_crossed: float | None = None
    p_crossed: float | None = None

    @property
    def n(self) -> int:
        """Pairs."""
        return len(self.differences)

    @property
    def low_crossed(self) -> float | None:
        """The lower end of the interval over seeds and test images."""
        return None if self.half_crossed is None else self.delta - self.half_crossed

    @property
    def high_crossed(self) -> float | None:
        """The upper end of the interval over seeds and test images."""
        return None if self.half_crossed is None else self.delta + self.half_crossed


def step_percent(test_images: int | None) -> float:
    """What one test image weighs, in percentage points; 0 for what is not counted in whole images, a loss."""
    if test_images is None:
        return 0.0
    if test_images < 1:
        raise ValueError(f"test_images: {test_images} is not a number of images")
    return 100.0 / test_images


def standard_deviation(values: ArrayLike, step: float = 0.0, rounding: float = 0.0) -> Any:
    """Sample standard deviation (n − 1) over the last axis, of n ≥ 2 values, with this variance of `rounding` added, in
    step²; at least step / √n (see the module's text)."""
    x = np.asarray(values, dtype=float)
    return np.sqrt(np.maximum(x.var(axis=-1, ddof=1) + rounding * step**2, step**2 / x.shape[-1]))


def deviation_of_differences(differences: ArrayLike, step: float = 0.0) -> Any:
    """Their standard deviation, with the variance that the rounding of two counts has."""
    return standard_deviation(differences, step, rounding=1 / 6)


def half_width(deviation: ArrayLike, n: int, level: float = ALPHA) -> Any:
    """Half of the t interval of the mean of n ≥ 2 values with this standard deviation."""
    return -special.stdtrit(n - 1, level / 2) * np.asarray(deviation) / math.sqrt(n)


def paired_t_test(differences: ArrayLike, step: float = 0.0) -> Any:
    """Two-sided p that the mean difference over the last axis is 0; n ≥ 2."""
    d = np.asarray(differences, dtype=float)
    n = d.shape[-1]
    mean, error = np.abs(d.mean(axis=-1)), deviation_of_differences(d, step) / math.sqrt(n)
    with np.errstate(divide="ignore", invalid="ignore"):
        t = np.where(mean == 0, 0.0, mean / error)  # equal differences of losses: certain, unless they are all 0
    return 2 * special.stdtr(n - 1, -t)


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


def sample(
    values: Sequence[float], test_images: int | None, outcomes: Sequence[ArrayLike | None] = ()
) -> Sample | None:
    """Mean and spread of one row's errors in percent, or of its losses; None without any.

    Args:
        values: one a seed.
        test_images: behind each error; None for losses, which are not counted in whole images.
        outcomes: for each seed the outcome of each test image, in the unit of the values; None where it is unknown.
    """
    if not values:
        return None
    n, mean, step = len(values), float(np.mean(values)), step_percent(test_images)
    if n == 1:
        return Sample(1, mean)
    crossed = _crossed(outcomes, step)
    sd = float(standard_deviation(values, step))
    return Sample(n, mean, sd, float(half_width(sd, n)), None if crossed is None else crossed.half_width())


def compare_pairs(
    differences: Mapping[int, float],
    step: float = 0.0,
    tested: bool = True,
    outcomes: Mapping[int, ArrayLike] = NOTHING,
) -> Comparison | None:
    """Differences by seed, as what they tell of their mean; None without any.

    Args:
        differences: seed → row − baseline, in percentage points, or nats of a loss.
        step: what one image weighs in the difference of two rows; 0 for losses, which are not counted in whole images.
        tested: what is not has a difference only: its seeds are those that a failure has left.
        outcomes: seed → difference of the outcomes of each test image, where these are known.
    """
    seeds = sorted(differences)
    if not seeds:
        return None
    d = np.array([differences[seed] for seed in seeds])
    n = len(seeds)
    plain = Comparison(tuple(d.tolist()), float(d.mean()))
    if n == 1 or not tested:
        return plain
    sd = float(deviation_of_differences(d, step))
    half = float(half_width(sd, n))
    crossed = _crossed([outcomes.get(seed) for seed in seeds], step)
    return replace(
        plain,
        sd=sd,
        low=plain.delta - half,
        high=plain.delta + half,
        p=float(paired_t_test(d, step)),
        p_flips=sign_flip_test(d) if FLIPS_FROM <= n <= FLIPS_TO else None,
        floored=float(d.std(ddof=1)) < step / math.sqrt(n) * (1 - 1e-6),
        crossed=crossed,
        half_crossed=None if crossed is None else crossed.half_width(),
        p_crossed=None if crossed is None else crossed.p(),
    )


def _crossed(outcomes: Sequence[ArrayLike | None], step: float) -> Components | None:
    """Variance components, where two seeds or more have outcomes of two images or more."""
    known = [np.asarray(each, dtype=float) for each in outcomes if each is not None]
    return crossed_components(known, step) if len(known) == len(outcomes) >= 2 and len(known[0]) >= 2 else None


def reliability(errors: ArrayLike) -> float:
    """Share of the variance of the designs' means that is not chance: what a second table of the same designs, with as
    many other seeds, would correlate with this one.

    The designs share their seeds, so that what a seed does to all of them alike is no part of it: 1 − MS(design × seed)
    / MS(design), the intraclass correlation of a mean of n of Shrout and Fleiss (1979), their ICC(3, k).

    Args:
        errors: (designs, seeds), at least two of each.
    """
    values = np.asarray(errors, dtype=float)
    designs, seeds = values.shape
    residual = values - values.mean(axis=1, keepdims=True) - values.mean(axis=0, keepdims=True) + values.mean()
    between = seeds * ((values.mean(axis=1) - values.mean()) ** 2).sum() / (designs - 1)
    within = (residual**2).sum() / ((designs - 1) * (seeds - 1))
    return float(1 - within / between) if between > 0 else 0.0
