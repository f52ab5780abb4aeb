"""The statistics against scipy, closed forms, brute force and simulation."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from scipy import stats

from senet_lab.reports import power
from senet_lab.reports import statistics as st
from senet_lab.reports.verdicts import judge

# 360 test images, most of them easy: (how many, probability of error). Together 2.7% error, as on small data sets.
IMAGES = ((300, 0.002), (40, 0.05), (20, 0.3))
STEP = 100 / 360


def counted_errors(rng: np.random.Generator, seed_effect: np.ndarray) -> np.ndarray:
    """Percent of the 360 images that a training gets wrong; `seed_effect` moves all images' log odds together."""
    wrong = np.zeros(seed_effect.shape)
    for many, p in IMAGES:
        odds = p / (1 - p) * np.exp(seed_effect)
        wrong += rng.binomial(many, odds / (1 + odds))
    return 100 * wrong / 360


def test_interval_and_paired_test_equal_scipy() -> None:
    rng = np.random.default_rng(0)
    for n in (2, 3, 5, 17):
        a, b = rng.normal(5, 1, (2, 40, n))
        theirs = stats.ttest_rel(a, b, axis=-1)
        assert st.paired_t_test(a - b) == pytest.approx(theirs.pvalue)
        low, high = stats.t.interval(0.95, n - 1, loc=a.mean(-1), scale=stats.sem(a, axis=-1))
        assert a.mean(-1) - st.half_width(st.standard_deviation(a), n) == pytest.approx(low)
        assert a.mean(-1) + st.half_width(st.standard_deviation(a), n) == pytest.approx(high)


def test_two_and_three_seeds_by_hand() -> None:
    # n = 2: mean 3, sd √2, t(0.975; 1) = 12.7062, so the half width is 12.7062 · √2 / √2.
    assert st.standard_deviation([2, 4]) == pytest.approx(math.sqrt(2))
    assert st.half_width(st.standard_deviation([2, 4]), 2) == pytest.approx(12.7062, abs=1e-4)
    # n = 3, differences 1, 2, 3: t = 2 √3 = 3.4641; with two degrees of freedom p = 1 − t / √(t² + 2).
    assert st.paired_t_test([1, 2, 3]) == pytest.approx(1 - math.sqrt(12 / 14))
    c = st.compare_pairs({0: 1, 1: 2, 2: 3})
    assert c is not None
    assert (c.n, c.delta, c.sd, c.floored) == (3, 2, 1, False)
    assert (c.low, c.high) == (pytest.approx(2 - 4.30265 / math.sqrt(3), abs=1e-4), pytest.approx(4.48414, abs=1e-4))


def test_holm_equals_the_closed_testing_of_bonferroni() -> None:
    rng = np.random.default_rng(1)
    for m in range(1, 7):
        p = rng.uniform(0, 0.2, m).round(2)  # rounded, so that there are ties
        expected = [
            max(
                min(1.0, len(group) * min(p[list(group)]))
                for size in range(1, m + 1)
                for group in itertools.combinations(range(m), size)
                if i in group
            )
            for i in range(m)
        ]
        assert st.holm(p) == pytest.approx(expected)


def test_holm_leaves_rows_without_a_test_out_of_the_count() -> None:
    assert st.holm([0.01, np.nan, 0.04, np.nan]) == pytest.approx([0.02, np.nan, 0.04, np.nan], nan_ok=True)
    assert st.holm([]).size == 0
    many = np.random.default_rng(2).uniform(size=(50, 6))
    assert st.holm(many) == pytest.approx(np.array([st.holm(row) for row in many]))


@pytest.mark.parametrize("n", [1, 2, 5, 8, 10])
def test_sign_flips_equal_brute_force(n: int) -> None:
    rng = np.random.default_rng(n)
    for d in (rng.normal(0.3, 1, n), rng.integers(-2, 3, n) * STEP):
        flips = np.array(list(itertools.product((1, -1), repeat=n)))
        expected = np.mean(np.abs(flips @ d) >= abs(d.sum()) - 1e-9)
        assert st.sign_flip_test(d) == pytest.approx(expected)


