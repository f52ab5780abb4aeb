"""Decides verdicts from the comparison of a row with its baseline, and what would settle an open one.

A row is *better* or *worse* where the difference is shown over seeds and test images, both taken as samples, and so *on
these images* where it is shown over seeds alone. It is *equivalent* where two one-sided t-tests over seeds (Schuirmann
1987) show the difference to be within the margin, which then goes before better and worse: it is known to be too small
to matter. All else is *open*.

With a fixed number of seeds, differences are tested by the paired t-test over seeds and by the crossed one over seeds
and images (`crossed`), each corrected by Holm's method for all tests of the study; equivalence is tested at 0.05 /
tests, so that the margin that a row would just be equivalent within belongs to the same interval. Where a study adds
seeds until a verdict is in, `sequential` looks, at 0.05 / tests over all looks.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy import special

from senet_lab.reports.power import POWER, SEEDS_LIMIT, detectable_effect, seeds_to_equate, seeds_to_show
from senet_lab.reports.sequential import Looks
from senet_lab.reports.statistics import ALPHA, Comparison, half_width, holm, standard_deviation

IMAGES_LIMIT = 1_000_000  # "above"


@dataclass(frozen=True)
class Verdict:
    """The verdict on one row, corrected for all rows of its study.

    Attributes:
        kind: "better", "worse", "better here", "worse here" (on these test images), "equivalent" or "open".
        word: the verdict as tables have it.
        within: the smallest margin that these seeds show the row to be equivalent within; None before a first look.
        floor: the smallest difference that any number of seeds could show on so many test images, at the strictest
            level of the correction; None where nothing is known of each image.
        more_seeds: about how many fresh seeds would settle an open row with 80% power; 1000 is "or more".
        more_images: about how many test images would, where no number of seeds does; 1,000,000 is "above".
        p: of the paired t-test, Holm-corrected; None, like the three that follow, where seeds are added until a verdict
            is in.
        p_crossed: of the test over seeds and images, Holm-corrected; None also where nothing is known of each image.
        p_flips: of the permutation test, Holm-corrected, where it was run.
        could_show: difference that this n shows with 80% power if it is the true one, at the strictest level of the
            correction (0.05 / tests).
    """

    kind: str
    word: str
    within: float | None
    floor: float | None
    more_seeds: int | None = None
    more_images: int | None = None
    p: float | None = None
    p_crossed: float | None = None
    p_flips: float | None = None
    could_show: float | None = None


def judge(
    comparisons: Sequence[Comparison | None], tests: int = 0, margin: float | None = None
) -> list[Verdict | None]:
    """Verdicts over the rows of one study with a fixed number of seeds; None for a row that has no test (no pairs, a
    single one, or failures).

    Args:
        comparisons: each network once.
        tests: how many the whole study has, where that is more.
        margin: smallest difference that matters; None has no equivalence.
    """
    corrected = [
        holm([np.nan if c is None or (p := getattr(c, name)) is None else p for c in comparisons], tests)
        for name in ("p", "p_crossed", "p_flips")
    ]
    level = ALPHA / max(1, tests, int(np.sum(~np.isnan(corrected[0]))))
    return [
        None if c is None or c.sd is None else _judged(c, [float(p) for p in each], level, margin)
        for c, *each in zip(comparisons, *corrected, strict=True)
    ]


def _judged(c: Comparison, corrected: Sequence[float], level: float, margin: float | None) -> Verdict:
    p, p_crossed, p_flips = (None if math.isnan(p) else p for p in corrected)
    assert c.sd is not None
    assert p is not None
    within = abs(c.delta) + float(half_width(c.sd, c.n, 2 * level))
    kind = "open"
    if margin is not None and within < margin:
        kind = "equivalent"
    elif p <= ALPHA:
        kind = _difference(c, p_crossed is not None and p_crossed <= ALPHA)
    could_show = detectable_effect(c.n, level) * c.sd
    verdict = _verdict(c, kind, within, level, margin)
    return replace(verdict, p=p, p_crossed=p_crossed, p_flips=p_flips, could_show=could_show)


def settled_verdict(c: Comparison, looks: Looks) -> tuple[Comparison, Verdict]:
    """The verdict on a row that has as many seeds as it needed, and the comparison with its repeated interval: such
    intervals hold for all rows at all looks together, at 95% or more, and that of an open row never excludes 0. The
    interval over seeds and images is taken once, at the stop, at the level that was left to it.

    Args:
        c: of a row that is tested, over its first seeds without a gap, no more of them than it needed.
        looks: at its seeds.
    """
    sd = None if c.n == 1 else float(standard_deviation(c.differences, looks.step))
    c = replace(c, sd=sd, low=None, high=None, p=None, p_flips=None, p_crossed=None, half_crossed=None)
    so_far = Verdict("open", f"open: {c.n} of at most {looks.most} seeds", None, None)
    if sd is None or c.n < looks.least:
        return c, so_far
    half, inner = (bound * sd / math.sqrt(c.n) for bound in looks.bounds(c.n))
    c, within = replace(c, low=c.delta - half, high=c.delta + half), abs(c.delta) + inner
    stop = looks.follow(c.differences)
    if stop is None:
        return c, replace(so_far, within=within, floor=_floor(c, looks.level))
    assert stop.n == c.n
    c = replace(c, half_crossed=None if c.crossed is None else c.crossed.half_width(looks.left(c.n)))
    kind = stop.word
    if kind in ("better", "worse"):
        kind = _difference(c, c.half_crossed is not None and abs(c.delta) > c.half_crossed)
    return c, _verdict(c, kind, within, looks.level, looks.margin)


def _difference(c: Comparison, over_images: bool) -> str:
    return ("better" if c.delta < 0 else "worse") + ("" if over_images else " here")


def _floor(c: Comparison, level: float) -> float | None:
    return None if c.crossed is None else c.crossed.floor(level)


def _verdict(c: Comparison, kind: str, within: float, level: float, margin: float | None) -> Verdict:
    """A verdict of this kind with its word, and with what would settle it if it is open."""
    seeds, images = needed_seeds(c, level, margin) if kind == "open" else (None, None)
    if kind == "equivalent":
        word = f"equivalent within ±{margin:g}"
    elif seeds is not None:
        word = f"open: {f'{SEEDS_LIMIT} or more' if seeds == SEEDS_LIMIT else f'about {seeds} more'} seeds"
    elif images is not None:
        many = f"above {images:,}" if images == IMAGES_LIMIT else f"about {images:,}"
        word = f"open: more test images needed ({many})"
    else:
        word = kind.replace("here", "on these images")
    return Verdict(kind, word, within, _floor(c, level), seeds, images)


def needed_seeds(c: Comparison, level: float, margin: float | None) -> tuple[int | None, int | None]:
    """What would settle an open row with 80% power, were the observed difference and its spread the true ones: about
    how many fresh seeds, or, where no number of seeds does, how many test images. One of both is None.

    Seeds settle it as a difference, by the paired t-test at this level; where something is known of each image, only a
    difference above the floor that the test set sets: one at or below it might be these images' alone. With a margin
    above the difference they settle it as equivalent, too, and the fewer seeds count. Test images that are needed are
    so many that seeds without end would show the difference over seeds and images: it must be z(level / 2) + z(power)
    of the standard errors that images alone leave (`crossed`), whose square falls as their number grows.

    Args:
        c: of at least two pairs.
        level: of a two-sided test of a difference, and of each one-sided test of equivalence.
        margin: smallest difference that matters; None has no equivalence.
    """
    assert c.sd is not None
    effect = abs(c.delta) / c.sd if c.sd else (math.inf if c.delta else 0.0)
    ways: list[int | None] = []
    if c.crossed is None or abs(c.delta) > c.crossed.floor(level):
        ways.append(seeds_to_show(effect, level))
    if margin is not None and c.sd:
        ways.append(seeds_to_equate(effect, margin / c.sd, level))
    known = [seeds for seeds in ways if seeds is not None]
    if known:
        return min(known), None
    assert c.crossed is not None
    if c.delta == 0:
        return None, IMAGES_LIMIT
    errors = float(special.ndtri(POWER) - special.ndtri(level / 2))
    images = c.crossed.over_images * c.crossed.images * (errors / c.delta) ** 2
    return None, IMAGES_LIMIT if images > IMAGES_LIMIT else _two_digits(images)


def _two_digits(number: float) -> int:
    """A number rounded up to two significant digits."""
    unit = int(10 ** max(0, math.floor(math.log10(max(number, 1))) - 1))
    return math.ceil(number / unit) * unit
