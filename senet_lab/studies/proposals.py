"""Asks a sampler for new designs and tells it their results. Imports no torch.

Optuna's samplers propose points. A point stands for the design that it builds (`Space.design`) and is trained only if
the design is new and within the budget. For a known design the sampler is told the known result at once; for one over
the budget it is told a violated constraint (`set_constraint`). After `PATIENCE` such proposals in a row an untried
design is drawn, so that no sampler repeats itself for ever: one that differs in one level from a design on the front if
there is any. `local` draws every design so and uses no sampler.

Proposals depend on the space, the sampler, its seed and the results alone, not on the number or the speed of workers:
results are told in the order in which designs were asked for, each when the design `pending` places later is requested.
So an interrupted search continues by asking again from the start with the recorded results.
"""

from __future__ import annotations

import itertools
import random
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.samplers import BaseSampler, GPSampler, NSGAIISampler, RandomSampler, TPESampler
from optuna.trial import Trial, TrialState

from senet_lab.reports.pareto import on_front
from senet_lab.studies.space import Candidate, Space

PATIENCE = 1  # proposals in a row that need no training, before a design is drawn that was never tried
POPULATION = 10  # of NSGA-II: with Optuna's 50 a search of 100 designs is over after two generations
DRAWS = 10_000  # tries for a design that was never tried, in a space too large to list
LISTED = 20_000  # designs; smaller spaces are listed

LOCAL = "local"
SAMPLERS: dict[str, Callable[[int], BaseSampler]] = {
    "random": lambda seed: RandomSampler(seed=seed),
    "nsga2": lambda seed: NSGAIISampler(population_size=POPULATION, seed=seed),
    "tpe": lambda seed: TPESampler(seed=seed),
    "gp": lambda seed: GPSampler(seed=seed),
    LOCAL: lambda seed: RandomSampler(seed=seed),  # never asked: all designs are drawn
}
ENUMERATE = "enumerate"  # not Optuna's: every design once
CHOICES = (ENUMERATE, *SAMPLERS)

Values = Sequence[float]  # of the objectives, all of them to be minimised


