"""The space of a search: which designs there are, which of them are one and the same, and what each costs.

A design is a tuple of levels, one for each parameter of the space: the reductions of SE stage by stage
(`se.reduction.2`, …), its words (`se.squeeze`, …), and whatever else is varied (`recipe.lr`, …). Points that train the
same network alike are one design: without SE in any stage its words say nothing, and two reductions that leave the same
hidden widths are one. Costs add up over the stages, so that the cheapest design of a space of millions is found without
building more than a network for each level. Knows no torch: a search is replayed from its tables, too.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from senet_lab.config import UserError, reduction_number

Level = int | float | str | bool
Candidate = tuple[Level, ...]

OFF = "off"  # a stage without SE
REDUCTION = "se.reduction"
WORDS = ("se.squeeze", "se.excitation", "se.position", "se.kind")
SE_FACTORS = (REDUCTION, *WORDS)


def stage_key(stage: int) -> str:
    """The parameter that holds the reduction of a stage."""
    return f"{REDUCTION}.{stage}"


def read_levels(
    space: Mapping[str, object], stages: Sequence[int], fixed: Mapping[str, Level], others: Sequence[str] = ()
) -> dict[str, Candidate]:
    """The levels of each parameter, as a search's YAML has them: first the reductions, stage by stage, then the words,
    then other factors.

    Args:
        space: factor → its levels, as in `Search.space`.
        stages: the stages that the network has.
        fixed: parameter of SE → the one level of whatever `space` leaves out.
        others: factors that may be varied beside those of SE.

    Raises:
        UserError: for an empty space, an unknown factor or stage, a level that is none, or one that is there twice.
    """
    if not space:
        raise UserError(
            f"the space is empty: search.space has no factor; there are {', '.join((*SE_FACTORS, *others))}"
        )
    for factor in space:
        if factor not in (*SE_FACTORS, *others):
            known = ", ".join((*SE_FACTORS, *others))
            raise UserError(f"search.space: there is no factor '{factor}'; there are {known}")
    levels: dict[str, Candidate] = {}
    reductions = space.get(REDUCTION)
    by_stage = reductions if isinstance(reductions, Mapping) else dict.fromkeys(stages, reductions)
    for stage in by_stage:
        if stage not in stages:
            has = ", ".join(map(str, stages))
            raise UserError(f"search.space.{REDUCTION}: the network has no stage {stage}; it has {has}")
    for stage in stages:
        key = stage_key(stage)
        if reductions is None:
            levels[key] = (fixed[key],)
        else:
            levels[key] = checked_levels(key, by_stage[stage]) if stage in by_stage else (OFF,)
    for word in WORDS:
        levels[word] = checked_levels(word, space[word]) if word in space else (fixed[word],)
    if all(set(levels[stage_key(stage)]) == {OFF} for stage in stages):
        raise UserError(f"the space is empty: search.space.{REDUCTION} switches SE off in every stage")
    return levels | {factor: checked_levels(factor, space[factor]) for factor in space if factor not in SE_FACTORS}


def checked_levels(key: str, given: object) -> Candidate:
    """A list of levels, checked as far as can be without a network; a UserError where it is none."""
    where = f"search.space.{key}"
    if not isinstance(given, list) or not given:
        raise UserError(f"{where}: {given!r} is not a list of levels such as {example(key)}")
    levels: list[Level] = []
    for level in given:
        if key.startswith(REDUCTION):
            off = level is False or level == OFF  # YAML reads off as false
            try:
                levels.append(OFF if off else reduction_number(level))
            except ValueError:
                raise UserError(f"{where}: {level!r} is neither off nor a whole number of at least 1") from None
        elif key in WORDS:
            levels.append(str(level))
        elif isinstance(level, (int, float, str)):
            levels.append(level)
        else:
            raise UserError(f"{where}: {level!r} is neither a number nor a word")
    twice = next((level for level in levels if levels.count(level) > 1), None)
    if twice is not None:
        raise UserError(f"{where}: {twice} is there twice")
    return tuple(levels)


def example(key: str) -> str:
    return "[off, 4, 16]" if key.startswith(REDUCTION) else "[avg, max]" if key.endswith("squeeze") else "[…]"


@dataclass(frozen=True)
class StageCost:
    """The hidden widths of SE in one stage, block by block, and its cost by metric (`params`, `macs`)."""

    hidden: tuple[int, ...]
    cost: Mapping[str, float]


@dataclass(frozen=True)
class Space:
    """Every design of a search.

    Attributes:
        levels: parameter → its levels; the reductions of the stages first, then the `WORDS` of the gates, then other
            factors.
        plain: levels of the other factors → the plain network's cost by metric.
        parts: (stage key, words, level) → what it adds, for every level but `off`. `words` are the levels of
            `WORDS` and the other factors.
    """

    levels: Mapping[str, Candidate]
    plain: Mapping[Candidate, Mapping[str, float]]
    parts: Mapping[tuple[str, Candidate, Level], StageCost]

    @property
    def metrics(self) -> list[str]:
        """What a design costs, by name."""
        return list(next(iter(self.plain.values())))

    @property
    def stages(self) -> list[str]:
        return [key for key in self.levels if key.startswith(REDUCTION)]

    @property
    def gate_words(self) -> list[str]:
        """Those of `WORDS` that it has; a recorded space may be older than one of them."""
        return [word for word in WORDS if word in self.levels]

    @property
    def others(self) -> list[str]:
        """The factors that are none of SE's."""
        return [key for key in self.levels if key not in WORDS and not key.startswith(REDUCTION)]

    @property
    def varied(self) -> dict[str, Candidate]:
        """The parameters that have more than one level: what a sampler is asked for."""
        return {key: levels for key, levels in self.levels.items() if len(levels) > 1}

    @property
    def size(self) -> int:
        """Points, however many of them build the same network."""
        return math.prod(len(levels) for levels in self.levels.values())

    # -------------------------------------------------------------------------------------------------------- designs

    def words(self) -> Iterator[Candidate]:
        """Every combination of the `WORDS` of the gates and the other factors."""
        yield from itertools.product(*(self.levels[word] for word in (*self.gate_words, *self.others)))

    def settings(self) -> Iterator[Candidate]:
        """Every combination of the other factors."""
        yield from itertools.product(*(self.levels[key] for key in self.others))

    def setting(self, design: Candidate) -> Candidate:
        """A design's levels of the other factors."""
        return design[len(self.levels) - len(self.others) :]

    def distinct_levels(self, stage: str, words: Candidate) -> Candidate:
        """The levels of a stage that build different networks, each the first of its kind."""
        by_widths: dict[tuple[int, ...], Level] = {}
        for level in self.levels[stage]:
            by_widths.setdefault(() if level == OFF else self.parts[stage, words, level].hidden, level)
        return tuple(by_widths.values())

    def design(self, params: Mapping[str, Level]) -> Candidate:
        """The one form of all points that build the same network as `params` do; missing parameters have one level."""
        point = {key: params.get(key, levels[0]) for key, levels in self.levels.items()}
        words = tuple(point[word] for word in (*self.gate_words, *self.others))
        for stage in self.stages:
            if point[stage] != OFF:
                width = self.parts[stage, words, point[stage]].hidden
                same = (each for each in self.levels[stage] if each != OFF)
                point[stage] = next(each for each in same if self.parts[stage, words, each].hidden == width)
        if all(point[stage] == OFF for stage in self.stages):
            point |= {word: self.levels[word][0] for word in self.gate_words}
        return tuple(point.values())

    def params(self, design: Candidate) -> dict[str, Level]:
        return dict(zip(self.levels, design, strict=True))

    def is_plain(self, design: Candidate) -> bool:
        return all(level == OFF for level in design[: len(self.stages)])

    def distinct(self) -> int:
        """How many different networks there are, without listing them."""
        switched_off = all(OFF in self.levels[stage] for stage in self.stages)
        each = (math.prod(len(self.distinct_levels(stage, words)) for stage in self.stages) for words in self.words())
        return sum(number - switched_off for number in each) + switched_off * len(self.plain)

    def designs(self) -> Iterator[Candidate]:
        """Every different design once, always in the same order: those of plain networks first, if they are among
        them."""
        if all(OFF in self.levels[stage] for stage in self.stages):
            for setting in self.settings():
                yield self.design({**dict.fromkeys(self.stages, OFF), **dict(zip(self.others, setting, strict=True))})
        for words in self.words():
            for reductions in itertools.product(*(self.distinct_levels(stage, words) for stage in self.stages)):
                if any(level != OFF for level in reductions):
                    yield (*reductions, *words)

    # ----------------------------------------------------------------------------------------------------------- cost

    def cost(self, design: Candidate) -> dict[str, float]:
        """Cost of a design by metric."""
        words = design[len(self.stages) :]
        total = dict(self.plain[self.setting(design)])
        for stage, level in zip(self.stages, design, strict=False):
            if level != OFF:
                for metric, value in self.parts[stage, words, level].cost.items():
                    total[metric] += value
        return total

    def extreme(self, metric: str, *, dearest: bool = False) -> Candidate:
        """The cheapest design (or the dearest) by a metric, without listing them all; the first one of several."""
        choose = max if dearest else min
        candidates = []
        for words in self.words():
            levels: list[Level] = []
            for stage in self.stages:
                adds = {
                    level: 0.0 if level == OFF else self.parts[stage, words, level].cost[metric]
                    for level in self.distinct_levels(stage, words)
                }
                levels.append(choose(adds, key=lambda level: adds[level]))
            candidates.append(self.design(dict(zip(self.levels, (*levels, *words), strict=True))))
        return choose(candidates, key=lambda design: self.cost(design)[metric])


def design_text(space: Space, design: Candidate) -> str:
    """A design in a few words, of what varies: `r 4/16/off, max, tanh`."""
    params = space.params(design)
    others = [f"{key.rpartition('.')[2]} {params[key]}" for key in space.others if key in space.varied]
    if space.is_plain(design):
        return ", ".join(["no SE", *others])
    reductions = [str(params[stage]) for stage in space.stages]
    same = len(set(reductions)) == 1
    words = [str(params[word]) for word in WORDS if word in space.varied]
    return ", ".join([f"r {reductions[0] if same else '/'.join(reductions)}", *words, *others])


def amount(value: float) -> str:
    """A cost as people read it."""
    return f"{value:,.0f}" if value >= 1000 else f"{value:.4g}"
