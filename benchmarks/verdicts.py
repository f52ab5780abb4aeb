"""Whether verdicts are right, and how many seeds they take: simulated studies, of which the truth is known.

    python -m benchmarks.verdicts            about a quarter of an hour; nothing is trained
    python -m benchmarks.verdicts --short

- Which test of a fixed number of seeds keeps the level where rows spread differently and share seeds with their
  baseline, and which of those that do has most power.
- How often the intervals hold: over seeds with these test images, and over seeds and images.
- How often whole studies, of fixed seeds or settling ones, show a difference where there is none, or call a row
  equivalent that differs by exactly the margin.
- What a settling study finds and how many seeds it takes, beside a fixed number of the same power; and how many of the
  trainings of a recorded study it takes.

`recorded.csv` beside this file holds the errors of the digits' seven tables of 190 trainings with ten fixed seeds, from
which the correlations and spreads of the simulations were taken; it is the columns study, row, baseline, seed,
test_error and test_images of `results/digits/resnet8-quick/*/trials.csv` as of commit 4c1a243.

Letters of shapes: T simulated studies, R rows (the first one is the baseline), K rows that are compared with it,
S seeds. Errors are numbers of wrong images: what matters of whole images is how many of them one standard deviation is.
"""

from __future__ import annotations

import heapq
import itertools
import math
import sys
import time
from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import optimize, special, stats

from benchmarks import measuring
from benchmarks.measuring import Line
from senet_lab.reports.crossed import crossed_components
from senet_lab.reports.power import NODES, WEIGHTS, power
from senet_lab.reports.sequential import WORDS, Looks
from senet_lab.reports.statistics import (
    ALPHA,
    deviation_of_differences,
    half_width,
    holm,
    paired_t_test,
    standard_deviation,
)

Array = NDArray[np.float64]
Shown = NDArray[np.bool_]
RECORDED = Path(__file__).with_name("recorded.csv")
RESULTS = measuring.RESULTS.parent

SEEDS = (3, 5, 10)
ROWS = (1, 2, 4, 8)
CORRELATIONS = (-0.6, -0.3, 0.0, 0.2, 0.5, 0.8)  # of a row with its baseline over the seeds
IMAGES = (1, 2, 4, 20)  # wrong images in one standard deviation of the rows that are alike
COARSE = 3  # below this, what whole images hide is told by itself
EFFECTS = {3: 3.0, 5: 2.0, 10: 1.5}  # seeds → the true difference of which the power is told, in standard deviations
ERRORS = (0.01, 0.05, 0.15, 0.4)
LEAST, MOST = 3, (20, 40)  # seeds of a settling study
DIFFERENCES = (0.0, 0.5, 1.0, 1.5, 2.0)  # true ones of a settling study, in standard deviations of the differences
MARGINS = (None, 0.5, 1.0)  # likewise
FAMILIES = (1, 2, 4, 8)  # rows of the studies whose false alarms are counted
SEEDS_GOALS = {1.0: 12.0, 1.5: 8.5, 2.0: 7.0}  # true difference → most seeds on average, of at most 20
REPLAY_GOAL = 30
SEVERAL = {"seeds": SEEDS, "rows": ROWS, "images": IMAGES, "correlations": CORRELATIONS}
EXCITATIONS = ("ReLU", "tanh", "softmax")  # rows of the replayed study


def proportion(count: float, runs: int, digits: int = 1) -> str:
    """A share in percent ± its standard error; of none or all, that of half a run."""
    share = count / runs
    safe = min(max(share, 0.5 / runs), 1 - 0.5 / runs)
    return f"{100 * share:.{digits}f} ± {100 * math.sqrt(safe * (1 - safe) / runs):.{digits + 1}f}"


# --------------------------------------------------------------------------------------------------------------------
# What the published trials have


def recorded() -> pd.DataFrame:
    return pd.read_csv(RECORDED)


def pairs(trials: pd.DataFrame) -> list[Line]:
    """A line for each row that is compared: its correlation with its baseline over the seeds, and its deviation over
    that of the baseline. A network that several tables have stands once with each baseline."""
    found: dict[tuple[float, ...], Line] = {}
    for study, table in trials.groupby("study"):
        errors = table.pivot(index="seed", columns="row", values="test_error")
        for row, baseline in table.groupby("row")["baseline"].first().dropna().items():
            if row != baseline:
                x, y = errors[row], errors[baseline]
                line = {"study": study, "row": row, "correlation": float(x.corr(y)), "ratio": float(x.std() / y.std())}
                found.setdefault((*x, *y), line)
    return list(found.values())


# --------------------------------------------------------------------------------------------------------------------
# Tests of a fixed number of seeds