def test_sign_flips_equal_scipy_and_reach_their_smallest_p() -> None:
    d = np.random.default_rng(3).normal(0.5, 1, 9)
    exact = stats.permutation_test((d,), np.mean, permutation_type="samples", n_resamples=np.inf)
    assert st.sign_flip_test(d) == pytest.approx(exact.pvalue)
    assert st.sign_flip_test(np.ones(8) * STEP) == 2 / 2**8
    assert st.sign_flip_test(np.arange(1.0, 21)) == 2 / 2**20
    with pytest.raises(ValueError, match="n = 21 is above 20"):
        st.sign_flip_test(np.ones(21))


@pytest.mark.parametrize("n", [3, 5, 10])
def test_intervals_of_normal_errors_cover(n: int) -> None:
    x = np.random.default_rng(4).normal(0, 1, (20_000, n))
    assert 0.945 < np.mean(np.abs(x.mean(-1)) <= st.half_width(st.standard_deviation(x), n)) < 0.955


@pytest.mark.parametrize("n", [3, 5, 10])
def test_intervals_of_errors_counted_on_360_images_cover(n: int) -> None:
    rng = np.random.default_rng(5)
    seeds = rng.normal(0, 0.15, (20_000, n))
    row, baseline = counted_errors(rng, seeds - 0.1), counted_errors(rng, seeds)
    many = rng.normal(0, 0.15, 400_000)
    true_row, true_baseline = counted_errors(rng, many - 0.1).mean(), counted_errors(rng, many).mean()
    d = row - baseline
    covered = np.abs(d.mean(-1) - (true_row - true_baseline)) <= st.half_width(st.deviation_of_differences(d, STEP), n)
    assert 0.93 < covered.mean() < 0.97
    assert 0.93 < np.mean(np.abs(row.mean(-1) - true_row) <= st.half_width(st.standard_deviation(row, STEP), n)) < 0.97


@pytest.mark.parametrize("n", [2, 3, 5, 10])
def test_false_alarms_over_null_rows_stay_below_five_percent(n: int) -> None:
    """Six rows that differ in nothing, one of them the baseline of the five others; 20,000 such tables."""
    rng, tables = np.random.default_rng(6), 20_000
    seeds = rng.normal(0, 0.15, (tables, 1, n))
    errors = counted_errors(rng, np.broadcast_to(seeds, (tables, 6, n)))
    p = st.holm(st.paired_t_test(errors[:, 1:] - errors[:, :1], STEP))
    alarms = np.mean((p <= st.ALPHA).any(-1))
    assert alarms <= 0.05 + 2 * math.sqrt(0.05 * 0.95 / tables)
    if n >= 5:
        assert alarms > 0.03  # the correction is not merely so strict that nothing is ever shown


def test_without_the_floor_equal_differences_would_raise_false_alarms() -> None:
    """Two trainings that differ by one image or none: three seeds agree on "+1" in one table of eight."""
    rng = np.random.default_rng(7)
    d = rng.integers(0, 2, (20_000, 3)) * STEP - rng.integers(0, 2, (20_000, 1)) * STEP
    assert np.mean(st.paired_t_test(d) <= 0.05) > 0.1
    assert np.mean(st.paired_t_test(d, STEP) <= 0.05) < 0.05


def test_the_floor_is_the_smallest_variance_that_counts_can_show() -> None:
    for n in (2, 3, 4):
        values = (np.array(v) * STEP for v in itertools.product(range(3), repeat=n))
        smallest = min(s for s in (np.std(v, ddof=1) for v in values) if s > 1e-9)
        assert st.standard_deviation([7 * STEP] * n, STEP) == pytest.approx(smallest)
        assert st.standard_deviation([*[7 * STEP] * (n - 1), 8 * STEP], STEP) == pytest.approx(smallest)
    c = st.compare_pairs(dict.fromkeys(range(3), STEP), STEP)
    assert c is not None
    assert c.floored
    assert c.sd == pytest.approx(STEP / math.sqrt(3))
    assert c.p == pytest.approx(2 * stats.t.sf(3.0, 2))  # one step over a standard error of a third of it


