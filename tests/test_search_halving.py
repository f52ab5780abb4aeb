"""Successive halving: who is promoted, what it saves, that cheap designs do not starve, that it repeats itself."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from test_search_proposals import ERRORS, SPACE, values
from test_training_spec import spec_of

from senet_lab.studies.halving import Halving, Job, edges
from senet_lab.studies.proposals import Proposer
from senet_lab.studies.space import Candidate
from senet_lab.training import trial

RUNGS = (6, 12)
WHOLE = 24


def cost(design: Candidate) -> float:
    return SPACE.cost(design)["params"]


def after(job: Job) -> list[float]:
    """Objectives of a design at a rung: larger by the same for all, so that ranks at a rung are those at the end."""
    error, params = values(job.design)
    return [error + {6: 40, 12: 20, None: 0}[job.epochs], params]


def play(halving: Halving, order: Callable[[list[Job]], int] = lambda training: 0) -> list[Job]:
    training: list[Job] = []
    while True:
        while (job := halving.next()) is not None:
            training.append(job)
        if not training:
            return halving.jobs
        ended = training.pop(order(training))
        found = after(ended)
        halving.ended(ended, found[0], found)


def halving(trials: int = 60, strata: int = 3, **other: object) -> Halving:
    asker = Proposer(SPACE, "nsga2", 1, 2, trials, pending=trials)
    return Halving(asker, RUNGS, 0.5, strata, cost, pending=4, **other)  # type: ignore[arg-type]


def test_half_of_each_class_of_cost_goes_on_and_it_is_the_better_half() -> None:
    played = halving()
    jobs = play(played)
    assert len(jobs) == len(set(jobs)), "nothing is trained twice"
    asked = [job.design for job in jobs if job.epochs == 6]
    assert len(asked) == 60
    for below, above in ((6, 12), (12, None)):
        for stratum in range(3):
            there = [job.design for job in jobs if job.epochs == below and played.stratum(job.design) == stratum]
            on = {job.design for job in jobs if job.epochs == above and played.stratum(job.design) == stratum}
            assert on <= set(there)
            assert len(on) >= len(there) // 2 >= 1
            best = sorted(there, key=lambda design: values(design)[0])[: len(there) // 2]
            assert set(best) <= on, "whoever is among the best in the end was promoted, if late"
    epochs = 6 * len(asked) + sum({12: 6, None: 12}.get(job.epochs, 0) for job in jobs if job.epochs != 6)
    assert epochs < 0.65 * WHOLE * len(asked)


def test_without_rungs_no_costs_are_asked_for() -> None:
    """As a latency would have to be measured of every design."""

    def dear(design: Candidate) -> float:
        raise AssertionError

    asker = Proposer(SPACE, "nsga2", 1, 2, 20, pending=20)
    assert len(play(Halving(asker, (), 0.5, 3, dear, pending=4))) == 20


def test_without_classes_of_cost_the_cheap_ones_starve() -> None:
    """Where parameters buy accuracy, as they do here."""
    ends = {}
    for strata in (1, 3):
        jobs = play(halving(strata=strata))
        limit = edges(SPACE, cost, 3)[0]
        ends[strata] = sum(cost(job.design) < limit for job in jobs if job.epochs is None)
    assert ends[3] > ends[1]


def test_the_classes_hold_equally_many_designs() -> None:
    low, high = edges(SPACE, cost, 3)
    sizes = Counter((cost(design) >= low) + (cost(design) >= high) for design in SPACE.designs())
    assert max(sizes.values()) < 1.6 * min(sizes.values()), "as equally as equal costs allow"


def test_jobs_are_the_same_in_whatever_order_trainings_end() -> None:
    chaos = random.Random(5)
    jobs = play(halving())
    assert play(halving(), lambda training: chaos.randrange(len(training))) == jobs


def test_some_designs_are_trained_to_their_end_at_once() -> None:
    design = next(SPACE.designs())
    asker = Proposer(SPACE, "nsga2", 1, 2, 20, pending=20, first=[design])
    jobs = play(Halving(asker, RUNGS, 0.5, 3, cost, pending=4, whole=[design]))
    assert jobs[0] == Job(design, None)
    assert [job.epochs for job in jobs[1:] if job.design == design] == []


def test_a_design_that_fails_is_not_promoted() -> None:
    played = halving(trials=30)
    while (job := played.next()) is not None:
        failed = job.design[4] == "relu"
        played.ended(job, after(job)[0], None if failed else after(job))
    assert {job.epochs for job in played.jobs if job.design[4] == "relu"} == {6}
    assert sum(job.epochs is None for job in played.jobs) >= 3


def test_without_rungs_every_design_is_trained_to_its_end() -> None:
    asker = Proposer(SPACE, "random", 1, 2, 20, pending=20)
    assert [job.epochs for job in play(Halving(asker, (), cost=cost))] == [None] * 20
    assert len(ERRORS) == SPACE.distinct()


def test_a_training_that_was_stopped_and_promoted_is_the_training_that_was_not(tmp_path: Path) -> None:
    """Same schedule, same numbers, to the last digit; stopped, it leaves no metrics of the test images."""
    spec = spec_of("recipe.epochs=3", "data.subset=60", "data.test_subset=60")
    whole = trial.run_trial(spec, tmp_path / "whole.ckpt", lambda epoch: None)
    first = trial.run_trial(spec, tmp_path / "rungs.ckpt", lambda epoch: None, until=1)
    assert first == {"epochs": whole["epochs"][:1]}
    second = trial.run_trial(spec, tmp_path / "rungs.ckpt", lambda epoch: None, until=2)
    assert second == {"epochs": whole["epochs"][:2]}
    last = trial.run_trial(spec, tmp_path / "rungs.ckpt", lambda epoch: None)
    assert (last["epochs"], last["metrics"]) == (whole["epochs"], whole["metrics"])


@pytest.mark.parametrize("rungs", [[0], [3, 3], [6, 2]])
def test_rungs_ascend(rungs: list[int]) -> None:
    from senet_lab.config import Search, UserError
    from senet_lab.studies import search_objectives

    with pytest.raises(UserError, match=r"search\.rungs="):
        search_objectives.check_search(Search(rungs=rungs), epochs=10)
    with pytest.raises(UserError, match=r"below recipe\.epochs=4"):
        search_objectives.check_search(Search(rungs=[2, 4]), epochs=4)