def spreads(rows: int) -> dict[str, tuple[int, Array]]:
    """What the deviations of a baseline and its rows may be: name → how manifold they differ, and the deviations."""
    found = {"all alike": (1, np.ones(rows + 1))}
    for fold, (place, at) in itertools.product((2, 3), (("one row", 1), ("the baseline", 0))):
        for name, factor in ((f"{place} {fold} times", fold), (f"{place} 1/{fold}", 1 / fold)):
            deviations = np.ones(rows + 1)
            deviations[at] = factor
            found[name] = (fold, deviations)
    return found


def drawn(rng: np.random.Generator, studies: int, seeds: int, deviations: Array, correlation: float) -> Array:
    """Deviations of the errors of studies from their true values, as (T, R, S): each row has the same correlation with
    the baseline, and with another row the square of it."""
    z_TRS = rng.standard_normal((studies, len(deviations), seeds))
    z_TRS[:, 1:] = correlation * z_TRS[:, :1] + math.sqrt(1 - correlation**2) * z_TRS[:, 1:]
    return np.asarray(z_TRS * deviations[:, None])


def differences(errors_TRS: Array) -> Array:
    return errors_TRS[:, 1:] - errors_TRS[:, :1]


def variances(values: Array) -> Array:
    return np.asarray(standard_deviation(values, step=1.0) ** 2)


def p_of(t: Array, freedom: Array | float) -> Array:
    return np.asarray(2 * special.stdtr(freedom, -np.abs(t)))


def paired(errors_TRS: Array) -> Shown:
    """The paired t-test with the variance of rounding, corrected by Holm's method."""
    return np.asarray(holm(paired_t_test(differences(errors_TRS), step=1.0)) <= ALPHA)


def unrounded(errors_TRS: Array, images: float = 0.0) -> Shown:
    """The same without the variance of rounding, and with so many images less in the sum of the differences."""
    d_TKS = differences(errors_TRS)
    n = d_TKS.shape[-1]
    mean_TK = np.maximum(np.abs(d_TKS.mean(-1)) - images / n, 0)
    return np.asarray(holm(p_of(mean_TK / np.sqrt(variances(d_TKS) / n), n - 1)) <= ALPHA)


def continued(errors_TRS: Array) -> Shown:
    """The paired t-test with a correction for continuity, half a step of the sum, corrected by Holm's method."""
    return unrounded(errors_TRS, 0.5)


def welch(errors_TRS: Array) -> Shown:
    """Welch's test, which takes row and baseline for independent, corrected by Holm's method."""
    n = errors_TRS.shape[-1]
    v_TR = variances(errors_TRS) / n
    v_TK = v_TR[:, 1:] + v_TR[:, :1]
    freedom = v_TK**2 * (n - 1) / (v_TR[:, 1:] ** 2 + v_TR[:, :1] ** 2)
    return np.asarray(holm(p_of(differences(errors_TRS).mean(-1) / np.sqrt(v_TK), freedom)) <= ALPHA)


def dunnett(errors_TRS: Array) -> Shown:
    """Dunnett's comparison with the baseline, with the variance pooled over all rows."""
    _, rows, n = errors_TRS.shape
    error_T1 = np.sqrt(2 / n * variances(errors_TRS).mean(1, keepdims=True))
    bound = dunnett_bound(rows - 1, rows * (n - 1))
    return np.asarray(np.abs(differences(errors_TRS).mean(-1)) > bound * error_T1)


def two_way(errors_TRS: Array) -> Shown:
    """Dunnett's comparison with the residuals of a two-way table, whose blocks are the seeds."""
    _, rows, n = errors_TRS.shape
    rest = errors_TRS - errors_TRS.mean(1, keepdims=True)
    freedom = (rows - 1) * (n - 1)
    square_T1 = np.maximum((variances(rest) * (n - 1)).sum(1, keepdims=True) / freedom, 0.5 / n)
    bound = dunnett_bound(rows - 1, freedom)
    return np.asarray(np.abs(differences(errors_TRS).mean(-1)) > bound * np.sqrt(2 / n * square_T1))


def moderated(errors_TRS: Array) -> Shown:
    """The paired t-test with each variance shrunk towards that of all rows (Smyth 2004), corrected by Holm's method."""
    d_TKS = differences(errors_TRS)
    n = d_TKS.shape[-1]
    v_TK, freedom = shrunk(variances(d_TKS), n - 1)
    return np.asarray(holm(p_of(d_TKS.mean(-1) / np.sqrt(v_TK / n), freedom)) <= ALPHA)


