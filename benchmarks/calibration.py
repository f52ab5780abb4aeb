"""Whether what tables and fronts tell is so: simulated studies, of which the truth is known.

    python -m benchmarks.calibration            a minute or two; nothing is trained
    python -m benchmarks.calibration --short

- "Could show" is told from a study's own seeds; in other studies the difference that it tells is then the true one, and
  80% of them should show it. Told by the spread of its seeds as if that were the true one, fewer do.
- A design's chance of being on the front is told from its seeds; of the designs that are told 20%, a fifth should be on
  the true front. Beside ours stand the plain bootstrap of the seeds and the multivariate t around the means.
- Where nothing differs: how often one of the paper's seven tables shows a difference, with the rows that they share,
  and how often a test passes at last if seeds are added until it does.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy import optimize

from benchmarks import measuring
from benchmarks.measuring import Line
from senet_lab.compose import compose
from senet_lab.reports import pareto
from senet_lab.reports.power import POWER, detectable_effect, power
from senet_lab.reports.statistics import ALPHA, holm, paired_t_test, standard_deviation

Array = NDArray[np.float64]
SEEDS = (3, 4, 5, 7, 10, 20)
ROWS = (1, 3, 5, 10)  # of a table, whose strictest level is 0.05 / rows
TABLES = ("ratio", "squeeze", "excitation", "stages", "position", "conv3x3", "nosqueeze")
LOOKS = ((5, 10), (3, 5, 10), (5, 10, 20), (3, 5, 10, 20), tuple(range(5, 21)))  # seeds at each test
TOLD = (0.0, 0.1, 0.3, 0.5, 0.7, 0.9, 1.0)  # edges of what is looked at together
# Heading → the true errors of designs from the cheapest to the dearest, in standard deviations of one training.
FRONTS: dict[str, Callable[[np.random.Generator, int], Array]] = {
    "designs that differ as their seeds do": lambda rng, k: rng.normal(0, 1, k),
    "designs that differ half as much": lambda rng, k: rng.normal(0, 0.5, k),
    "designs that gain by their cost": lambda rng, k: rng.normal(0, 0.3, k) + 2 * 0.5 ** np.arange(k),
}


def shown(n: int, rows: int, corrected: bool, studies: int) -> float:
    """Share of other studies that show what a study is told that it could show."""
    rng, level = np.random.default_rng(n), ALPHA / rows
    effect = detectable_effect(n, level) if corrected else known_effect(n, level)
    told = effect * standard_deviation(rng.normal(0, 1, (studies, n)))
    return float(np.mean(paired_t_test(rng.normal(told[:, None], 1, (studies, n))) <= level))


def known_effect(n: int, level: float) -> float:
    """The difference that n seeds show with 80% power, in standard deviations that are known."""
    return float(optimize.brentq(lambda effect: power(effect, n, level) - POWER, 1e-9, 1e4))


def bootstrap(errors: Array, costs: Array, draws: int) -> Array:
    """True errors drawn by taking the seeds again, those of all designs together: (draws, designs)."""
    seeds = errors.shape[1]
    return np.asarray(errors[:, np.random.default_rng(0).integers(0, seeds, (draws, seeds))].mean(axis=2).T)


def around_means(errors: Array, costs: Array, draws: int) -> Array:
    """True errors drawn from the multivariate t distribution around the means: (draws, designs)."""
    rng, (_, seeds) = np.random.default_rng(0), errors.shape
    means = errors.mean(axis=1)
    spread = np.sqrt(rng.chisquare(seeds - 1, (draws, 1)) / (seeds - 1))
    noise = rng.normal(size=(draws, seeds)) @ (errors - means[:, None]).T / np.sqrt(seeds * (seeds - 1))
    return np.asarray(means + noise / spread)


WAYS = {"bootstrap": bootstrap, "multivariate t": around_means, "ours": pareto.possible}


def told_chances(heading: str, n: int, designs: int, studies: int, draws: int) -> list[Line]:
    """A line a design and study: what each way tells, and whether the design is on the true front. The cheapest design,
    which is always on it, is left out."""
    rng = np.random.default_rng(designs)
    lines = []
    costs = np.arange(designs, dtype=float)[:, None]
    for _ in range(studies):
        truth = FRONTS[heading](rng, designs)
        errors = truth[:, None] + np.sqrt(0.5) * (rng.normal(size=(designs, n)) + rng.normal(size=n))
        told = {name: best(way(errors, costs, draws)).mean(axis=0) for name, way in WAYS.items()}
        on = best(truth[None])[0]
        for at in range(1, designs):
            chances = {name: float(chance[at]) for name, chance in told.items()}
            lines.append({"true": int(on[at]), **chances})
    return lines


def best(errors: Array) -> NDArray[np.bool_]:
    """Which designs are better than all that are cheaper: (draws, designs), the cheapest one first."""
    found = np.ones(errors.shape, dtype=bool)
    found[:, 1:] = errors[:, 1:] < np.minimum.accumulate(errors, axis=1)[:, :-1]
    return found


def binned(lines: list[Line]) -> list[Line]:
    """A line a way and a range of what it tells: how many designs, what they are told and how many are on the front."""
    made = []
    truth = np.array([line["true"] for line in lines])
    for name in WAYS:
        told = np.array([line[name] for line in lines])
        bins = np.clip(np.digitize(told, TOLD) - 1, 0, len(TOLD) - 2)
        for number, (low, high) in enumerate(itertools.pairwise(TOLD)):
            own = bins == number
            sums = {"designs": int(own.sum()), "told": float(told[own].sum()), "true": int(truth[own].sum())}
            made.append({"told by": name, "range": f"{low:.0%} to {high:.0%}", **sums})
    return made


def shares(parts: list[Line]) -> list[Line]:
    """A line a way: "told → true" for each range."""
    made: dict[str, Line] = {}
    for part in parts:
        many = part["designs"]
        both = f"{part['told'] / many:.0%} → {part['true'] / many:.0%}" if many >= 100 else "few"
        made.setdefault(part["told by"], {"told by": part["told by"]})[part["range"]] = both
    return list(made.values())


def false_alarms(n: int, runs: int) -> float:
    """Share of runs of the paper's tables of which one shows a difference, where all designs are alike but for their
    seeds; rows that tables share are the same trainings."""
    rng, alarms = np.random.default_rng(n), np.zeros(runs, dtype=bool)
    trained: dict[str, Array] = {}
    shared = rng.normal(size=(runs, n))
    for name in TABLES:
        composed = compose([f"+ablation={name}"])
        errors, pairs = {}, []
        study = composed.config.study
        assert study is not None
        for label, baseline in study.baselines().items():
            if label == "stage 5":
                continue  # not in the networks for small images
            design = repr({key: value for key, value in study.rows[label].items() if key.startswith("se")})
            design = SAME.get(design, design)
            errors[label] = trained.setdefault(design, shared + rng.normal(size=(runs, n)))
            pairs += [(label, baseline)] * (label != baseline)
        p = holm(np.stack([paired_t_test(errors[row] - errors[baseline]) for row, baseline in pairs], axis=-1))
        alarms |= (p <= ALPHA).any(axis=-1)
    return float(alarms.mean())


# Designs that are the default by other words.
SAME = dict.fromkeys(
    (
        "{'se.reduction': 16}",
        "{'se.squeeze': 'avg'}",
        "{'se.excitation': 'sigmoid'}",
        "{'se.position': 'standard'}",
        "{'se.stages': 'all'}",
    ),
    "SE",
)


def added(looks: tuple[int, ...], studies: int) -> float:
    """Share of comparisons of equal designs that pass at 5% at one of several looks at more and more seeds."""
    values = np.random.default_rng(len(looks)).normal(0, 1, (studies, looks[-1]))
    passed = np.zeros(studies, dtype=bool)
    for n in looks:
        passed |= paired_t_test(values[:, :n]) <= ALPHA
    return float(passed.mean())


def named(looks: tuple[int, ...]) -> str:
    return ", ".join(map(str, looks)) if len(looks) < 5 else f"{looks[0]}, {looks[1]}, … {looks[-1]}"


def main(words: list[str] | None = None) -> int:
    given = measuring.arguments(__doc__).parse_args(words)
    studies, fronts, draws = (2000, 30, 300) if given.short else (100_000, 1500, 1000)
    measured: list[Line] = []
    powers: list[Line] = []
    for n in SEEDS:
        line: Line = {"n": n}
        for rows in ROWS:
            plain, ours = (shown(n, rows, corrected, studies) for corrected in (False, True))
            line[f"0.05 / {rows}"] = f"{ours:.0%} (else {plain:.0%})"
            measured.append({"of": "could show", "n": n, "rows": rows, "share": ours, "plugged in": plain})
        powers.append(line)
    print("could show: done", file=sys.stderr)
    chances: dict[str, list[Line]] = {}
    for heading in FRONTS:
        for n in (5, 10):
            lines = [each for k in (4, 6, 12) for each in told_chances(heading, n, k, fronts, draws)]
            parts = binned(lines)
            chances[f"Chances of being on the front, {n} seeds, {heading}: told → true"] = shares(parts)
            measured += [{"of": "chance", "fronts": heading, "n": n, **each} for each in parts]
        print(f"{heading}: done", file=sys.stderr)
    alarms = {n: false_alarms(n, studies // 5) for n in (3, 5, 10)}
    looks = {named(each): added(each, studies) for each in LOOKS}
    measured += [{"of": "seven tables", "n": n, "share": share} for n, share in alarms.items()]
    measured += [{"of": "seeds added", "n": seen, "share": share} for seen, share in looks.items()]
    tables = {
        "Power of the difference that “could show” tells, by n and the strictest level": powers,
        **chances,
        "Where nothing differs: one of the paper's seven tables shows a difference": [
            {"n": n, "false alarms": f"{share:.1%}"} for n, share in alarms.items()
        ],
        "Where nothing differs: a test passes at 5%, if seeds are added until it does": [
            {"seeds at each test": seen, "false alarms": f"{share:.1%}"} for seen, share in looks.items()
        ],
    }
    notes = [
        "Goal: told 80%, true 75 to 85%; chances within 5 points. In brackets: the spread of a study's own seeds taken "
        "for the true one.",
        "Simulated normal errors; half of the variance of one training is its seed's, which all designs share. Fronts "
        "of 4, 6 and 12 designs, the cheapest left out, since it is always on the front; “few”: fewer than 100.",
        "The seven tables are the ablations of a network with stages 2 to 4; designs that several of them have are the "
        "same trainings.",
    ]
    measuring.write("calibration", "What tables and fronts tell, and what is true", tables, measured, notes, given)
    return 0


if __name__ == "__main__":
    sys.exit(main())
