"""Random effects: what the differences in a few settings tell of all settings.

A study tells of one setting: one data set, network and recipe. Each setting's difference Δ is taken with a standard
error s of its interval, half of its width / 1.96, over seeds and test images where these are known and over the seeds
alone where they are not: a difference that few seeds tell weighs less, by its interval of Student's t. The settings'
true differences are taken to be normal around μ with a standard deviation τ (random effects):

- τ² solves Σ w (Δ − μ)² = k − 1 with w = 1 / (s² + τ²) and μ = Σ w Δ / Σ w, at least 0 (Paule and Mandel 1982).
- The interval of μ is μ ± t_{k−1} √(q / Σ w), q = max(1, Σ w (Δ − μ)² / (k − 1)): Hartung and Knapp (2001), never
  narrower than with the standard errors as they are (Röver, Knapp and Friede 2015).
- The prediction interval, for the true difference in a new setting, is of three settings or more. The estimate of
  τ² is often 0 for a handful of settings that do differ, and intervals that take it for the true one hold less often
  than they say. So τ² has the distribution that Σ w (Δ − μ)² ~ χ²_{k−1} gives it, at least 0, and the new difference is
  μ + t_{k−1} √(q / Σ w) + τ z with all of these as functions of τ² (Nagashima, Noma and Furukawa 2019, by quadrature in
  place of their bootstrap). It need not be symmetric.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import optimize, special

from senet_lab.reports.statistics import ALPHA

Z = -float(special.ndtri(ALPHA / 2))


TAU_POINTS, T_POINTS = 100, 60  # of the quadrature for a prediction


class Pooled(NamedTuple):
    """What k settings tell of all settings, in the unit of the differences.

    Attributes:
        mean: μ.
        half: half of its 95% interval.
        tau: standard deviation of the settings' true differences.
        prediction: 95% interval of the true difference in a new setting; None for k = 2.
        weights: of each setting in μ; their sum is 1.
    """

    mean: float
    half: float
    tau: float
    prediction: tuple[float, float] | None
    weights: tuple[float, ...]


class Settings:
    """Differences of k settings, and what they tell for each τ²."""

    def __init__(self, deltas: ArrayLike, errors: ArrayLike) -> None:
        self.d_K, self.variance_K = np.asarray(deltas, dtype=float), np.asarray(errors, dtype=float) ** 2
        self.k = len(self.d_K)
        if self.k < 2 or len(self.variance_K) != self.k or not (self.variance_K > 0).all():
            raise ValueError(f"pool: {self.k} differences with {len(self.variance_K)} standard errors above 0")

    def weights(self, tau2: float) -> NDArray[np.float64]:
        """1 / (s² + τ²)."""
        return 1 / (self.variance_K + tau2)

    def spread(self, tau2: float) -> float:
        """Σ w (Δ − μ)², which falls with τ²."""
        w_K = self.weights(tau2)
        return float((w_K * (self.d_K - np.average(self.d_K, weights=w_K)) ** 2).sum())

    def tau2(self, spread: float) -> float:
        """τ² for which Σ w (Δ − μ)² is this; 0 where it is less for every τ²."""
        if self.spread(0.0) <= spread:
            return 0.0
        most = self.k * float(np.ptp(self.d_K)) ** 2 / spread  # each term is below range² / τ²
        return float(optimize.brentq(lambda tau2: self.spread(tau2) - spread, 0.0, most, xtol=1e-12))

    def mean(self, tau2: float) -> tuple[float, float]:
        """μ and its standard error."""
        w_K = self.weights(tau2)
        q = max(1.0, self.spread(tau2) / (self.k - 1))
        return float(np.average(self.d_K, weights=w_K)), math.sqrt(q / float(w_K.sum()))

    def prediction(self) -> tuple[float, float]:
        """The 95% interval of the true difference in a new setting."""
        shares = (np.arange(TAU_POINTS) + 0.5) / TAU_POINTS
        taus2 = [self.tau2(float(each)) for each in special.chdtri(self.k - 1, shares)]
        mean_U, error_U = np.array([self.mean(tau2) for tau2 in taus2]).T
        t_V = special.stdtrit(self.k - 1, (np.arange(T_POINTS) + 0.5) / T_POINTS)
        centre_UV = mean_U[:, None] + error_U[:, None] * t_V
        tau_U1 = np.sqrt(np.maximum(taus2, 1e-12 * self.variance_K.min()))[:, None]

        def quantile(share: float) -> float:
            reach = 10 * float(tau_U1.max())
            return float(
                optimize.brentq(
                    lambda x: float(special.ndtr((x - centre_UV) / tau_U1).mean()) - share,
                    float(centre_UV.min()) - reach,
                    float(centre_UV.max()) + reach,
                )
            )

        return quantile(ALPHA / 2), quantile(1 - ALPHA / 2)


def pool(deltas: ArrayLike, errors: ArrayLike) -> Pooled:
    """Random effects over at least two differences with their standard errors, which are above 0.

    Raises:
        ValueError: for fewer, or a standard error that is not above 0.
    """
    settings = Settings(deltas, errors)
    tau2 = settings.tau2(settings.k - 1)
    w_K, (mean, error) = settings.weights(tau2), settings.mean(tau2)
    half = -float(special.stdtrit(settings.k - 1, ALPHA / 2)) * error
    prediction = settings.prediction() if settings.k > 2 else None
    return Pooled(mean, half, math.sqrt(tau2), prediction, tuple((w_K / w_K.sum()).tolist()))