def shrunk(v_TK: Array, freedom: int) -> tuple[Array, Array]:
    """Variances shrunk towards their common one by an inverse χ² whose size and degrees of freedom are those that the
    moments of their logarithms tell, and the degrees of freedom that they then have: at most those of all rows."""
    rows = v_TK.shape[1]
    if rows == 1:
        return v_TK, np.full(v_TK.shape, float(freedom))
    e_TK = np.log(v_TK) - special.digamma(freedom / 2) + math.log(freedom / 2)
    excess_T1 = e_TK.var(1, ddof=1, keepdims=True) - special.polygamma(1, freedom / 2)
    differ = excess_T1 > 1e-3  # else one variance for all
    half = trigamma_inverse(np.where(differ, excess_T1, 1.0))
    common = np.exp(e_TK.mean(1, keepdims=True) + special.digamma(half) - np.log(half))
    prior = np.where(differ, 2 * half, 1e9)
    common = np.where(differ, common, v_TK.mean(1, keepdims=True))
    return (prior * common + freedom * v_TK) / (prior + freedom), np.minimum(prior + freedom, rows * freedom)


def trigamma_inverse(values: Array) -> Array:
    """y of ψ′(y) = value, by Newton's method on 1 / ψ′, which is nearly straight."""
    y = 0.5 + 1 / values
    for _ in range(8):
        there = special.polygamma(1, y)
        y = y + there * (1 - there / values) / special.polygamma(2, y)
    return np.asarray(y)


@lru_cache(maxsize=64)
def dunnett_bound(rows: int, freedom: int) -> float:
    """What the largest |t| of `rows` comparisons with one baseline exceeds in 5%: integrated over the baseline's mean
    and the pooled variance, given which the comparisons are independent."""
    u = (NODES + 1) / 2
    mean, spread = special.ndtri(u), np.sqrt(stats.chi2.ppf(u, freedom) / freedom)

    def excess(bound: float) -> float:
        reach = math.sqrt(2) * bound * spread[:, None]
        within = (special.ndtr(mean + reach) - special.ndtr(mean - reach)) ** rows
        return float(1 - WEIGHTS / 2 @ within @ (WEIGHTS / 2)) - ALPHA

    return float(optimize.brentq(excess, 0.1, 100))


TESTS: dict[str, Callable[[Array], Shown]] = {
    "paired t, Holm": paired,
    "paired t without the variance of rounding, Holm": unrounded,
    "paired t, corrected for continuity instead, Holm": continued,
    "Welch, Holm": welch,
    "Dunnett, pooled variance": dunnett,
    "Dunnett, two-way residuals": two_way,
    "paired t, moderated variance, Holm": moderated,
}


def fixed_settings(short: bool) -> Iterator[Line]:
    some = (SEEDS[:1], ROWS[:2], CORRELATIONS[::3], IMAGES[1:3]) if short else (SEEDS, ROWS, CORRELATIONS, IMAGES)
    for n, rows, correlation, images in itertools.product(*some):
        for name, (fold, _) in spreads(rows).items():
            yield {"seeds": n, "rows": rows, "correlation": correlation, "images": images, "spread": name, "fold": fold}


def fixed(setting: Line, studies: int, tests: list[str], effect: float = 0.0, again: int = 0) -> list[Line]:
    """A line a test: in how many simulated studies it showed a difference of any row, and of how many rows of all.

    Args:
        setting: of `fixed_settings`.
        effect: the true difference of every row, in standard deviations of the rows that are alike.
        again: another number draws other studies.
    """
    n, rows, images = setting["seeds"], setting["rows"], setting["images"]
    _, deviations = spreads(rows)[setting["spread"]]
    rng = np.random.default_rng([again, n, rows, images, round(100 * setting["correlation"]) + 100])
    truth = np.append(0.0, np.full(rows, effect))
    errors_TRS = np.rint(images * (drawn(rng, studies, n, deviations, setting["correlation"]) + truth[:, None]))
    lines = []
    for name in tests:
        shown = TESTS[name](errors_TRS)
        counts = {"any": int(shown.any(1).sum()), "mean": float(shown.mean())}
        lines.append({"of": "fixed", "test": name, **setting, "effect": effect, "studies": studies, **counts})
    return lines


# Heading → how manifold deviations differ, the least correlation, whether a deviation is few images, and what the false
# alarms should stay below: the classes of settings for which the most of them are told.
CLASSES = {
    "≤ 2 times, correlation ≥ 0": (2, 0.0, False, 5.0),
    "3 times, correlation ≥ 0": (3, 0.0, False, 6.0),
    "≤ 2 times, any correlation": (2, -1.0, False, 5.0),
    "3 times, any correlation": (3, -1.0, False, 6.0),
    "≤ 2 times, one or two images": (2, -1.0, True, 5.0),
    "3 times, one or two images": (3, -1.0, True, 6.0),
}
AGAIN = 3  # settings of each class that are simulated again


