"""Statistics of fronts, against second implementations, closed forms and simulation."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from optuna._hypervolume import compute_hypervolume  # not public, and so only an oracle

from senet_lab.reports import front


def dominated(point: tuple[float, ...], others: list[tuple[float, ...]]) -> bool:
    return any(all(o <= p for o, p in zip(other, point, strict=True)) and other != point for other in others)


@pytest.mark.parametrize("objectives", [1, 2, 3, 4])
def test_the_front_and_its_hypervolume(objectives: int) -> None:
    draw = np.random.default_rng(objectives)
    for _ in range(20):
        points = draw.integers(0, 6, (14, objectives)) / 5
        reference = np.full(objectives, 1.0)  # points on the edge of the box add nothing
        listed = [tuple(point) for point in points.tolist()]
        assert front.on_front(points).tolist() == [not dominated(point, listed) for point in listed]
        assert front.hypervolume(points, reference) == pytest.approx(compute_hypervolume(points, reference))
        grid = np.array(list(itertools.product((np.arange(5) + 0.5) / 5, repeat=objectives)))  # centres of its cells
        covered = (points[None] <= grid[:, None]).all(axis=2).any(axis=1).mean()
        assert front.hypervolume(points, reference) == pytest.approx(covered)
        assert front.history(points, reference)[-1] == pytest.approx(front.hypervolume(points, reference))


def test_hypervolume_by_hand() -> None:
    assert front.hypervolume([[1, 3], [2, 1]], [4, 4]) == 3 * 1 + 2 * 3 - 2 * 1
    assert front.hypervolume([[5, 0]], [4, 4]) == 0
    assert front.hypervolume(np.empty((0, 2)), [4, 4]) == 0
    history = front.history([[3, 3], [1, 1], [2, 2]], [4, 4])
    assert history.tolist() == [1, 9, 9]


def test_reliability_is_the_correlation_with_a_second_table() -> None:
    """Designs with a standard deviation of 1, trainings with 2, a seed that moves all designs alike with 3."""
    draw = np.random.default_rng(0)
    truth = draw.normal(0, 1, 4000)
    tables = [truth[:, None] + draw.normal(0, 2, (4000, 3)) + draw.normal(0, 3, 3) for _ in range(2)]
    expected = 1 / (1 + 4 / 3)
    assert front.reliability(tables[0]) == pytest.approx(expected, abs=0.04)
    assert np.corrcoef(tables[0].mean(axis=1), tables[1].mean(axis=1))[0, 1] == pytest.approx(expected, abs=0.04)
    assert front.reliability(np.tile([[1.0], [2.0]], 3)) == 1


def test_the_interval_of_a_median_covers_it() -> None:
    draw = np.random.default_rng(1)
    covered = 0
    for _ in range(2000):
        middle, low, high = front.median_interval(draw.exponential(size=20))
        assert low <= middle <= high
        covered += low <= np.log(2) <= high
    assert 0.95 <= covered / 2000 <= 0.97, "the sixth and the fifteenth of twenty: 95.9%"
    assert front.median_interval([3, np.inf, 1, 2, np.inf, 4, 5])[0] == 4


def test_chances_of_being_on_the_front() -> None:
    errors = np.array([[5.0, 5.0, 5.0], [4.0, 4.0, 7.0], [6.0, 6.0, 6.0]])
    chances = front.chances(errors, [[1.0], [2.0], [3.0]])
    assert chances[0] == 1, "the cheapest one always"
    # The second is better than the first unless its mean is 5 or more: at least one 7 in three draws.
    assert chances[1] == pytest.approx((2 / 3) ** 3, abs=0.02)
    assert chances[2] == 0, "the first one is cheaper and better"
    best = front.chances(errors, np.empty((3, 0)))
    assert best[2] == 0
    assert best[0] >= (1 - (2 / 3) ** 3) - 0.02
    assert best.sum() >= 1, "one of them is the best, or several"
    # What a seed does to both alike, and that is far more than they differ by, decides nothing.
    moved = np.array([[5.0, 1.0, 9.0], [5.1, 1.1, 9.1]])
    assert front.chances(moved, [[1.0], [2.0]]).tolist() == [1, 0]
    assert front.chances(moved, [[2.0], [1.0]]).tolist() == [1, 1]
    assert front.chances(moved, np.empty((2, 0))).tolist() == [1, 0]
