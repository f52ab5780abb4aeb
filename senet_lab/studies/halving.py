"""Successive halving for several objectives (after Li et al. 2020, ASHA), which Optuna does not have.

Each design is trained to the first rung (a number of epochs, of the full training's schedule) and stopped there; the
best share of the designs at a rung is promoted, which continues their trainings from their checkpoints to the next one.
A design that was stopped is promoted later if it comes to be among the best.

Designs are compared within a stratum of the first cost among the objectives: an expensive design that is a little more
accurate would otherwise stop every cheap one, and the front would have no cheap end. Costs are known before training,
so that the strata hold equally many designs of the space.

The sampler is told of a design when it reaches its first rung, and again with its final values when it is complete. It
is told of jobs in the order in which they were given, each when the job `pending` places later is requested. So the
jobs do not depend on the number or the speed of workers, as in `proposals`.
"""

from __future__ import annotations

import bisect
import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from senet_lab.studies.proposals import LISTED, Proposer, Values
from senet_lab.studies.space import Candidate, Space

SAMPLED = 1000  # designs by which the strata of a space too large to list are drawn


@dataclass(frozen=True)
class Job:
    """A design, and how far it is to be trained.

    Attributes:
        design: it.
        epochs: where to stop; None is the whole training.
    """

    design: Candidate
    epochs: int | None


class Halving:
    """Gives the jobs of one search.

    Args:
        asker: who proposes designs; it must not wait for results itself (`pending` without limit).
        rungs: epochs at which trainings stop, ascending; none for whole trainings only.
        keep: share of a rung's designs that is promoted.
        strata: how many classes of cost are compared apart.
        cost: of a design, to class it by; None makes one class.
        pending: how many jobs may be given before the sampler is told the result of the first of them.
        whole: designs that are trained to their end whatever becomes of them.
    """

    def __init__(
        self,
        asker: Proposer,
        rungs: Sequence[int],
        keep: float = 0.5,
        strata: int = 3,
        cost: Callable[[Candidate], float] | None = None,
        pending: int = 4,
        whole: Sequence[Candidate] = (),
    ) -> None:
        self.asker = asker
        self.steps: list[int | None] = [*rungs, None]
        self.keep = keep
        self.pending = pending
        self.whole = set(whole)
        self.cost = cost
        # The latency of all designs, say, takes long to know, and without rungs nothing is compared apart.
        self.edges = edges(asker.space, cost, strata) if cost is not None and rungs else []
        self.jobs: list[Job] = []
        self.told = 0  # how many of these the sampler was told of
        self.results: dict[Job, tuple[float, Values] | None] = {}
        self.at: list[dict[Candidate, float]] = [{} for _ in self.steps]  # of each rung: design → what it is ranked by
        self.promoted: list[set[Candidate]] = [set() for _ in self.steps]

    def next(self) -> Job | None:
        """The next job; None if nothing is left, or if a result must come first."""
        while len(self.jobs) - self.told >= self.pending:
            oldest = self.jobs[self.told]
            if oldest not in self.results:
                return None
            self.take(oldest)
        job = self.promotion() or self.new()
        while job is None and self.told < len(self.jobs) and self.jobs[self.told] in self.results:
            self.take(self.jobs[self.told])  # no new design is left, but results may still promote old ones
            job = self.promotion() or self.new()
        if job is None and self.told == len(self.jobs):
            job = self.promotion(at_least=1)
        if job is not None:
            self.jobs.append(job)
        return job

    def ended(self, job: Job, rank: float, values: Values | None) -> None:
        """Take the result of a job.

        Args:
            job: it.
            rank: what its design is compared by at this rung, the smaller, the better.
            values: its objectives, None if its training failed.
        """
        self.results[job] = None if values is None else (rank, values)

    # ----------------------------------------------------------------------------------------------------------- rungs

    def new(self) -> Job | None:
        """A job of the first rung for a design that was never tried."""
        design = self.asker.ask()
        return None if design is None else Job(design, None if design in self.whole else self.steps[0])

    def take(self, job: Job) -> None:
        """Rank a job's design by its result, and tell the sampler."""
        self.told += 1
        result = self.results[job]
        if result is None:
            self.asker.tell_sampler(job.design, None)
            return
        rank, values = result
        at = self.steps.index(job.epochs)
        self.at[at][job.design] = rank
        if job.epochs is None or at == 0:
            self.asker.tell_sampler(job.design, values)

    def promotion(self, at_least: int = 0) -> Job | None:
        """A job of the next rung for a design that is among the best at its rung, beginning with the highest rung."""
        for at in reversed(range(len(self.steps) - 1)):
            for stratum in range(len(self.edges) + 1):
                ranks = {design: rank for design, rank in self.at[at].items() if self.stratum(design) == stratum}
                best = sorted(ranks, key=lambda design: (ranks[design], repr(design)))
                for design in best[: max(math.floor(self.keep * len(best)), at_least)]:
                    if design not in self.promoted[at]:
                        self.promoted[at].add(design)
                        return Job(design, self.steps[at + 1])
        return None

    def stratum(self, design: Candidate) -> int:
        return 0 if self.cost is None else bisect.bisect_right(self.edges, self.cost(design))


def edges(space: Space, cost: Callable[[Candidate], float], strata: int) -> list[float]:
    """Costs between classes that hold equally many designs."""
    if space.size <= LISTED:
        costs = sorted(cost(design) for design in space.designs())
    else:
        draw = random.Random(0)
        points = ({key: draw.choice(levels) for key, levels in space.levels.items()} for _ in range(SAMPLED))
        costs = sorted(cost(space.design(point)) for point in points)
    return sorted({costs[len(costs) * number // strata] for number in range(1, strata)})