def fixed_alarms(screened: int, confirmed: int, short: bool) -> tuple[list[Line], list[Line]]:
    """The page's table and all lines. The settings in which a test is worst are found with few studies of each, and
    simulated again with many others, since the worst of many is so by chance, too."""
    everywhere = [line for setting in fixed_settings(short) for line in fixed(setting, screened, list(TESTS))]
    table, worsts = [], []
    for name in TESTS:
        row: Line = {"test": name}
        for heading, (fold, least, coarse, _) in CLASSES.items():
            among = [
                line
                for line in everywhere
                if line["test"] == name
                and (line["fold"] == 3) == (fold == 3)
                and line["correlation"] >= least
                and (line["images"] < COARSE) == coarse
            ]
            again = []
            for worst in heapq.nlargest(AGAIN, among, key=lambda line: line["any"]):
                setting = {key: worst[key] for key in ("seeds", "rows", "correlation", "images", "spread", "fold")}
                again += fixed(setting, confirmed, [name], again=1)
            most = max(again, key=lambda line: line["any"])
            worsts += [{**line, "of": "fixed, again", "class": heading} for line in again]
            worsts.append({**most, "of": "fixed, worst", "class": heading})
            row[heading] = proportion(most["any"], confirmed)
        table.append(row)
    return table, everywhere + worsts


def fixed_power(studies: int) -> tuple[list[Line], list[Line]]:
    """Power for a row, where all rows differ and all spread alike."""
    measured, table = [], {name: {"test": name} for name in TESTS}
    for (n, effect), rows, correlation in itertools.product(EFFECTS.items(), ROWS, CORRELATIONS):
        setting = {"seeds": n, "rows": rows, "correlation": correlation, "images": 4, "spread": "all alike", "fold": 1}
        lines = fixed(setting, studies, list(TESTS), effect)
        measured += [{**line, "of": "fixed, power"} for line in lines]
        for line in lines:
            if rows == 4 and correlation in (0.0, 0.2, 0.5):
                table[line["test"]][f"n = {n}, {correlation:g}"] = f"{line['mean']:.0%}"
    return list(table.values()), measured


# --------------------------------------------------------------------------------------------------------------------
# Intervals over seeds, and over seeds and images


# What seeds and images add: name → the deviation of an image's effect, in those of what is left of a normal variable
# whose sign says whether the image is wrong, and the deviation of the true errors of networks, over their mean.
MIXES = {
    "images, hardly seeds": (3.0, 0.02),
    "images and seeds": (1.5, 0.15),
    "seeds as in the published trials": (1.0, 0.35),
    "neither": (0.0, 0.0),
}
INTERVALS = ("error, seeds", "error, seeds and images", "Δ, seeds", "Δ, seeds and images")


def wrong(rng: np.random.Generator, image_I: Array, seed_sd: float, n: int, bound: float) -> NDArray[np.int8]:
    """Which images n trainings get wrong, as (S, I)."""
    x_SI = rng.standard_normal((n, len(image_I)), dtype=np.float32)
    x_SI += image_I.astype(np.float32)
    x_SI += (seed_sd * rng.standard_normal((n, 1))).astype(np.float32)
    return np.asarray(x_SI > bound, dtype=np.int8)


def held(rng: np.random.Generator, mix: str, n: int, images: int, error: float, more: float) -> list[bool]:
    """Whether each of INTERVALS holds in one simulated study of a baseline with this error (as a share) and a row with
    `more` times as much, whose images' effects are correlated by 0.8."""
    image_sd, relative = MIXES[mix]
    rest = math.hypot(1, image_sd)
    z = float(special.ndtri(error))
    seed_sd = relative * rest * error / float(stats.norm.pdf(z))  # changes the error by `relative` of it
    first_I = image_sd * rng.standard_normal(images)
    effects = [first_I, 0.8 * first_I + 0.6 * image_sd * rng.standard_normal(images)]
    outcomes, here, true = [], [], []
    for image_I, share in zip(effects, (error, more * error), strict=True):
        bound = -float(special.ndtri(share)) * math.hypot(rest, seed_sd)
        outcomes.append(wrong(rng, image_I, seed_sd, n, bound))
        here.append(100 * float(special.ndtr((image_I - bound) / math.hypot(1, seed_sd)).mean()))
        true.append(100 * share)
    found: list[bool] = []
    step = 100 / images
    cases = (
        (outcomes[0], here[0], true[0], standard_deviation),
        (outcomes[1] - outcomes[0], here[1] - here[0], true[1] - true[0], deviation_of_differences),
    )
    for y_SI, on_these, on_all, deviation in cases:
        values = 100.0 * y_SI.mean(1)
        both = crossed_components(100.0 * y_SI, step)
        found += [
            bool(abs(values.mean() - on_these) <= half_width(deviation(values, step), n) + 1e-9),
            abs(both.mean - on_all) <= both.half_width() + 1e-9,
        ]
    return found


