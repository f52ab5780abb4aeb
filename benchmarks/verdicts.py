"""Whether verdicts are right, and how many seeds they take: simulated studies, of which the truth is known.

    python -m benchmarks.verdicts            about a quarter of an hour; nothing is trained
    python -m benchmarks.verdicts --short

- Which test of a fixed number of seeds keeps the level where rows spread differently and share seeds with their
  baseline, and which of those that do has most power.

`recorded.csv` beside this file holds the errors of the digits' seven tables of 190 trainings with ten fixed seeds, from
which the correlations and spreads of the simulations were taken; it is the columns study, row, baseline, seed,
test_error and test_images of `results/digits/resnet8-quick/*/trials.csv` as of commit 4c1a243.

Letters of shapes: T simulated studies, R rows (the first one is the baseline), K rows that are compared with it,
S seeds. Errors are numbers of wrong images: what matters of whole images is how many of them one standard deviation is.
"""

from __future__ import annotations

import itertools
import math
import sys
from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import optimize, special, stats

from benchmarks import measuring
from benchmarks.measuring import Line
from senet_lab.reports.statistics import ALPHA, NODES, WEIGHTS, holm, paired_t_test, standard_deviation

Array = NDArray[np.float64]
Shown = NDArray[np.bool_]
RECORDED = Path(__file__).with_name("recorded.csv")
RESULTS = measuring.RESULTS.parent

SEEDS = (3, 5, 10)
ROWS = (1, 3, 8)
CORRELATIONS = (-0.6, -0.3, 0.0, 0.2, 0.5, 0.8)  # of a row with its baseline over the seeds
IMAGES = (1, 4, 20)  # wrong images in one standard deviation of the rows that are alike
EFFECTS = {3: 3.0, 5: 2.0, 10: 1.5}  # seeds → the true difference of which the power is told, in standard deviations


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
    """The paired t-test, corrected by Holm's method."""
    return np.asarray(holm(paired_t_test(differences(errors_TRS), step=1.0)) <= ALPHA)


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
    "Welch, Holm": welch,
    "Dunnett, pooled variance": dunnett,
    "Dunnett, two-way residuals": two_way,
    "paired t, moderated variance, Holm": moderated,
}


def fixed_settings() -> Iterator[Line]:
    for n, rows, correlation, images in itertools.product(SEEDS, ROWS, CORRELATIONS, IMAGES):
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


# What differs by how much, and the correlations: the classes for which the worst false alarms are told.
CLASSES = {
    "≤ 2 times, correlation ≥ 0": (2, 0.0, 5.0),
    "3 times, correlation ≥ 0": (3, 0.0, 6.0),
    "≤ 2 times, any correlation": (2, -1.0, 5.0),
    "3 times, any correlation": (3, -1.0, 6.0),
}


def fixed_alarms(screened: int, confirmed: int) -> tuple[list[Line], list[Line]]:
    """The page's table and all lines. The setting in which a test is worst is found with few studies of each setting,
    and simulated again with many others, since the worst of many is so by chance, too."""
    everywhere = [line for setting in fixed_settings() for line in fixed(setting, screened, list(TESTS))]
    table, worsts = [], []
    for name in TESTS:
        row: Line = {"test": name}
        for heading, (fold, least, _) in CLASSES.items():
            among = [
                line
                for line in everywhere
                if line["test"] == name
                and (line["fold"] == 3 if fold == 3 else line["fold"] <= 2)
                and line["correlation"] >= least
            ]
            worst = max(among, key=lambda line: line["any"])
            setting = {key: worst[key] for key in ("seeds", "rows", "correlation", "images", "spread", "fold")}
            (again,) = fixed(setting, confirmed, [name], again=1)
            worsts.append({**again, "of": "fixed, worst", "class": heading})
            row[heading] = proportion(again["any"], confirmed)
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
            if rows == 3 and correlation in (0.0, 0.2, 0.5):
                table[line["test"]][f"n = {n}, {correlation:g}"] = f"{line['mean']:.0%}"
    return list(table.values()), measured


def main(words: list[str] | None = None) -> int:
    made = measuring.arguments(__doc__)
    made.set_defaults(to=RESULTS)
    given = made.parse_args(words)
    few, many = (100, 400) if given.short else (2000, 40_000)
    measured: list[Line] = []
    alarms, lines = fixed_alarms(few, many)
    powers, more = fixed_power(few)
    measured += lines + more
    print("fixed numbers of seeds: done", file=sys.stderr)
    tables = {
        "A fixed number of seeds: false alarms of a table, in percent, where they are most": alarms,
        "A fixed number of seeds: power": powers,
    }
    notes = [f"{few} studies of each setting; the worst again with {many}."]
    measuring.write("verdicts", "Verdicts: whether they are right, and what they cost", tables, measured, notes, given)
    return 0


if __name__ == "__main__":
    sys.exit(main())