@pytest.mark.parametrize(("n", "rows", "correlation", "baseline"), [(10, 2, 0.2, 0.5), (5, 8, 0.2, 1 / 3)])
def test_the_variance_of_rounding_keeps_the_level_where_errors_deviate_by_one_or_two_images(
    n: int, rows: int, correlation: float, baseline: float
) -> None:
    """Settings in which the paired t-test alone has most false alarms; differences by hand, in images."""
    rng, tables = np.random.default_rng(11), 60_000
    first = rng.standard_normal((tables, 1, n))
    others = correlation * first + math.sqrt(1 - correlation**2) * rng.standard_normal((tables, rows, n))
    sd = 1 if n == 10 else 2
    d = np.rint(sd * others) - np.rint(sd * baseline * first)
    t = np.abs(d.mean(-1)) / np.sqrt(np.maximum(d.var(-1, ddof=1) + 1 / 6, 1 / n) / n)
    ours = t.max(-1) >= stats.t.isf(0.025 / rows, n - 1)  # of the smallest p, Holm's is Bonferroni's
    assert (ours == (st.holm(st.paired_t_test(d, step=1.0)) <= 0.05).any(-1)).all()
    plain = np.abs(d.mean(-1)) * math.sqrt(n) / np.maximum(d.std(-1, ddof=1), n**-0.5)
    assert ours.mean() <= 0.05
    assert (plain.max(-1) >= stats.t.isf(0.025 / rows, n - 1)).mean() > 0.053


@pytest.mark.parametrize("n", [2, 3, 5, 10, 50])
@pytest.mark.parametrize("alpha", [0.05, 0.01])
def test_power_and_what_n_can_show(n: int, alpha: float) -> None:
    critical = stats.t.isf(alpha / 2, n - 1)
    for effect in (0.1, 0.5, 1.0):
        exact = stats.nct.sf(critical, n - 1, effect * math.sqrt(n)) + stats.nct.cdf(
            -critical, n - 1, effect * math.sqrt(n)
        )
        assert power.power(effect, n, alpha) == pytest.approx(exact, abs=2e-4)
    assert power.power(0, n, alpha) == pytest.approx(alpha, abs=2e-4)
    draw = np.random.default_rng(8)
    told = power.detectable_effect(n, alpha) * st.standard_deviation(draw.normal(0, 1, (20_000, n)))
    d = draw.normal(told[:, None], 1, (20_000, n))  # other studies, in which what each was told is true
    assert np.mean(st.paired_t_test(d) <= alpha) == pytest.approx(0.8, abs=0.01)


def test_seeds_to_show_is_the_first_n_with_the_power() -> None:
    for effect in (0.2, 0.5, 1.0, 3.0):
        n = power.seeds_to_show(effect, 0.01)
        assert power.power(effect, n, 0.01) >= 0.8 > power.power(effect, n - 1, 0.01)
    # The textbook's example: half a standard deviation at 5% and 80% needs 34 pairs.
    assert power.seeds_to_show(0.5) == 34
    assert power.seeds_to_show(0.0) == power.SEEDS_LIMIT
    assert power.seeds_to_show(1e9) == 2


def test_verdicts_point_the_right_way() -> None:
    rng = np.random.default_rng(9)
    noise = rng.normal(0, 0.05, 5)

    def row(shift: float) -> st.Comparison | None:
        return st.compare_pairs(dict(enumerate(shift + noise)))

    lower, higher, same = judge([row(-1.0), row(+1.0), row(-noise.mean())])
    assert lower is not None
    assert higher is not None
    assert same is not None
    assert (lower.word, higher.word, same.word) == (
        "better on these images",
        "worse on these images",
        "open: 1000 or more seeds",
    )
    assert lower.more_seeds is None
    assert same.more_seeds == power.SEEDS_LIMIT
    expected = noise.std(ddof=1) * power.detectable_effect(5, 0.05 / 3)
    assert same.could_show == pytest.approx(expected)


def test_one_seed_gives_neither_interval_nor_verdict() -> None:
    assert st.sample([3.0], 360) == st.Sample(1, 3.0)
    single = st.compare_pairs({0: 1.0}, STEP)
    assert single == st.Comparison((1.0,), 1.0)
    assert judge([single, None]) == [None, None]
    assert st.compare_pairs({}, STEP) is None
    assert st.sample([], 360) is None


def test_permutation_test_from_eight_to_twenty() -> None:
    rng = np.random.default_rng(10)
    for n, there in ((7, False), (8, True), (20, True), (21, False)):
        c = st.compare_pairs(dict(enumerate(rng.normal(0, 1, n))), 0.1)
        assert c is not None
        assert (c.p_flips is not None) == there
    # From n = 8 on, and not below, the smallest p passes the correction for six rows.
    assert 2 / 2**8 <= 0.05 / 6 < 2 / 2**7


def test_a_test_set_without_images_is_refused() -> None:
    with pytest.raises(ValueError, match="test_images: 0"):
        st.step_percent(0)