def coverage(studies: int, short: bool) -> tuple[list[Line], list[Line]]:
    """How often intervals hold; the settings of which fewest and most hold are simulated again with others and more."""
    numbers, sizes, errors = ((3, 10), (100, 1000), (0.05,)) if short else ((3, 5, 10, 20), (100, 1000, 10_000), ERRORS)
    measured: list[Line] = []

    def simulate(mix: str, n: int, images: int, error: float, runs: int, again: int) -> dict[str, int]:
        rng = np.random.default_rng([again, n, images, round(100 * error), list(MIXES).index(mix)])
        more = (1.0, 1.25)
        return dict(
            zip(
                INTERVALS,
                np.sum([held(rng, mix, n, images, error, more[at % 2]) for at in range(runs)], 0).tolist(),
                strict=True,
            )
        )

    for images, error, mix, n in itertools.product(sizes, errors, MIXES, numbers):
        runs = studies if images < 10_000 else studies // 3
        setting: Line = {"mix": mix, "seeds": n, "images": images, "error": error}
        counts = simulate(mix, n, images, error, runs, 0)
        measured += [
            {"of": "coverage", **setting, "interval": name, "studies": runs, "any": count}
            for name, count in counts.items()
        ]
    table: list[Line] = []
    for many, interval in itertools.product((True, False), INTERVALS):
        own = [e for e in measured if e["interval"] == interval and (e["images"] * e["error"] >= 30) == many]
        line: Line = {"wrong images": "30 or more" if many else "fewer", "interval": interval}
        runs, count = sum(e["studies"] for e in own), sum(e["any"] for e in own)
        line["all settings, %"] = proportion(count, runs)
        for heading, pick in (("fewest, %", min), ("most, %", max)):
            end = pick(own, key=lambda e: e["any"] / e["studies"])
            runs = studies * 5 // (1 if end["images"] < 10_000 else 3)
            keys = ("mix", "seeds", "images", "error")
            count = simulate(*(end[key] for key in keys), runs, 1)[interval]
            again = {
                "of": f"coverage, {heading[:-3]}",
                "many": many,
                **{key: end[key] for key in keys},
                "interval": interval,
            }
            measured.append({**again, "studies": runs, "any": count})
            where = f"{end['mix']}, n = {end['seeds']}, N = {end['images']:,}, {end['error']:.0%}"
            line[heading] = f"{proportion(count, runs)} ({where})"
        table.append(line)
    return table, measured


# --------------------------------------------------------------------------------------------------------------------
# Seeds until a verdict is in


EQUIVALENT = WORDS.index("equivalent")
SETTLE = "settle"
FIXED = {f"{n} seeds": n for n in SEEDS}


class Stops(NamedTuple):
    """Where rows stop, as arrays: seeds, and the place of the word in WORDS."""

    seeds: NDArray[np.int_]
    word: NDArray[np.int_]


def followed(d: Array, looks: Looks) -> Stops:
    """`Looks.follow` of many rows at once: their differences seed by seed over the last axis, `most` of them."""
    seeds, word = np.zeros(d.shape[:-1], dtype=int), np.zeros(d.shape[:-1], dtype=int)
    going = np.ones(d.shape[:-1], dtype=bool)
    for n in range(looks.least, looks.most + 1):
        found, ends = looks.look(d[..., :n])
        word[going & ends], seeds[going & ends] = found[going & ends], n
        going &= ~ends
    return Stops(seeds, word)


def alarms(setting: Line, margin: float | None, studies: int, again: int) -> dict[str, int]:
    """In how many simulated studies a row is called what it is not: by settling, and with fixed seeds.

    Args:
        margin: which every row differs from the baseline by, and is called equivalent within; None: nothing differs.
            In standard deviations of the rows that are alike.
    """
    rows, images = setting["rows"], setting["images"]
    rng = np.random.default_rng([again, rows, images, round(100 * setting["correlation"]) + 100])
    _, deviations = spreads(rows)[setting["spread"]]
    shift = np.append(0.0, np.full(rows, margin or 0.0))
    errors_TRS = np.rint(images * (drawn(rng, studies, MOST[0], deviations, setting["correlation"]) + shift[:, None]))
    d_TKS, level, edge = differences(errors_TRS), ALPHA / rows, None if margin is None else margin * images
    stops = followed(d_TKS, Looks(level, LEAST, MOST[0], edge, step=1.0))
    fails = {SETTLE: stops.word == EQUIVALENT if margin is not None else (stops.word == 1) | (stops.word == 2)}
    for study, n in FIXED.items():
        first = d_TKS[..., :n]
        if edge is None:
            fails[study] = paired(errors_TRS[..., :n])
        else:  # two one-sided tests at 0.05 / rows each
            half = half_width(deviation_of_differences(first, 1.0), n, 2 * level)
            fails[study] = edge - np.abs(first.mean(-1)) > half
    return {study: int(failed.any(-1).sum()) for study, failed in fails.items()}


