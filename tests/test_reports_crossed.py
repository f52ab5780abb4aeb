"""Variance components against closed forms and against simulated seeds and images."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import special, stats

from senet_lab.reports.crossed import crossed_components


def test_components_of_a_table_without_rest_are_those_of_its_margins() -> None:
    seeds, images = np.array([0.0, 1.0, 5.0]), np.array([2.0, 2.0, 8.0, 4.0])
    found = crossed_components(10 + seeds[:, None] + images[None, :])
    assert found.mean == pytest.approx(16)
    assert found.seed == pytest.approx(seeds.var(ddof=1))
    assert found.image == pytest.approx(images.var(ddof=1))
    assert found.rest == pytest.approx(0, abs=1e-12)


def test_components_are_unbiased() -> None:
    rng = np.random.default_rng(0)
    sizes = {"seed": 0.5, "image": 2.0, "rest": 1.0}
    found = []
    for _ in range(400):
        effects = [rng.normal(0, sizes["seed"] ** 0.5, (8, 1)), rng.normal(0, sizes["image"] ** 0.5, (1, 60))]
        one = crossed_components(sum(effects) + rng.normal(0, 1, (8, 60)))
        found.append([one.seed, one.image, one.rest])
    assert np.mean(found, 0) == pytest.approx(list(sizes.values()), rel=0.06)


@pytest.mark.parametrize(("n", "images", "error", "image_sd", "seed_sd"), [(3, 900, 5, 3, 0.1), (10, 900, 5, 3, 0.02)])
def test_interval_over_seeds_and_images_covers_the_error_of_the_population(
    n: int, images: int, error: float, image_sd: float, seed_sd: float
) -> None:
    rng = np.random.default_rng(1)
    bound = special.ndtri(1 - error / 100) * np.sqrt(1 + image_sd**2 + seed_sd**2)
    covered, covered_by_seeds = [], []
    for _ in range(600):
        effects = [image_sd * rng.standard_normal((1, images)), seed_sd * rng.standard_normal((n, 1))]
        wrong = 100.0 * (sum(effects) + rng.standard_normal((n, images)) > bound)
        found = crossed_components(wrong)
        covered.append(abs(found.mean - error) <= found.half_width())
        covered_by_seeds.append(abs(found.mean - error) <= 2 * wrong.mean(1).std(ddof=1) / np.sqrt(n))
    assert 0.925 < np.mean(covered) < 0.975
    assert np.mean(covered_by_seeds) < 0.85  # of these images alone, however many seeds


@pytest.mark.parametrize("counted", [2, 6, 7.4])
def test_few_wrong_images_are_covered_as_a_poisson_count_is(counted: float) -> None:
    """Seeds agree, so that the number of wrong images is all there is: summed over the counts that there may be."""
    images, step = 1000, 0.1
    chances = stats.poisson.pmf(np.arange(40), counted)
    covered = []
    for wrong in range(40):
        outcomes = np.tile(np.where(np.arange(images) < wrong, 100.0, 0.0), (4, 1))
        plain, found = crossed_components(outcomes), crossed_components(outcomes, step)
        covered.append([abs(each.mean - counted * step) <= each.half_width() for each in (plain, found)])
    without, ours = chances @ np.array(covered)
    assert ours > 0.93
    assert without < 0.935


def test_p_is_the_level_whose_interval_ends_at_0() -> None:
    rng = np.random.default_rng(3)
    for shift, n, seed_sd in ((0.1, 3, 0.3), (1.0, 5, 0.1), (30.0, 10, 0.01), (0.0, 3, 0.5)):
        effects = seed_sd * rng.standard_normal((n, 1)) + rng.standard_normal((1, 200)) + shift
        found = crossed_components(effects + rng.standard_normal((n, 200)))
        if found.p() > 1e-12:
            assert found.half_width(found.p()) == pytest.approx(abs(found.mean), rel=1e-6)
        assert 0 < found.p() <= 1


def test_the_floor_is_what_seeds_cannot_take_away() -> None:
    rng = np.random.default_rng(2)
    image = rng.standard_normal((1, 400))
    few, many = (crossed_components(image + rng.standard_normal((n, 400))) for n in (3, 100))
    assert many.half_width() == pytest.approx(many.floor(), rel=0.03)
    assert few.half_width() > few.floor()


def test_equal_outcomes_have_no_variance() -> None:
    assert crossed_components(np.full((3, 5), 7.0)).half_width() == 0


@pytest.mark.parametrize("shape", [(1, 5), (3, 1), (3,)])
def test_one_of_either_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="at least two"):
        crossed_components(np.zeros(shape))
