"""How many seeds a paired t-test, or two one-sided ones, need: power and detectable effects."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache

import numpy as np
from scipy import optimize, special

from senet_lab.reports.statistics import ALPHA, Array

POWER = 0.80
SEEDS_LIMIT = 1000  # "this many or more"
NODES, WEIGHTS = np.polynomial.legendre.leggauss(128)  # on (-1, 1)


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
    return np.asarray(-special.stdtrit(n - 1, alpha / 2) * _spread(n))


@lru_cache(maxsize=1024)
def _spread(n: int) -> Array:
    """s, over the true standard deviation, for n normal values: at the quantiles that Gauss-Legendre asks for."""
    return np.asarray(np.sqrt(special.chdtri(n - 1, (1 - NODES) / 2) / (n - 1)))


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
    return _fewest(lambda n: power(effect, n, alpha))


def equivalence_power(effect: float, margin: float, n: int, alpha: float = ALPHA) -> float:
    """Probability that two one-sided t-tests of n seeds, at `alpha` each, show a true difference of `effect` standard
    deviations to be within ± `margin` of them. As in `power`, integrated over the sample's standard deviation."""
    room = np.maximum(margin - _bounds(n, 2 * alpha) / math.sqrt(n), 0) * math.sqrt(n)
    shift = abs(effect) * math.sqrt(n)
    return float(np.sum(WEIGHTS / 2 * (special.ndtr(room - shift) - special.ndtr(-room - shift))))


def seeds_to_equate(effect: float, margin: float, alpha: float = ALPHA) -> int | None:
    """Fewest seeds that show a true difference of `effect` to be within ± `margin`, both in standard deviations, with
    80% power; 1000 is "or more", and None stands for a difference that is not within it."""
    return _fewest(lambda n: equivalence_power(effect, margin, n, alpha)) if abs(effect) < margin else None


def _fewest(shown: Callable[[int], float]) -> int:
    few, enough = 1, SEEDS_LIMIT  # power grows with n: halve the range
    while enough - few > 1:
        middle = (few + enough) // 2
        few, enough = (few, middle) if shown(middle) >= POWER else (middle, enough)
    return enough