def settled_alarms(margin: float | None, studies: int, short: bool) -> tuple[list[Line], list[Line]]:
    """False alarms and, with a margin, false equivalences of whole studies; the setting in which a study fails most is
    simulated again with others and more."""
    some = ((1, 4), (0.2,), (4,)) if short else (FAMILIES, CORRELATIONS[::2], IMAGES[::2])
    of = "false alarms" if margin is None else "false equivalences"
    measured: list[Line] = []
    for rows, correlation, images in itertools.product(*some):
        for name, (fold, _) in spreads(rows).items():
            setting = {"rows": rows, "correlation": correlation, "images": images, "spread": name, "fold": fold}
            counts = alarms(setting, margin, studies, 0)
            measured += [
                {"of": of, "test": study, **setting, "studies": studies, "any": counts[study]} for study in counts
            ]
    table, worsts = [], []
    for study in (SETTLE, *FIXED):
        own = [line for line in measured if line["test"] == study]
        line: Line = {"study": study}
        for rows in some[0]:
            part = [each["any"] for each in own if each["rows"] == rows]
            line[plural(rows)] = proportion(sum(part), studies * len(part))
        worst = max(own, key=lambda each: each["any"])
        count = alarms(worst, margin, 10 * studies, 1)[study]
        worsts.append({**worst, "of": f"{of}, worst", "studies": 10 * studies, "any": count})
        where = (
            f"{plural(worst['rows'])}, {worst['spread']}, correlation {worst['correlation']:g}, sd {worst['images']}"
        )
        line["in the setting with most"] = f"{proportion(count, 10 * studies)} ({where})"
        table.append(line)
    return table, measured + worsts


def plural(rows: int) -> str:
    return "1 row" if rows == 1 else f"{rows} rows"


def settled_power(studies: int, short: bool) -> tuple[list[Line], list[Line]]:
    """What a study of one row finds and how many seeds it takes, by the true difference in standard deviations of the
    differences."""
    measured, table = [], []
    for most, margin, effect in itertools.product(MOST[: 1 if short else 2], MARGINS, DIFFERENCES):
        rng = np.random.default_rng([8, most, round(10 * effect)])
        stops = followed(rng.standard_normal((studies, most)) + effect, Looks(ALPHA, LEAST, most, margin))
        shown = float(np.isin(stops.word, (1, 2)).mean())
        counts = {word: int((stops.word == at).sum()) for at, word in enumerate(WORDS)}
        mean, error = float(stops.seeds.mean()), float(stops.seeds.std(ddof=1) / math.sqrt(studies))
        same = next((n for n in range(2, 200) if effect and shown < 0.999 and power(effect, n) >= shown), None)
        line: Line = {"most seeds": most, "margin": margin, "effect": effect, "studies": studies, **counts}
        measured.append({"of": "settle", **line, "seeds": mean, "seeds_error": error, "fixed": same})
        told: Line = {"most seeds": most, "margin, sd": "none" if margin is None else f"{margin:g}", "Δ, sd": effect}
        told |= {
            "seeds": f"{mean:.2f} ± {error:.3f}",
            "shown, %": proportion(counts["better"] + counts["worse"], studies),
        }
        told |= {"equivalent, %": proportion(counts["equivalent"], studies) if margin else ""}
        told |= {"open, %": proportion(counts["open"], studies)}
        table.append({**told, "fixed seeds of this power": same if same and margin is None else ""})
    return table, measured


# --------------------------------------------------------------------------------------------------------------------
# Recorded trainings, looked at again


