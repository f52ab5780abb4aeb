"""Boundaries for looking at a paired t-test again after each further seed, without more false alarms than one look has.

The differences x₁, x₂, … of a row and its baseline are independent normal values of one unknown variance; t_n is the
statistic of the first n. Under no difference the joint law of t₁, t₂, … is free of parameters. With Qₙ = x₁² + … + xₙ²
and Rₙ = (x₁ + … + xₙ) / √(n Qₙ):

1. Rₙ and tₙ are the same thing said twice: tₙ = Rₙ √(n − 1) / √(1 − Rₙ²).
2. The direction (x₁, …, xₙ) / √Qₙ, of which R₁, …, Rₙ are functions, is independent of Qₙ. So √n x_{n+1} / √Qₙ is
   Student's with n degrees of freedom, whatever R₁, …, Rₙ were: the Rₙ are a Markov chain.
3. With tan ψ = x_{n+1} / √Qₙ the next value is R_{n+1} = (√n Rₙ cos ψ + sin ψ) / √(n + 1) = A sin(ψ + δ), where
   A² = (n Rₙ² + 1) / (n + 1) and tan δ = √n Rₙ. Where it is above a value is one interval of ψ for Rₙ ≥ 0.

So the law of the chain that has crossed no boundary yet is carried from look to look by quadrature over one variable,
and the boundary of each look follows from what may be spent at it (Lan and DeMets 1983: the spending function). What is
spent up to n seeds of at most N is α n / N, which spends early what large differences need and keeps most for the end.

Nothing here depends on the variance, and a stop for another reason than the boundary only lowers the false alarms.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import optimize, special

from senet_lab.reports.aim import Aim
from senet_lab.reports.statistics import ALPHA, standard_deviation, step_percent

Array = NDArray[np.float64]

CELLS = 400  # of the quadrature: boundaries are right to 0.1%
HOPELESS = 0.1  # chance of a verdict below which no more seeds are spent on a row
WORDS = ("open", "better", "worse", "equivalent")


@lru_cache(maxsize=64)
def boundaries(alpha: float, least: int, most: int, sides: int = 2) -> tuple[float, ...]:
    """What |t| (`sides` = 2) or t (`sides` = 1) must exceed after `least`, `least` + 1, …, `most` seeds.

    Args:
        alpha: probability that any look exceeds its boundary where there is no difference.
        least: seeds at the first look, at least 2.
        most: seeds at the last look.
        sides: 2 or 1.

    Returns:
        A boundary for each look.

    Raises:
        ValueError: for another number of sides, fewer than 2 seeds, an `alpha` outside of (0, 1), no look at all.
    """
    if sides not in (1, 2) or not 2 <= least <= most or not 0 < alpha < 1:
        raise ValueError(f"boundaries: alpha={alpha}, least={least}, most={most}, sides={sides}")
    bounds: list[float] = []
    at = weights = np.empty(0)  # values of R, and the probability of each with no boundary crossed yet
    spent = 0.0
    for n in range(least, most + 1):
        share = alpha * n / most - spent
        spent += share
        if n == least:
            bound = r_of(-float(special.stdtrit(n - 1, share / sides)), n)
        else:
            bound = _crossed_by(share / sides, at, weights, n - 1)
        edges = _grid(-bound if sides == 2 else -1.0, bound)
        if n == least:
            beyond = np.asarray(special.stdtr(n - 1, -t_of(edges, n)))
        else:
            beyond = weights @ _above(edges[None, :], at[:, None], n - 1)
        angles = np.arcsin(edges)
        at, weights = np.sin((angles[1:] + angles[:-1]) / 2), -np.diff(beyond)
        bounds.append(float(t_of(bound, n)))
    return tuple(bounds)


def _crossed_by(share: float, at: Array, weights: Array, n: int) -> float:
    """The value that R_{n+1} exceeds with the probability `share`, from the law of R_n."""
    excess = lambda r: float(weights @ _above(r, at, n)) - share  # noqa: E731
    return float(optimize.brentq(excess, 0.0, 1.0, xtol=1e-12))


def _above(r: ArrayLike, at: Array, n: int) -> Array:
    """P(R_{n+1} > r | R_n = at), by the third point of the module's text; for R_n < 0 of the mirror image."""
    turned = at < 0
    r, level = np.where(turned, -np.asarray(r), r), np.abs(at)
    amplitude, delta = np.sqrt((n * level**2 + 1) / (n + 1)), np.arctan(math.sqrt(n) * level)
    psi = np.arcsin(np.clip(r / amplitude, -1, 1))
    inside = _below(np.pi - psi - delta, n) - _below(psi - delta, n)
    return np.where(turned, 1 - inside, inside)


def _below(psi: Array, n: int) -> Array:
    """Distribution function of ψ, where √n tan ψ is Student's with n degrees of freedom: the density of ψ is in
    proportion to cosⁿ⁻¹ ψ, whose integral follows from that of cosⁿ⁻³ ψ. Student's own function takes three times as
    long."""
    psi = np.clip(psi, -np.pi / 2, np.pi / 2)
    sine, square = np.sin(psi), np.cos(psi) ** 2
    area, term, whole = (psi, sine * np.cos(psi), np.pi / 2) if n % 2 else (sine, sine * square, 1.0)  # from 0 on
    for k in range(3 - n % 2, n, 2):  # from cosᵏ⁻² to cosᵏ
        area, term, whole = (term + (k - 1) * area) / k, term * square, whole * (k - 1) / k
    return np.asarray(0.5 + area / (2 * whole))


