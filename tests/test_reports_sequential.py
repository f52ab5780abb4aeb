"""The boundaries of repeated looks against closed forms and against simulated seeds."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from senet_lab.reports.sequential import boundaries


def statistics_of(x: np.ndarray) -> np.ndarray:
    """t after 2, 3, … values of each line."""
    n = np.arange(1, x.shape[1] + 1)
    mean = x.cumsum(1) / n
    variance = ((x**2).cumsum(1) - n * mean**2)[:, 1:] / (n[1:] - 1)
    return mean[:, 1:] / np.sqrt(variance / n[1:])


@pytest.mark.parametrize("sides", [1, 2])
def test_one_look_is_students_test(sides: int) -> None:
    assert boundaries(0.05, 7, 7, sides)[0] == pytest.approx(stats.t.isf(0.05 / sides, 6))


def test_two_looks_against_a_double_integral() -> None:
    # Of three values a, b, x only the direction matters: the angle of (a, b) is uniform, and √2 x / √(a² + b²) is
    # Student's with 2 degrees of freedom. Counted over a fine grid of both: what t₃ adds to what t₂ has spent.
    alpha, (first, second) = 0.06, boundaries(0.06, 2, 3)
    angles = (np.arange(4000) + 0.5) / 4000 * 2 * np.pi
    a, b = np.cos(angles), np.sin(angles)
    held = angles[np.abs((a + b) / 2) / (np.abs(a - b) / 2) <= first]
    u = stats.t.ppf((np.arange(1000) + 0.5) / 1000, 2) / np.sqrt(2)  # x / √(a² + b²)
    values = np.stack(np.broadcast_arrays(np.cos(held)[:, None], np.sin(held)[:, None], u[None, :]))
    t3 = np.abs(values.mean(0)) / (values.std(0, ddof=1) / np.sqrt(3))
    assert first == pytest.approx(stats.t.isf(alpha * 2 / 3 / 2, 1))
    assert (t3 > second).mean() * len(held) / len(angles) == pytest.approx(alpha / 3, rel=0.02)


@pytest.mark.parametrize(("alpha", "least", "most", "sides"), [(0.05, 3, 20, 2), (0.05, 3, 12, 1), (0.25, 2, 9, 2)])
def test_false_alarms_are_spent_as_promised_whatever_the_variance(
    alpha: float, least: int, most: int, sides: int
) -> None:
    runs = 100_000
    rng = np.random.default_rng(1)
    t = statistics_of(rng.standard_normal((runs, most)) * rng.lognormal(0, 2, (runs, 1)))[:, least - 2 :]
    crossed = np.maximum.accumulate((np.abs(t) if sides == 2 else t) > boundaries(alpha, least, most, sides), axis=1)
    promised = alpha * np.arange(least, most + 1) / most
    assert np.abs(crossed.mean(0) - promised).max() < 4 * np.sqrt(alpha / runs)


def test_a_large_difference_is_seen_early() -> None:
    x = np.random.default_rng(2).standard_normal((20_000, 20))
    most_seeds = {1.0: 12.0, 1.5: 8.5, 2.0: 7.0}
    for effect, most in most_seeds.items():
        over = np.abs(statistics_of(x + effect)[:, 1:]) > boundaries(0.05, 3, 20)
        seeds = np.where(over.any(1), 3 + over.argmax(1), 20)
        assert seeds.mean() < most