def replayed(orders: int, short: bool) -> tuple[list[Line], list[Line]]:
    """The recorded excitation study, settled: over random orders of its ten seeds, how many of its 40 trainings it
    takes, those of the baseline counted up to the row that takes most, and how often all its verdicts are those of all
    40. A row that ten seeds leave undecided counts with ten."""
    table = recorded().query("study == 'excitation'")
    errors = table.pivot(index="seed", columns="row", values="test_error")
    step = 100 / int(table["test_images"].iloc[0])
    d_KS = np.stack([errors[row] - errors["sigmoid"] for row in EXCITATIONS])
    alone = [
        "worse" if p <= ALPHA and d.mean() > 0 else "other"
        for p, d in zip(holm(paired_t_test(d_KS, step)), d_KS, strict=True)
    ]
    rng, made, measured = np.random.default_rng(9), [], []
    for most, margin in itertools.product(MOST[: 1 if short else 2], (None, 0.5)):
        trainings, same = [], 0
        for _ in range(orders):
            order = rng.permutation(d_KS.shape[1])
            looks = Looks(ALPHA / len(d_KS), LEAST, most, margin, step)
            stops = [looks.follow(d[order]) for d in d_KS]
            seeds = [d_KS.shape[1] if stop is None else stop.n for stop in stops]
            trainings.append(sum(seeds) + max(seeds))
            same += [stop.word if stop else "open" for stop in stops] == alone
        mean, error = float(np.mean(trainings)), float(np.std(trainings, ddof=1) / math.sqrt(orders))
        measured.append(
            {"of": "replay", "most seeds": most, "margin": margin, "orders": orders, "trainings": mean}
            | {"trainings_error": error, "same": same, "verdicts": " ".join(alone)}
        )
        made.append(
            {"most seeds": most, "margin, points": margin or "none", "trainings of 40": f"{mean:.2f} ± {error:.2f}"}
            | {"most": max(trainings), "all verdicts as with 40, %": proportion(same, orders)}
        )
    return made, measured


# --------------------------------------------------------------------------------------------------------------------
# Against the goals


def goals(measured: list[Line]) -> list[Line]:
    """What is to be reached, what was found, and whether it is, within two standard errors of the simulation."""
    made: list[Line] = []

    def add(what: str, goal: str, found: list[Line], low: float = 0.0, high: float = 100.0) -> None:
        shares = [(100 * each["any"] / each["studies"], each["studies"]) for each in found]
        errors = [2 * math.sqrt(max(share * (100 - share), 50 / runs) / runs) for share, runs in shares]
        fits = all(low - error <= share <= high + error for (share, _), error in zip(shares, errors, strict=True))
        told = [proportion(each["any"], each["studies"]) for each in found]
        made.append({"what": what, "goal": goal, "found": "; ".join(told), "reached": "yes" if fits else "no"})

    def of(text: str, **like: object) -> list[Line]:
        return [line for line in measured if line["of"] == text and all(line[key] == like[key] for key in like)]

    for heading, (*_, most) in CLASSES.items():
        found = of("fixed, worst", test="paired t, Holm", **{"class": heading})
        add(f"false alarms of a table of fixed seeds, deviations {heading}", f"≤ {most:g}%", found, high=most)
    for interval in INTERVALS:
        for many, high in ((True, 97.0), (False, 100.0)):
            found = [
                line for end in ("fewest", "most") for line in of(f"coverage, {end}", interval=interval, many=many)
            ]
            goal = "93 to 97%" if many else "≥ 93%"
            add(f"interval of {interval}; {'30 wrong images or more' if many else 'fewer'}", goal, found, 93.0, high)
    for what, study in itertools.product(("false alarms", "false equivalences"), (SETTLE, *FIXED)):
        most = 6.0 if study in FIXED and what == "false alarms" else 5.0  # some rows spread three times as much
        add(f"{what}: {study}", f"≤ {most:g}%", of(f"{what}, worst", test=study), high=most)
    for effect, most in SEEDS_GOALS.items():
        (line,) = [each for each in of("settle", effect=effect) if each["most seeds"] == 20 and each["margin"] is None]
        told = f"{line['seeds']:.2f} ± {line['seeds_error']:.3f}"
        reached = "yes" if line["seeds"] <= most else "no"
        what = f"seeds of settle, one row, at most 20, true difference {effect:g} sd"
        made.append({"what": what, "goal": f"≤ {most:g}", "found": told, "reached": reached})
    for line in of("replay"):
        what = f"trainings of a recorded study, at most {line['most seeds']} seeds, margin {line['margin'] or 'none'}"
        told = f"{line['trainings']:.2f} ± {line['trainings_error']:.2f}"
        reached = "yes" if line["trainings"] <= REPLAY_GOAL else "no"
        made.append({"what": what, "goal": f"≤ {REPLAY_GOAL} of 40", "found": told, "reached": reached})
    return made


def thirteen(studies: int) -> tuple[float, str]:
    """Power of 13 fixed seeds at one standard deviation: by integration, and by simulation."""
    d = np.random.default_rng(13).standard_normal((studies, 13)) + 1
    return power(1.0, 13), proportion(float((paired_t_test(d) <= ALPHA).sum()), studies)