class Proposer:
    """Proposes the designs of one search.

    Args:
        space: what may be proposed.
        sampler: one of `CHOICES`.
        seed: of the sampler.
        objectives: how many there are, all of them to be minimised.
        trials: how many designs are trained at most.
        pending: how many may be in training before the sampler is told the result of the first of them.
        first: designs of the space that are asked for before all others.
        excess: by how much a design is over each budget, by name; feasible where none is above 0. All designs are if
            there are no budgets.
        stand_in: what an infeasible design is told to be, given the worst values so far; a sampler with constraints
            looks at the excess instead.
        near: whether what is drawn is next to the front, where there is one; else it is any design.
        patience: proposals in a row that need no training, before a design is drawn.
    """

    def __init__(
        self,
        space: Space,
        sampler: str,
        seed: int,
        objectives: int,
        trials: int,
        pending: int = 1,
        first: Sequence[Candidate] = (),
        excess: Callable[[Candidate], Mapping[str, float]] = lambda design: {},
        near: bool = True,
        patience: int = PATIENCE,
    ) -> None:
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.space = space
        self.trials = trials
        self.pending = pending
        self.excess = excess
        self.first = [design for design in dict.fromkeys(first) if self.feasible(design)]
        self.random = random.Random(seed)
        self.near = near and sampler != "random"  # which looks at no results, as draws in its place then do not
        self.patience = 0 if sampler == LOCAL else patience
        self.asked: list[Candidate] = []  # in order; each of them is trained
        self.ever: set[Candidate] = set()  # the same, to look them up
        self.told = 0  # how many of these the sampler was told of
        self.results: dict[Candidate, Values | None] = {}  # None is a training that failed
        self.known: dict[Candidate, Values | None] = {}  # what the sampler was told
        self.open: dict[Candidate, list[Trial]] = {}  # the sampler's trials that wait for a design
        self.duplicates = self.infeasible = self.drawn = 0
        self.worst: list[float] = [0.0] * objectives
        self.exhausted = False
        self.listed = iter(space.designs()) if sampler == ENUMERATE else None
        self.untried: list[Candidate] | None = None  # listed when first needed
        self.distributions: dict[str, BaseDistribution] = {
            key: CategoricalDistribution(levels) for key, levels in space.varied.items()
        }
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            self.study = optuna.create_study(
                directions=["minimize"] * objectives,
                sampler=None if sampler == ENUMERATE else SAMPLERS[sampler](seed),
            )

    def feasible(self, design: Candidate) -> bool:
        return all(value <= 0 for value in self.excess(design).values())

    @property
    def finished(self) -> bool:
        """Whether no further design will be asked for."""
        return self.exhausted or len(self.asked) >= self.trials

    def ask(self) -> Candidate | None:
        """The next design to train; None if there is none (`finished`), or if a result must come first."""
        if self.finished:
            return None
        if self.listed is not None:
            design = next((each for each in itertools.chain(self.first, self.listed) if self.is_new(each)), None)
        else:
            while len(self.asked) - self.told >= self.pending:
                oldest = self.asked[self.told]
                if oldest not in self.results:
                    return None
                self.tell_sampler(oldest, self.results[oldest])
                self.told += 1
            design = self.propose()
        if design is None:
            self.exhausted = True
        else:
            self.asked.append(design)
            self.ever.add(design)
        return design

    def tell(self, design: Candidate, values: Values | None) -> None:
        """Take the result of a design; None if its training failed. The sampler is told in the order of the designs."""
        self.results[design] = values

    # -------------------------------------------------------------------------------------------------------- sampler

    def propose(self) -> Candidate | None:
        """A new design within the budget, from the sampler if it has one."""
        new = next((design for design in self.first if self.is_new(design)), None)
        in_vain = 0
        while True:
            if new is None and in_vain >= self.patience:
                new = self.draw()
                if new is None:
                    return None
                self.drawn += 1
            if new is not None:
                self.study.enqueue_trial(self.point(new))
            trial = self.question()
            design = self.space.design(trial.params)
            excess = self.excess(design)
            for name, value in excess.items():
                trial.set_constraint(name, value)
            if any(value > 0 for value in excess.values()):
                self.infeasible += 1
                self.study.tell(trial, self.worst)
            elif design in self.open:  # in training, or told already
                self.duplicates += 1
                self.answer(trial, design)
            else:
                self.open[design] = [trial]
                return design
            in_vain += 1

    def question(self) -> Trial:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            return self.study.ask(self.distributions)

    def answer(self, trial: Trial, design: Candidate) -> None:
        """Tell the sampler the result of a repeated design, or note to tell it later."""
        if not self.open[design]:  # told already
            self.report(trial, self.known[design])
        else:
            self.open[design].append(trial)

    def tell_sampler(self, design: Candidate, values: Values | None) -> None:
        """Tell the sampler the current result of a design, for every proposal of it that waits; if none waits, because
        an earlier result was told already, as one more trial."""
        if values is not None:
            worst = zip(self.worst, values, strict=True)
            self.worst = [max(pair) for pair in worst] if self.known else list(values)
        if self.listed is None and not self.open[design]:
            self.study.enqueue_trial(self.point(design))
            trial = self.question()
            for name, value in self.excess(design).items():
                trial.set_constraint(name, value)
            self.open[design].append(trial)
        self.known[design] = values
        for trial in self.open.pop(design, []):
            self.report(trial, values)
        self.open[design] = []

    def report(self, trial: Trial, values: Values | None) -> None:
        if values is None:
            self.study.tell(trial, state=TrialState.FAIL)
        else:
            self.study.tell(trial, list(values))

    # --------------------------------------------------------------------------------------------------------- spaces

    def point(self, design: Candidate) -> dict[str, Any]:
        """A design as the sampler has it: only what varies."""
        params = self.space.params(design)
        return {key: params[key] for key in self.distributions}

    def is_new(self, design: Candidate) -> bool:
        return design not in self.ever and self.feasible(design)

    def draw(self) -> Candidate | None:
        """A design that was never tried: a neighbour of the front, else any; None if none is left, or can be found."""
        near = [each for best in self.front() for each in self.neighbours(best)] if self.near else []
        return self.random.choice(near) if near else self.random_design()

    def front(self) -> list[Candidate]:
        """The designs that no other result dominates."""
        values = {design: found for design, found in self.known.items() if found is not None}
        if not values:
            return []
        best = on_front(list(values.values()))
        return [design for design, wins in zip(values, best, strict=True) if wins]

    def neighbours(self, design: Candidate) -> list[Candidate]:
        """The designs that were never tried and differ from this one in one level."""
        params = self.space.params(design)
        changed = ({**params, key: level} for key, levels in self.space.varied.items() for level in levels)
        return [near for near in dict.fromkeys(map(self.space.design, changed)) if self.is_new(near)]

    def random_design(self) -> Candidate | None:
        """A design that was never tried, at random."""
        if self.space.size <= LISTED:
            if self.untried is None:
                self.untried = [design for design in self.space.designs() if self.feasible(design)]
                self.random.shuffle(self.untried)
            while self.untried:
                design = self.untried.pop()
                if self.is_new(design):
                    return design
            return None
        for _ in range(DRAWS):
            params = {key: self.random.choice(levels) for key, levels in self.space.levels.items()}
            design = self.space.design(params)
            if self.is_new(design):
                return design
        return None
