"""Who proposes the designs of a search: none twice, none over the budget, the same ones on any number of workers."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable

import pytest
from optuna.samplers import PartialFixedSampler

from senet_lab.studies.proposals import ENUMERATE, LOCAL, SAMPLERS, Proposer
from senet_lab.studies.space import OFF, Candidate, Space, StageCost

# A Gaussian process takes a second to think.
PLAYED = [pytest.param(name, marks=pytest.mark.slow) if name == "gp" else name for name in SAMPLERS]
WORDS = [("avg", "max"), ("sigmoid", "tanh", "relu"), ("standard", "post")]


def made_up(*stages: int) -> Space:
    """`off`, 4, 16 are the levels of each stage; 64 and 128 build the same network in the last one."""
    levels = {f"se.reduction.{stage}": (OFF, 4, 16) for stage in stages}
    levels |= {"se.reduction.4": (OFF, 4, 64, 128)}
    levels |= dict(zip(("se.squeeze", "se.excitation", "se.position"), WORDS, strict=True))
    parts = {
        (key, words, level): StageCost((max(1, 64 // int(level)),), {"params": 8192 / int(level)})
        for key in list(levels)[: -len(WORDS)]
        for level in levels[key][1:]
        for words in itertools.product(*WORDS)
    }
    return Space(levels, {(): {"params": 75_000.0}}, parts)


SPACE = made_up(2, 3)
ERRORS = {design: random.Random(repr(design)).gauss(10, 2) for design in SPACE.designs()}


def values(design: Candidate) -> list[float]:
    """Error and parameters: good where the gate is a sigmoid, and better with more hidden units."""
    bonus = -4 if design[4] == "sigmoid" else 0
    params = SPACE.cost(design)["params"]
    return [ERRORS[design] + bonus - (params - 75_000) / 2000, params]


def play(asker: Proposer, order: Callable[[list[Candidate]], int] = lambda training: 0) -> list[Candidate]:
    """A whole search; `order` says which of the designs in training ends next."""
    training: list[Candidate] = []
    asked = []
    while True:
        while (design := asker.ask()) is not None:
            training.append(design)
            asked.append(design)
        if not training:
            return asked
        ended = training.pop(order(training))
        asker.tell(ended, values(ended))


@pytest.mark.parametrize("sampler", PLAYED)
def test_no_design_is_asked_for_twice_and_a_search_repeats_itself(sampler: str) -> None:
    trials = 16 if sampler == "gp" else 60
    asked = play(Proposer(SPACE, sampler, 1, 2, trials, pending=4))
    assert len(asked) == len(set(asked)) == trials
    assert all(SPACE.design(SPACE.params(design)) == design for design in asked)
    chaos = random.Random(3)
    again = play(Proposer(SPACE, sampler, 1, 2, trials, pending=4), lambda training: chaos.randrange(len(training)))
    assert again == asked, "in whatever order trainings end"
    assert play(Proposer(SPACE, sampler, 2, 2, trials, pending=4)) != asked


@pytest.mark.parametrize("sampler", ["nsga2", "tpe", "random", LOCAL])
def test_a_space_is_searched_to_its_end(sampler: str) -> None:
    """However often a sampler repeats itself."""
    space = made_up()
    asker = Proposer(space, sampler, 0, 2, 10_000, pending=2)
    asked = []
    while (design := asker.ask()) is not None:
        asked.append(design)
        asker.tell(design, [ERRORS[(OFF, OFF, *design)], space.cost(design)["params"]])
    assert sorted(map(repr, asked)) == sorted(map(repr, space.designs()))
    assert asker.finished
    assert asker.duplicates > 0 or sampler == LOCAL
    assert asker.drawn > 0


def apart(one: Candidate, other: Candidate) -> int:
    """In how many levels two designs differ."""
    return sum(mine != theirs for mine, theirs in zip(one, other, strict=True))


def test_local_walks_by_neighbours_of_the_front() -> None:
    """One at a time: each differs in one level from the best so far, which leads straight to a goal."""
    goal = (16, 16, 64, "max", "relu", "post")
    asker = Proposer(SPACE, LOCAL, 0, 1, 60, first=[(4, 4, 4, "avg", "tanh", "standard")])
    told: list[Candidate] = []
    while goal not in told:
        design = asker.ask()
        assert design is not None
        best = min((apart(each, goal) for each in told), default=0)
        front = [each for each in told if apart(each, goal) == best]
        assert not told or any(apart(design, each) == 1 for each in front)
        asker.tell(design, [apart(design, goal)])
        told.append(design)


@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
def test_a_sampler_alone_is_asked_again_and_what_is_drawn_is_any_design() -> None:
    """One that proposes the same design for ever."""
    asker = Proposer(SPACE, "nsga2", 0, 1, 30, near=False, patience=7)
    known = next(SPACE.designs())
    asker.study.sampler = PartialFixedSampler(asker.point(known), asker.study.sampler)
    asked = []
    while (design := asker.ask()) is not None:
        asked.append(design)
        asker.tell(design, [apart(design, known)])
    assert asked[0] == known
    assert (asker.duplicates, asker.drawn) == (29 * 7, 29)
    assert sum(apart(each, known) > 1 for each in asked) > 15


def test_every_design_is_enumerated_in_a_fixed_order_the_first_ones_first() -> None:
    designs = list(SPACE.designs())
    asker = Proposer(SPACE, ENUMERATE, 0, 2, len(designs), first=[designs[7], designs[3]])
    asked = [asker.ask() for _ in designs]
    assert asked == [designs[7], designs[3], *(each for at, each in enumerate(designs) if at not in (3, 7))]
    assert asker.ask() is None


@pytest.mark.parametrize("sampler", [*PLAYED, ENUMERATE])
@pytest.mark.parametrize("objectives", [1, 2])
def test_what_is_over_the_budget_is_never_asked_for(sampler: str, objectives: int) -> None:
    limit = 76_000.0
    trials = 14 if sampler == "gp" else 60
    asker = Proposer(
        SPACE,
        sampler,
        0,
        objectives,
        trials,
        pending=3,
        first=[next(SPACE.designs())],
        excess=lambda design: {"params": SPACE.cost(design)["params"] - limit},
    )
    asked = []
    while (design := asker.ask()) is not None:
        asked.append(design)
        asker.tell(design, values(design)[:objectives])
    within = [design for design in SPACE.designs() if SPACE.cost(design)["params"] <= limit]
    assert len(within) > 60
    assert len(asked) == trials
    assert set(asked) <= set(within)
    assert asked[0] == within[0]
    assert asker.infeasible > 0 or sampler in (LOCAL, ENUMERATE)


def test_designs_that_failed_do_not_stop_a_search() -> None:
    asker = Proposer(SPACE, "nsga2", 0, 2, 70, pending=4)
    asked = []
    while (design := asker.ask()) is not None:
        asked.append(design)
        asker.tell(design, None if design[4] == "relu" else values(design))
    assert len(set(asked)) == 70
    assert any(design[4] == "relu" for design in asked)


def test_no_more_are_asked_for_than_may_be_pending() -> None:
    asker = Proposer(SPACE, "tpe", 0, 2, 50, pending=3)
    first = [asker.ask() for _ in range(3)]
    assert asker.ask() is None
    assert not asker.finished
    assert first[1] is not None
    assert first[0] is not None
    asker.tell(first[1], values(first[1]))
    assert asker.ask() is None, "the first one comes first"
    asker.tell(first[0], values(first[0]))
    assert asker.ask() is not None
    assert asker.ask() is not None
    assert asker.ask() is None