def main(words: list[str] | None = None) -> int:
    made = measuring.arguments(__doc__)
    made.set_defaults(to=RESULTS)
    given = made.parse_args(words)
    short = given.short
    few, many, runs = (100, 400, 20) if short else (2000, 40_000, 300)
    parts: dict[str, Callable[[], tuple[list[Line], list[Line]]]] = {
        "Tests of a fixed number of seeds: false alarms of a table, %, in the setting with most": lambda: fixed_alarms(
            few, many, short
        ),
        "Tests of a fixed number of seeds: power": lambda: fixed_power(few),
        "Intervals: how often they hold": lambda: coverage(runs, short),
        "Nothing differs, and a difference is shown: studies, %": lambda: settled_alarms(None, few, short),
        "All differ by exactly the margin, and one is called equivalent: studies, %": lambda: settled_alarms(
            3.0, few, short
        ),
        "`seeds=settle` with one row: seeds and verdicts": lambda: settled_power(500 if short else 20_000, short),
        "The recorded excitation study, settled": lambda: replayed(20 if short else 500, short),
    }
    measured: list[Line] = []
    tables: dict[str, list[Line]] = {}
    started = time.perf_counter()
    for heading, part in parts.items():
        tables[heading], lines = part()
        measured += lines
        print(f"{time.perf_counter() - started:.0f} s: {heading}: done", file=sys.stderr)
    tables = {"What is to be reached": goals(measured), **tables}
    published = pairs(recorded())
    r, ratio = (np.array([line[key] for line in published]) for key in ("correlation", "ratio"))
    chance_alone = math.sqrt((1 - r.mean() ** 2) ** 2 / 9)
    exact, simulated = thirteen(10 * few)
    measured += [{"of": "recorded", **line} for line in published]
    several = {name: ", ".join(map(str, values)) for name, values in SEVERAL.items()}
    shown = ", ".join(f"{effect:g} (n = {n})" for n, effect in EFFECTS.items())
    errors = ", ".join(f"{error:.0%}" for error in ERRORS)
    mixes = ", ".join(f"{relative:.0%} ({name})" for name, (_, relative) in MIXES.items())
    notes = [
        f"Each share is in percent ± its standard error. Of each setting {few:,} studies are simulated (for intervals "
        f"{runs:,}, with 10,000 images a third of it). The settings with fewest or most, of tests of fixed seeds "
        f"the {AGAIN} with most of each class, are then simulated again with other numbers, {many:,} studies (settling "
        f"ones {10 * few:,}, intervals {5 * runs:,}), since the worst of many is so by chance, too. “Reached” allows "
        "for two standard errors.",
        f"The digits' {len(published)} rows with ten seeds have correlations with their baselines from {r.min():.2f} "
        f"to {r.max():.2f}, on average {r.mean():.2f} with a deviation of {r.std(ddof=1):.2f}; were all "
        f"{r.mean():.2f}, ten seeds would show a deviation of {chance_alone:.2f} by chance. Rows spread "
        f"{ratio.min():.2f} to {ratio.max():.2f} times as much as their baseline.",
        f"Tests of fixed seeds: {several['seeds']} seeds, {several['rows']} rows; errors in whole images, of which one "
        f"standard deviation (sd) is {several['images']}; one row or the baseline spreads 2 or 3 times as much as the "
        f"others, or a half or a third; correlations with the baseline {several['correlations']}.",
        "Where a deviation is one or two images, few values of t are possible, and the paired t-test has up to a point "
        "more false alarms than at four images or more; this is told by itself. The lab's test adds the variance of "
        "rounding, (one image)² / 6, to that of the differences of a fixed number of seeds.",
        "Power: of one row, by n and correlation, where four rows differ from the baseline by so many standard "
        f"deviations of a training: {shown}.",
        "The paired t-test alone keeps the level whatever the correlation, and is the lab's test. Welch's test has "
        "more power with three and five seeds that are hardly correlated, and keeps the level if no correlation is "
        "negative, which ten seeds a row cannot show. The other three take spreads for alike, and fail where they are "
        "not.",
        "Intervals: of one row's error and of a difference, over seeds with these images, and over seeds and images; n "
        f"= 3, 5, 10, 20; N = 100, 1,000, 10,000; errors of {errors}; a row with as many errors as the baseline or a "
        f"quarter more, on the same images. By its seed a network's true error deviates by {mixes} of it.",
        f"Settling studies look from {LEAST} to {MOST[0]} seeds. The margin is three deviations of a training, so that "
        "its other side plays no part. With one row, differences are in standard deviations of the paired differences; "
        f"13 fixed seeds show one of 1 with {exact:.1%} (simulated: {simulated}%).",
        "The replay draws random orders of the ten recorded seeds; rows that are open after ten count with ten, the "
        "baseline with as many as the row that takes most.",
    ]
    measuring.write("verdicts", "Verdicts: whether they are right, and what they cost", tables, measured, notes, given)
    return 0


if __name__ == "__main__":
    sys.exit(main())