def _grid(low: float, high: float) -> Array:
    """Edges of cells between two values of R, closest at both ends, where boundaries are."""
    first, last = math.asin(low), math.asin(high)
    return np.sin((first + last) / 2 + (last - first) / 2 * np.sin(np.linspace(-np.pi / 2, np.pi / 2, CELLS + 1)))


def t_of(r: ArrayLike, n: int) -> Array:
    """The t statistic of n values whose R is `r`."""
    r = np.asarray(r, dtype=float)
    with np.errstate(divide="ignore"):
        return np.asarray(r * math.sqrt(n - 1) / np.sqrt(1 - r**2))


def r_of(t: float, n: int) -> float:
    """R of n values with the t statistic `t`."""
    return t / math.sqrt(n - 1 + t * t)


class Stop(NamedTuple):
    """Where the looks at a contrast end.

    Attributes:
        n: seeds that were looked at.
        word: of WORDS.
    """

    n: int
    word: str


@dataclass(frozen=True)
class Looks:
    """Looks at the differences of a row from its baseline, seed by seed in their order, until a verdict is in.

    A row is *better* or *worse* when |t| exceeds its boundary, and *equivalent*, which goes first, when both one-sided
    tests against the margin exceed theirs, which have as much to spend again. It stays *open* at the last look, and
    where the seeds that are left have less than HOPELESS of a chance to settle it, by what the seeds so far tell.

    Attributes:
        level: false alarms that the row may have over all its looks.
        least, most: seeds at the first look and at the last one.
        margin: smallest difference that matters; None has no equivalence.
        step: what one test image weighs (`statistics`), the floor of the variance; 0 for losses.
    """

    level: float
    least: int
    most: int
    margin: float | None = None
    step: float = 0.0

    def bounds(self, n: int) -> tuple[float, float]:
        """What |t| of n seeds must exceed for a difference, and t on either side of the margin for equivalence."""
        outer, inner = (boundaries(self.level, self.least, self.most, sides)[n - self.least] for sides in (2, 1))
        return outer, inner

    def left(self, n: int) -> float:
        """Level of a two-sided t-test of n seeds with the bound of this look, far below that of all looks."""
        return 2 * float(special.stdtr(n - 1, -self.bounds(n)[0]))

    def look(self, differences: ArrayLike) -> tuple[NDArray[np.int_], NDArray[np.bool_]]:
        """What the look at the last of these seeds tells, which run over the last axis: the place in WORDS, and whether
        the looks end here."""
        d = np.asarray(differences, dtype=float)
        n, mean, spread = d.shape[-1], d.mean(axis=-1), standard_deviation(d, self.step)
        error, (outer, inner) = spread / math.sqrt(n), self.bounds(n)
        room = -1.0 if self.margin is None else self.margin - np.abs(mean)
        verdicts = [room > inner * error, mean < -outer * error, mean > outer * error]
        word = np.select(
            verdicts, [WORDS.index(each) for each in ("equivalent", "better", "worse")], WORDS.index("open")
        )
        return word, (word > 0) | (n == self.most) | (self.chance(n, mean, spread) < HOPELESS)

    def chance(self, n: int, mean: ArrayLike, spread: ArrayLike) -> Array:
        """Probability that the last look settles a row of which n seeds are known: the mean of all seeds, seen from n
        of them, is Student's around theirs, with the variance spread² (1/n − 1/most)."""
        mean, spread = np.asarray(mean, dtype=float), np.asarray(spread, dtype=float)
        error, ahead = spread / math.sqrt(self.most), spread * math.sqrt(1 / n - 1 / self.most)
        outer, inner = self.bounds(self.most)

        def below(value: Array) -> Array:
            return np.asarray(special.stdtr(n - 1, (value - mean) / ahead))

        with np.errstate(divide="ignore", invalid="ignore"):
            shown = 1 - below(outer * error) + below(-outer * error)
            room = np.maximum(0.0, (self.margin or 0.0) - inner * error)
            settles = shown + below(room) - below(-room)
        return np.asarray(np.where(spread == 0, 1.0, settles))  # without a spread, any look settles it

    def follow(self, differences: ArrayLike) -> Stop | None:
        """The first stop, or None where a further seed is needed."""
        d = np.asarray(differences, dtype=float)
        for n in range(self.least, min(len(d), self.most) + 1):
            word, ends = self.look(d[:n])
            if ends:
                return Stop(n, WORDS[int(word)])
        return None


def rounding(weights: Iterable[float]) -> float:
    """How many times what one image weighs in a difference of two rows it weighs in one with these weights."""
    return math.sqrt(sum(weight**2 for weight in weights) / 2)


def looks_of(aim: Aim, tests: int, test_images: int | None, weights: Iterable[float] = (1, -1)) -> Looks:
    """The looks at each difference of a study that settles: α is split over its tests.

    Args:
        test_images: behind each error; None where nothing was trained.
        weights: of the rows in the difference; rounding to whole images adds up as their squares do.
    """
    step = step_percent(test_images if aim.metric == "error" else None) * rounding(weights)
    return Looks(ALPHA / max(1, tests), aim.least, aim.most, aim.margin, step)
